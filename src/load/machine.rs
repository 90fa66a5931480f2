//! What a result was measured on, and what processes used: from `/proc`.

use rustix::fs::statfs;
use serde::{Deserialize, Serialize};
use std::fs::read_to_string;
use std::path::Path;

/// `TMPFS_MAGIC` of statfs(2): a file system in memory, where a sync costs nothing and saves nothing.
const TMPFS: i64 = 0x0102_1994;

/// Facts of the machine.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Machine {
    /// Cores that this process may use.
    pub(super) cores: usize,
    pub(super) cpu: String,
    pub(super) kernel: String,
    pub(super) memory_bytes: u64,
    /// Of the last minute, before the run.
    pub(super) load_average: f64,
}

impl Machine {
    pub(super) fn look() -> Self {
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory = read_to_string("/proc/meminfo").unwrap_or_default();
        let memory_kib = field(&memory, "MemTotal").and_then(|text| first_number(&text));
        let load = read_to_string("/proc/loadavg").unwrap_or_default();
        let cpu = read_to_string("/proc/cpuinfo").unwrap_or_default();
        let kernel = rustix::system::uname();
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            cpu: field(&cpu, "model name").unwrap_or_else(|| "unknown".into()),
            kernel: format!(
                "{} {} {}",
                kernel.sysname().to_string_lossy(),
                kernel.release().to_string_lossy(),
                kernel.machine().to_string_lossy()
            ),
            memory_bytes: memory_kib.unwrap_or(0).saturating_mul(1_024),
            load_average: load
                .split(' ')
                .next()
                .and_then(|text| text.parse().ok())
                .unwrap_or(0.0),
        }
    }
}

/// Whether what is written to `folder` stays in memory.
pub(super) fn is_in_memory(folder: &Path) -> bool {
    statfs(folder).is_ok_and(|found| found.f_type == TMPFS)
}

/// What a process used.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(super) struct Usage {
    /// User and system, of all threads.
    pub(super) cpu_seconds: f64,
    /// Resident at most.
    pub(super) memory_bytes_max: u64,
}

impl Usage {
    /// Of a process that is still there.
    pub(super) fn of(pid: u32) -> Option<Self> {
        let stat = read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // Behind the name, which may hold anything: utime and stime are the 12th and 13th.
        let (_, fields) = stat.rsplit_once(')')?;
        let mut fields = fields.split_ascii_whitespace().skip(11);
        let mut ticks = || fields.next()?.parse::<u64>().ok();
        let ticks = ticks()?.saturating_add(ticks()?);
        let status = read_to_string(format!("/proc/{pid}/status")).ok()?;
        let memory = status.lines().find(|line| line.starts_with("VmHWM:"));
        let memory_kib = memory.and_then(first_number).unwrap_or(0);
        let a_second = rustix::param::clock_ticks_per_second();
        Some(Self {
            cpu_seconds: super::numbers::whole(ticks) / super::numbers::whole(a_second.max(1)),
            memory_bytes_max: memory_kib.saturating_mul(1_024),
        })
    }

    /// Of this process.
    pub(super) fn own() -> Self {
        Self::of(std::process::id()).unwrap_or_default()
    }
}

fn first_number(text: &str) -> Option<u64> {
    let digits = text.trim_start_matches(|c: char| !c.is_ascii_digit());
    let end = digits.find(|c: char| !c.is_ascii_digit());
    digits.get(..end.unwrap_or(digits.len()))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_and_process_are_known() {
        let machine = Machine::look();
        assert!(machine.cores >= 1);
        assert!(machine.memory_bytes > 1 << 20);
        assert!(machine.kernel.starts_with("Linux "));
        let usage = Usage::own();
        assert!(usage.memory_bytes_max > 1 << 20);
        assert!(Usage::of(u32::MAX).is_none());
        assert!(is_in_memory(Path::new("/dev/shm")) || !Path::new("/dev/shm").exists());
        assert!(!is_in_memory(Path::new("/proc")));
    }

    #[test]
    fn a_number_is_found_among_words() {
        assert_eq!(first_number("VmHWM:\t  1234 kB"), Some(1_234));
        assert_eq!(first_number("nothing"), None);
    }
}
