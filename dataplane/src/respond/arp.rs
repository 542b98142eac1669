//! ARP replies.
