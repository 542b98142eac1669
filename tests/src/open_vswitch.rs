//! Open vSwitch with its userspace datapath, in a namespace of a test: other people's switch.

use crate::bench::Bench;
use crate::{eventually, run};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use weft_up::namespace::run_inside;
use weft_up::program::Program;

const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";

/// One that runs. Ports of its bridges are interfaces in its namespace.
pub struct OpenVswitch {
    directory: PathBuf,
    namespace: String,
    // In this order: the switch ends before its database.
    _programs: [Program; 2],
}

impl OpenVswitch {
    /// Starts one in a namespace.
    ///
    /// # Panics
    /// If it is not installed, or does not start.
    pub fn start(bench: &mut Bench, namespace: &str) -> Self {
        let directory = bench.directory(&format!("ovs-{namespace}"));
        let place = directory.display();
        let created = run(Command::new("ovsdb-tool").args(["create", &format!("{place}/conf.db"), SCHEMA]));
        assert_eq!(created.code, Some(0), "{created:#?}");
        let mut start = |command: &str| {
            bench.start(namespace, &format!("env OVS_RUNDIR={place} OVS_LOGDIR={place} OVS_DBDIR={place} {command}"))
        };
        let database =
            start(&format!("ovsdb-server {place}/conf.db --remote=punix:{place}/db.sock --unixctl={place}/db.ctl"));
        eventually("Open vSwitch's database", Duration::from_secs(20), || {
            let listens = directory.join("db.sock").exists();
            let init = format!("ovs-vsctl --db=unix:{place}/db.sock --no-wait init");
            (listens && run_inside(namespace, &init).is_ok()).then_some(())
        });
        let switch = start(&format!("ovs-vswitchd unix:{place}/db.sock --unixctl={place}/vs.ctl --disable-system"));
        Self { directory, namespace: namespace.to_owned(), _programs: [switch, database] }
    }

    /// `ovs-vsctl`, whose commands are separated by `--`; waits until the switch has followed.
    ///
    /// # Panics
    /// If it is refused.
    pub fn vsctl(&self, commands: &str) {
        let command = format!("ovs-vsctl --timeout=20 --db=unix:{}/db.sock {commands}", self.directory.display());
        run_inside(&self.namespace, &command).unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// What `ovs-appctl` prints.
    ///
    /// # Panics
    /// If it is refused.
    #[must_use]
    pub fn appctl(&self, command: &str) -> String {
        let command = format!("ovs-appctl -t {}/vs.ctl {command}", self.directory.display());
        run_inside(&self.namespace, &command).unwrap_or_else(|error| panic!("{error:#}"))
    }
}
