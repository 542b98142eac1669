//! `weft`: everything a person types. One module for each family of commands; [`connect`] finds the
//! controller or the switch, [`output`] prints, [`failure`] is how a command fails.
//!
//! Every command asks over gRPC and holds no knowledge of its own: what it prints is what the
//! controller or the switch said. Exit codes: 0 done, 1 refused or failed, 2 not understood.

mod bench;
mod capture;
mod cloud;
mod connect;
mod connections;
mod doctor;
mod documentation;
mod drops;
mod failure;
mod flows;
mod groups;
mod json;
mod meters;
mod output;
mod overview;
mod path;
mod port_kind;
mod ports;
mod punts;
mod screen;
mod sets;
mod switch;
mod top;
mod trace;

use clap::{Parser, Subcommand};
use failure::Failure;
use std::process::ExitCode;
use weft_proto::fault::Fault;

/// The command line of Weft, a private cloud whose heart is its network.
///
/// HOST is the name of a host, which the controller passes the call on to, or unix:PATH, the API socket
/// of a switch on this machine.
#[derive(Parser)]
#[command(name = "weft", version = weft_proto::VERSION, max_term_width = 100)]
struct Arguments {
    #[command(flatten)]
    connection: connect::Connection,

    /// Print JSON, for programs; errors too, one object a line.
    #[arg(long, global = true, help_heading = "Everywhere")]
    json: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a demo cloud on this machine: a controller, hosts, instances in network namespaces.
    Up(weft_up::UpArguments),
    /// End the demo cloud, and remove what a killed one left.
    Down(weft_up::DownArguments),
    #[command(flatten)]
    Cloud(cloud::Command),
    /// The cloud at a glance: the controller, hosts, ports, faults; or the switch of one host.
    Status(switch::StatusArguments),
    /// Rules of a switch, in the syntax of ovs-ofctl.
    #[command(subcommand)]
    Flows(flows::Command),
    /// Groups of a switch: what rules send to together, in the syntax of ovs-ofctl.
    #[command(subcommand)]
    Groups(groups::Command),
    /// Meters of a switch: rates that rules hold packets to, as meter:N.
    #[command(subcommand)]
    Meters(meters::Command),
    /// Address sets of a switch, which rules match as ip_src=@NAME.
    #[command(subcommand)]
    Sets(sets::Command),
    /// What a switch would do with a packet, and why; nothing is sent. With --live: what it does with real ones.
    ///
    /// With --from and --to, what an instance would send is followed from host to host, its answer too: to whom it
    /// gets, or to the rule that drops it, by name, and what to do about it.
    ///
    /// For example: weft trace --from web-1 --to 10.0.0.6:80, or for one switch: weft trace web
    /// in_port=1,tcp,eth_src=02:00:00:00:00:01,ip_dst=10.0.0.6,tcp_dst=80
    Trace(trace::Arguments),
    /// What is wrong with the cloud, and what to do about it: hosts, underlay, ports, addresses, security groups, drops.
    Doctor(doctor::Arguments),
    /// The flow tables of a switch.
    Tables(switch::HostArguments),
    /// The ports of a switch.
    #[command(subcommand)]
    Ports(ports::Command),
    /// Frames that went nowhere, by reason, port and rule; with --watch how many a second.
    Drops(drops::Arguments),
    /// What moves: hosts, ports and flows by rate, anew every second.
    ///
    /// For example: weft top, weft top host-a --sort bits, weft top --once --json
    Top(top::Arguments),
    /// How a switch's underlay reaches other hosts.
    Neighbours(switch::HostArguments),
    /// Entries of a switch's flow caches, the busiest first.
    Cache(switch::CacheArguments),
    /// Connections that a switch's rules track, one a line, as conntrack -L shows them; or end some.
    ///
    /// For example: weft connections web --zone 7, weft connections web flush --address 10.0.0.5
    Connections(connections::Arguments),
    /// Frames of a switch's ports into a pcapng file, for Wireshark; dropped ones with the reason and the rule.
    ///
    /// For example: weft capture web-1 -w web-1.pcapng; weft capture host-a --all --filter arp -w - | tshark -i -
    Capture(capture::Arguments),
    /// Packets that rules hand to the controller, one line each, until interrupted.
    Punts(punts::Arguments),
    /// What a packet costs here, beside Open vSwitch on the same traffic and rules: one table, in some minutes. As root.
    ///
    /// For example: weft bench, weft bench exact-rules tenant, weft bench --json figures.json
    Bench(bench::Arguments),
    /// Completion for a shell, to be sourced.
    Completion(documentation::CompletionArguments),
    /// Writes the manual pages of all commands.
    Man(documentation::ManArguments),
}

async fn run(arguments: Arguments) -> Result<(), Failure> {
    let output = output::Output { json: arguments.json };
    let connection = arguments.connection;
    match arguments.command {
        Command::Up(_) | Command::Down(_) | Command::Bench(_) => unreachable!("main runs these, without a runtime"),
        Command::Cloud(command) => cloud::run(command, &connection, output).await,
        Command::Status(arguments) => switch::status(arguments, &connection, output).await,
        Command::Flows(command) => flows::run(command, &connection, output).await,
        Command::Groups(command) => groups::run(command, &connection, output).await,
        Command::Meters(command) => meters::run(command, &connection, output).await,
        Command::Sets(command) => sets::run(command, &connection, output).await,
        Command::Trace(arguments) => trace::run(arguments, &connection, output).await,
        Command::Doctor(arguments) => doctor::run(arguments, &connection, output).await,
        Command::Tables(arguments) => switch::tables(arguments, &connection, output).await,
        Command::Ports(command) => ports::run(command, &connection, output).await,
        Command::Drops(arguments) => drops::run(arguments, &connection, output).await,
        Command::Top(arguments) => top::run(arguments, &connection, output).await,
        Command::Neighbours(arguments) => switch::neighbours(arguments, &connection, output).await,
        Command::Cache(arguments) => switch::cache(arguments, &connection, output).await,
        Command::Connections(arguments) => connections::run(arguments, &connection, output).await,
        Command::Capture(arguments) => capture::run(arguments, &connection, output).await,
        Command::Punts(arguments) => punts::run(arguments, &connection, output).await,
        Command::Completion(arguments) => documentation::completion(&arguments),
        Command::Man(arguments) => documentation::man(&arguments),
    }
}

/// What was typed. A mistake in it ends the program with 2, in JSON if that is asked for.
fn arguments() -> Arguments {
    Arguments::try_parse().unwrap_or_else(|error| {
        let json = std::env::args_os().skip(1).any(|word| word == "--json");
        if !(json && error.use_stderr()) {
            error.exit();
        }
        let text = error.to_string();
        let problem = text.trim_start_matches("error: ").split("\n\n").next().unwrap_or_default();
        let problem = problem.split_whitespace().collect::<Vec<_>>().join(" ");
        let fault = Fault::invalid("usage", "", problem, "Look at the command's --help.");
        Failure::from(fault).report(output::Output { json });
        std::process::exit(2);
    })
}

fn main() -> ExitCode {
    let arguments = arguments();
    // The demo runs programs and enters network namespaces: it has threads of its own, not a runtime.
    match &arguments.command {
        Command::Up(arguments) => return weft_up::up(arguments),
        Command::Down(arguments) => return weft_up::down(arguments),
        Command::Bench(measured) => return bench::main(measured, arguments.json),
        _ => {}
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("weft: cannot start: {error}. Free some memory or file descriptors.");
            return ExitCode::FAILURE;
        }
    };
    let output = output::Output { json: arguments.json };
    match runtime.block_on(run(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report(output);
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn global_options_stand_anywhere() {
        let arguments = Arguments::try_parse_from(["weft", "network", "list", "--json", "--controller", "unix:/x"]);
        let arguments = arguments.unwrap_or_else(|error| panic!("{error}"));
        assert!(arguments.json);
    }

    #[test]
    fn usage_errors_exit_with_two() {
        let Err(error) = Arguments::try_parse_from(["weft", "flows", "frobnicate"]) else {
            panic!("an unknown command was accepted");
        };
        assert_eq!(error.exit_code(), 2);
    }
}
