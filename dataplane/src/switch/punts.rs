//! Packet-ins: from the workers to whoever listens, each with a bounded queue of its own; those of the fabric's own
//! rules to [`Destinations`].

use super::destinations::Destinations;
use crate::drop::DropReason;
use crate::egress::PuntSink;
use crate::limits::{PUNT_LISTENERS, PUNT_QUEUE};
use arc_swap::ArcSwap;
use std::sync::Mutex;
use tokio::sync::mpsc::{self, error::TrySendError};
use weft_proto::FIRST_FABRIC_PUNT;
use weft_proto::fault::Fault;
use weft_proto::v1;

/// The listeners. Workers read the list without a lock.
#[derive(Default)]
pub struct PuntHub {
    listeners: ArcSwap<Vec<mpsc::Sender<v1::PacketIn>>>,
    /// Held by who changes the list.
    changing: Mutex<()>,
    /// What the controller is asked for.
    pub destinations: Destinations,
}

impl PuntHub {
    /// Enrols a listener; dropping the receiver ends it.
    ///
    /// # Errors
    /// There are [`PUNT_LISTENERS`] already.
    ///
    /// # Panics
    /// If a thread panicked under the lock.
    pub fn listen(&self) -> Result<mpsc::Receiver<v1::PacketIn>, Fault> {
        let _alone = self.changing.lock().expect("no panic under this lock");
        let mut listeners: Vec<_> =
            self.listeners.load().iter().filter(|listener| !listener.is_closed()).cloned().collect();
        if listeners.len() >= PUNT_LISTENERS {
            return Err(Fault::invalid(
                "too_many_listeners",
                "",
                format!("{PUNT_LISTENERS} programs are listening for punted packets already"),
                "End one of them first.",
            )
            .with_status(tonic::Code::ResourceExhausted));
        }
        let (sender, receiver) = mpsc::channel(PUNT_QUEUE);
        listeners.push(sender);
        self.listeners.store(listeners.into());
        Ok(receiver)
    }
}

impl PuntSink for PuntHub {
    fn punt(&self, packet: v1::PacketIn) -> Result<(), DropReason> {
        if packet.reason >= FIRST_FABRIC_PUNT {
            return self.destinations.take(packet, crate::clock::now());
        }
        let mut result = Err(DropReason::NoListener);
        for listener in self.listeners.load().iter() {
            match listener.try_send(packet.clone()) {
                Ok(()) => result = Ok(()),
                Err(TrySendError::Full(_)) if result.is_err() => result = Err(DropReason::PuntOverrun),
                Err(_) => {}
            }
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_needs_a_listener_that_keeps_up() {
        let hub = PuntHub::default();
        let packet = || v1::PacketIn { in_port: 1, ..Default::default() };
        assert_eq!(hub.punt(packet()), Err(DropReason::NoListener));
        let mut slow = hub.listen().unwrap();
        for _ in 0..PUNT_QUEUE {
            assert_eq!(hub.punt(packet()), Ok(()));
        }
        assert_eq!(hub.punt(packet()), Err(DropReason::PuntOverrun));
        let quick = hub.listen().unwrap();
        assert_eq!(hub.punt(packet()), Ok(()), "one listener that takes it is enough");
        drop(quick);
        assert_eq!(slow.try_recv().unwrap().in_port, 1);
        drop(slow);
        assert_eq!(hub.punt(packet()), Err(DropReason::NoListener));
    }

    #[test]
    fn listeners_are_bounded_and_those_gone_do_not_count() {
        let hub = PuntHub::default();
        let mut all: Vec<_> = (0..PUNT_LISTENERS).map(|_| hub.listen().unwrap()).collect();
        assert_eq!(hub.listen().unwrap_err().code, "too_many_listeners");
        all.pop();
        assert!(hub.listen().is_ok());
    }
}
