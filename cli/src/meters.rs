//! `weft meters`: rates that rules hold packets to, as `ovs-ofctl add-meter`, `del-meter` and `dump-meters` have them.

use crate::connect::Connection;
use crate::failure::Failure;
use crate::json;
use crate::output::{Output, Table, count};
use weft_proto::text;
use weft_proto::v1::{Bundle, ListMetersRequest};

/// The commands of `weft meters`.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Makes meters, or changes those there are, all at once or none; rules name them as meter:N.
    ///
    /// For example: weft meters add web meter=1,kbps,rate=10000,burst_size=1000
    Add {
        /// A host's name, or unix:PATH.
        host: String,
        /// A meter, as in meter=1,pktps,rate=100.
        #[arg(required = true)]
        meter: Vec<String>,
    },
    /// Removes meters that no rule names.
    Del {
        /// A host's name, or unix:PATH.
        host: String,
        /// Their numbers.
        #[arg(required = true)]
        number: Vec<u32>,
    },
    /// Shows meters: the rules that name them, what came to them, what of it was dropped.
    Dump {
        /// A host's name, or unix:PATH.
        host: String,
    },
}

/// Runs one of the commands.
pub async fn run(command: Command, connection: &Connection, output: Output) -> Result<(), Failure> {
    match command {
        Command::Add { host, meter } => {
            let mut set_meters = Vec::with_capacity(meter.len());
            for line in &meter {
                set_meters.push(text::parse_meter(line)?);
            }
            let text = format!("{} set on {host}.", count(set_meters.len() as u64, "meter"));
            apply(&host, Bundle { set_meters, ..Bundle::default() }, &text, connection, output).await
        }
        Command::Del { host, number } => {
            let text = format!("{} removed from {host}.", count(number.len() as u64, "meter"));
            apply(&host, Bundle { remove_meters: number, ..Bundle::default() }, &text, connection, output).await
        }
        Command::Dump { host } => dump(&host, connection, output).await,
    }
}

async fn apply(host: &str, bundle: Bundle, text: &str, connection: &Connection, output: Output) -> Result<(), Failure> {
    let mut switch = connection.switch(host).await?;
    let result = switch.apply_bundle(tokio_stream::iter([bundle])).await?.into_inner();
    output.say(text, &json::bundle_result(&result))
}

async fn dump(host: &str, connection: &Connection, output: Output) -> Result<(), Failure> {
    let meters = connection.switch(host).await?.list_meters(ListMetersRequest {}).await?.into_inner().meters;
    let heads = ["meter", "rules", "packets", "bytes", "dropped packets", "dropped bytes", "duration"];
    let mut table = Table::new(&heads);
    for state in &meters {
        let numbers = [state.rules, state.packets, state.bytes, state.dropped_packets, state.dropped_bytes];
        let mut row = vec![text::format_meter(&state.meter.unwrap_or_default())];
        row.extend(numbers.map(|number| number.to_string()));
        row.push(format!("{}s", state.age_seconds));
        table.row(row);
    }
    let empty = format!("No meters. Make one: weft meters add {host} meter=1,kbps,rate=10000");
    output.table(&table, &empty, meters.iter().map(json::meter).collect())
}
