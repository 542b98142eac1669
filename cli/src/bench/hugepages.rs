//! Huge pages for DPDK's programs: taken from the kernel for the time of a bench, and given back. Where there are
//! none to be had, DPDK works without, more slowly, and the bench says so.

use super::place::Place;
use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use weft_up::namespace::run;

const COUNT: &str = "/proc/sys/vm/nr_hugepages";

/// Bytes of packet memory for each buffer, more than it needs.
const BUFFER_BYTES: usize = 3200;

/// See the module comment.
pub struct Hugepages {
    directory: PathBuf,
    before: u64,
    mounted: bool,
}

impl Hugepages {
    /// Takes so many pages of 2 MiB more than there are.
    pub fn take(place: &Place, pages: u64) -> Result<Self> {
        let before = count()?;
        let directory = place.directory("hugepages")?;
        let mut own = Self { directory, before, mounted: false };
        std::fs::write(COUNT, (before + pages).to_string()).context("cannot ask for huge pages")?;
        let got = count()?.saturating_sub(before);
        if got < pages {
            bail!("the kernel has {got} huge pages to give, not {pages}");
        }
        run("mount", &["-t", "hugetlbfs", "-o", "pagesize=2M", "none", &own.directory.display().to_string()])?;
        own.mounted = true;
        Ok(own)
    }

    /// How DPDK is told, for a program that needs so many packet buffers.
    pub fn arguments(this: Option<&Self>, buffers: usize) -> Vec<String> {
        let megabytes = (buffers * BUFFER_BYTES).div_ceil(1 << 20) + 64;
        match this {
            Some(own) => vec![format!("--huge-dir={}", own.directory.display()), "--huge-unlink".to_owned()],
            None => vec!["--no-huge".to_owned(), "-m".to_owned(), megabytes.to_string()],
        }
    }
}

impl Drop for Hugepages {
    fn drop(&mut self) {
        if self.mounted
            && let Err(error) = run("umount", &[&self.directory.display().to_string()])
        {
            eprintln!("{error:#}");
        }
        if let Err(error) = std::fs::write(COUNT, self.before.to_string()) {
            eprintln!("the huge pages are not given back: {error}. Write {} to {COUNT}.", self.before);
        }
    }
}

fn count() -> Result<u64> {
    let text = std::fs::read_to_string(COUNT).with_context(|| format!("cannot read {COUNT}"))?;
    text.trim().parse().with_context(|| format!("{COUNT} holds no number"))
}
