//! (af_xdp)
