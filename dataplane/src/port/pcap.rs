//! (pcap)
