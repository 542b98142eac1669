//! (tunnel)
