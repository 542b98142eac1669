//! Ports whose other end comes and goes: a virtual machine's is up while its driver runs.

use super::Switch;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// Between two looks: guests decide how often their driver starts, and each look is a commit.
const SETTLING: Duration = Duration::from_millis(50);

impl Switch {
    /// Lets rules see which ports are up now. Blocks.
    pub fn note_links(&self) {
        let state = self.state();
        self.tables.set_topology(state.ports.topology(&state.underlay));
        drop(state);
        self.changed();
    }
}

/// Carries to the switch that ports have gone up or down, whenever it is told that some may have. For ever.
pub async fn follow_links(switch: Arc<Switch>, changed: Arc<Notify>) {
    loop {
        changed.notified().await;
        let noting = switch.clone();
        if tokio::task::spawn_blocking(move || noting.note_links()).await.is_err() {
            return;
        }
        tokio::time::sleep(SETTLING).await;
    }
}
