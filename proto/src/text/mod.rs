//! Rules as a person reads and writes them.
