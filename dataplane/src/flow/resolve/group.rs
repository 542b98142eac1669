//! Groups in a walk: which buckets a packet goes to, each as a branch, and on what that depends.

use super::{ActionSet, Observer, Walk};
use crate::drop::DropReason;
use crate::flow::effect::{Branch, BucketName, Effect};
use crate::flow::group::{Bucket, Group, Kind};
use crate::flow::groups::group_partition;
use crate::flow::log::{Passed, TOPOLOGY};
use crate::flow::rule::Rule;
use crate::packet::header::protocol;
use crate::topology::PortKind;
use foldhash::fast::FixedState;
use std::hash::BuildHasher;
use std::sync::Arc;
use weft_proto::v1::Field;

impl Walk<'_> {
    /// A copy of the packet to one or more buckets.
    pub(super) fn group(
        &mut self,
        number: u32,
        rule: &Arc<Rule>,
        observer: &mut impl Observer,
    ) -> Result<(), DropReason> {
        let id = (rule.id.owner, number);
        self.topology.push(Passed { table: TOPOLOGY, partition: Some(group_partition(id)), others: false });
        let Some(group) = self.view.state.groups.at(id, self.view.version) else {
            // Rules that name it are refused: it cannot be.
            return Err(DropReason::NoLiveBucket);
        };
        self.counted.push(group.counters.clone());
        let chosen = match group.kind {
            Kind::All => {
                return (0..group.buckets.len()).try_for_each(|index| self.bucket(group, index, rule, observer));
            }
            Kind::Indirect => Some(0),
            Kind::Select => {
                let flow = self.flow_hash();
                group.choose(flow, |bucket| self.is_alive(bucket))
            }
            Kind::FastFailover => group.buckets.iter().position(|bucket| self.is_alive(bucket)),
        };
        match chosen {
            Some(index) => self.bucket(group, index, rule, observer),
            None => {
                let of = Some(BucketName { group: number, bucket: None });
                let drop = Some(DropReason::NoLiveBucket);
                self.effects.push(Effect::Branch(Box::new(Branch { of, effects: Vec::new(), drop })));
                Ok(())
            }
        }
    }

    fn bucket(
        &mut self,
        group: &Group,
        index: usize,
        rule: &Arc<Rule>,
        observer: &mut impl Observer,
    ) -> Result<(), DropReason> {
        let Some(bucket) = group.buckets.get(index) else { return Ok(()) };
        self.counted.push(bucket.counters.clone());
        let name = BucketName { group: group.id.1, bucket: Some(index as u32) };
        self.branch(Some(name), observer, |walk, observer| {
            walk.set = ActionSet::default();
            bucket.actions.iter().for_each(|action| walk.set.merge(action, rule));
            walk.execute_action_set(rule, observer)
        })
    }

    fn is_alive(&mut self, bucket: &Bucket) -> bool {
        let Some(port) = bucket.watch else { return true };
        self.pass_topology(&port.to_be_bytes());
        match self.view.topology.ports.get(&port).map(|info| &info.kind) {
            Some(PortKind::Device { up, .. }) => *up,
            Some(_) => true,
            None => false,
        }
    }

    /// What is the same for all packets of a flow, as they are now.
    fn flow_hash(&mut self) -> u64 {
        let fields: &[Field] = match u16::from_be_bytes(self.key.eth_type) {
            0x0800 => &[Field::EthType, Field::IpProto, Field::Ipv4Src, Field::Ipv4Dst],
            0x86dd => &[Field::EthType, Field::IpProto, Field::Ipv6Src, Field::Ipv6Dst],
            _ => &[Field::EthType, Field::EthSrc, Field::EthDst],
        };
        self.consult(Field::EthType);
        let mut bytes = Vec::with_capacity(48);
        for &field in fields {
            self.consult(field);
            bytes.extend_from_slice(self.key.field(field));
        }
        if fields.contains(&Field::IpProto) {
            // All fragments of a datagram go one way, and not all of them have ports.
            self.consult(Field::IpFrag);
            let ports = match self.key.ip_proto {
                protocol::TCP => [Field::TcpSrc, Field::TcpDst],
                protocol::UDP => [Field::UdpSrc, Field::UdpDst],
                protocol::SCTP => [Field::SctpSrc, Field::SctpDst],
                _ => return FixedState::default().hash_one(bytes),
            };
            if self.key.ip_frag == 0 {
                for field in ports {
                    self.consult(field);
                    bytes.extend_from_slice(self.key.field(field));
                }
            }
        }
        FixedState::default().hash_one(bytes)
    }
}
