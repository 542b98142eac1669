//! The counters of switches at a moment, of all of them at once: one that does not answer holds up nobody.

use crate::connect::{Connection, Transport};
use crate::failure::{Failure, system};
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use weft_proto::v1::switch_client::SwitchClient;
use weft_proto::v1::{CacheEntry, DumpCacheRequest, GetStatusRequest, ListPortsRequest, PortStatus, SwitchStatus};

/// How long a switch may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Entries of its flow caches that a switch tells, of those with most packets.
pub const FLOWS: u32 = 2000;

/// See the module comment.
#[derive(Debug)]
pub struct Snapshot {
    /// When it was taken.
    pub time: Instant,
    pub status: SwitchStatus,
    pub ports: Vec<PortStatus>,
    pub cache: Vec<CacheEntry>,
}

/// Connections to switches, kept from look to look.
#[derive(Default)]
pub struct Switches(HashMap<String, SwitchClient<Transport>>);

impl Switches {
    /// Asks all of these hosts; gives the answers, and who gave none, with why.
    pub async fn ask(
        &mut self,
        hosts: &[String],
        connection: &Connection,
    ) -> (HashMap<String, Snapshot>, Vec<(String, Failure)>) {
        let mut asked = JoinSet::new();
        for host in hosts {
            let (host, connection, known) = (host.clone(), connection.clone(), self.0.remove(host));
            asked.spawn(async move {
                let answer = tokio::time::timeout(PATIENCE, take(&host, known, &connection)).await;
                (host, answer)
            });
        }
        let (mut snapshots, mut silent) = (HashMap::new(), Vec::new());
        while let Some(done) = asked.join_next().await {
            match done {
                Ok((host, Ok(Ok((switch, snapshot))))) => {
                    self.0.insert(host.clone(), switch);
                    snapshots.insert(host, snapshot);
                }
                Ok((host, Ok(Err(failure)))) => silent.push((host, failure)),
                Ok((host, Err(_))) => silent.push((host.clone(), too_slow(&host))),
                // A panic has said why.
                Err(_) => {}
            }
        }
        silent.sort_by(|(one, _), (other, _)| one.cmp(other));
        (snapshots, silent)
    }
}

async fn take(
    host: &str,
    known: Option<SwitchClient<Transport>>,
    connection: &Connection,
) -> Result<(SwitchClient<Transport>, Snapshot), Failure> {
    let mut switch = match known {
        Some(switch) => switch,
        None => connection.switch(host).await?,
    };
    // The moment of the ports' counters, which matter most.
    let ports = switch.list_ports(ListPortsRequest {}).await?.into_inner().ports;
    let time = Instant::now();
    let status = switch.get_status(GetStatusRequest {}).await?.into_inner();
    let cache = switch.dump_cache(DumpCacheRequest { limit: FLOWS }).await?.into_inner().entries;
    Ok((switch, Snapshot { time, status, ports, cache }))
}

fn too_slow(host: &str) -> Failure {
    let problem = format!("the switch of {host} did not answer within {} s", PATIENCE.as_secs());
    system("host_timeout", problem, "Try again; if it stays so, look at the switch's log.").into()
}
