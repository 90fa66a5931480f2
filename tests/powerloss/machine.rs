//! The machine around the disk: its power, the moment at which it fails, and the faults of its disk.

use crate::disk::{Disk, Ino};
use crate::step::{Phase, Step, steps_of};
use fuser::{Errno, ReplyEmpty};
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::sync::Arc;
use std::time::Duration;

/// A call that changes what is on the disk, or what of it is safe.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Op {
    Create,
    Mkdir,
    Write,
    Resize,
    Rename,
    Remove,
    Sync,
    SyncFolder,
}

/// Whether the machine runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Power {
    On,
    /// Stopped in the middle of a call; nothing is answered.
    Frozen,
    /// Whoever ran on it is being reaped; nothing works any more.
    Off,
}

/// When the power shall fail.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    /// Only calls of this kind count; `None`: all.
    pub(crate) step: Option<Step>,
    /// At which of them, from 1.
    pub(crate) nth: u64,
    /// Whether that call still has its effect.
    pub(crate) is_done: bool,
}

/// Where a cut struck.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Struck {
    pub(crate) op: Op,
    pub(crate) path: String,
    pub(crate) steps: Vec<Step>,
}

/// Makes calls fail.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    /// Which calls; `None`: each that changes something.
    pub(crate) op: Option<Op>,
    /// Only where the path contains this.
    pub(crate) path: &'static str,
    /// From which of them on, from 1.
    pub(crate) nth: u64,
    /// Whether those behind it fail too.
    pub(crate) goes_on: bool,
    pub(crate) error: Errno,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) disk: Disk,
    power: Power,
    cut: Option<Cut>,
    struck: Option<Struck>,
    fault: Option<Fault>,
    failed_calls: u64,
    holds_syncs: bool,
    held: Vec<(Ino, ReplyEmpty)>,
    phase: Phase,
}

/// Shared by the file system and the test that plays fate.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    shared: Arc<(Mutex<State>, Condvar)>,
}

impl Machine {
    /// With an empty disk, and on.
    pub(crate) fn new() -> Self {
        let state = State {
            disk: Disk::new(),
            power: Power::On,
            cut: None,
            struck: None,
            fault: None,
            failed_calls: 0,
            holds_syncs: false,
            held: Vec::new(),
            phase: Phase::Running,
        };
        Self {
            shared: Arc::new((Mutex::new(state), Condvar::new())),
        }
    }

    /// The state, as it is.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock()
    }

    /// What the process under test does from now on.
    pub(crate) fn set_phase(&self, phase: Phase) {
        self.state().phase = phase;
    }

    /// The power shall fail then, if it has not failed meanwhile.
    pub(crate) fn arm(&self, cut: Cut) {
        let mut state = self.state();
        if state.struck.is_none() {
            state.cut = Some(cut);
        }
    }

    /// Where the power failed, once it has.
    pub(crate) fn struck(&self) -> Option<Struck> {
        self.state().struck.clone()
    }

    /// Fails the power now, between two calls.
    pub(crate) fn freeze(&self) {
        let mut state = self.state();
        (state.power, state.cut) = (Power::Frozen, None);
    }

    /// Lets go of who hangs in a call: to be called once the process was sent SIGKILL, before it is waited for.
    pub(crate) fn power_off(&self) {
        let mut state = self.state();
        state.power = Power::Off;
        for (_, reply) in state.held.drain(..) {
            reply.error(Errno::EIO);
        }
        drop(state);
        self.shared.1.notify_all();
    }

    /// On again, with the disk as it is, and without faults.
    pub(crate) fn power_on(&self) {
        let mut state = self.state();
        assert!(state.held.is_empty(), "a sync still hangs");
        (state.power, state.cut, state.struck) = (Power::On, None, None);
        (state.fault, state.holds_syncs) = (None, false);
    }

    /// Calls shall fail.
    pub(crate) fn fail(&self, fault: Option<Fault>) {
        let mut state = self.state();
        (state.fault, state.failed_calls) = (fault, 0);
    }

    /// Calls that failed by a fault so far.
    pub(crate) fn failed_calls(&self) -> u64 {
        self.state().failed_calls
    }

    /// Syncs of files shall hang.
    pub(crate) fn hold_syncs(&self) {
        self.state().holds_syncs = true;
    }

    /// Syncs that hang now.
    pub(crate) fn held_syncs(&self) -> usize {
        self.state().held.len()
    }

    /// Lets hanging syncs come through, and later ones.
    pub(crate) fn release_syncs(&self) {
        let mut state = self.state();
        state.holds_syncs = false;
        for (ino, reply) in std::mem::take(&mut state.held) {
            match state.disk.sync(ino) {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(error),
            }
        }
    }

    /// For calls that only look. Waits while the machine is frozen.
    pub(crate) fn look(&self) -> Result<MutexGuard<'_, State>, Errno> {
        let mut state = self.state();
        while state.power == Power::Frozen {
            self.shared.1.wait(&mut state);
        }
        if state.power == Power::Off {
            return Err(Errno::EIO);
        }
        Ok(state)
    }

    /// For calls that change something: counts, fails or freezes as told, else has the effect.
    pub(crate) fn change<T>(
        &self,
        op: Op,
        path: impl Fn(&Disk) -> String,
        effect: impl FnOnce(&mut Disk) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let mut state = self.look()?;
        let path = path(&state.disk);
        if let Some(error) = state.fault_of(op, &path) {
            return Err(error);
        }
        let is_cut = state.is_cut_due(op, &path);
        let result = match &is_cut {
            Some(Cut { is_done: false, .. }) => Err(Errno::EIO),
            _ => effect(&mut state.disk),
        };
        if is_cut.is_some() {
            state.power = Power::Frozen;
            drop(state);
            drop(self.look());
            return Err(Errno::EIO);
        }
        result
    }

    /// Keeps the reply of a sync while they hang; gives it back when they do not.
    pub(crate) fn hold_sync(&self, ino: Ino, reply: ReplyEmpty) -> Option<ReplyEmpty> {
        let mut state = self.state();
        if state.holds_syncs && state.power == Power::On {
            state.held.push((ino, reply));
            return None;
        }
        Some(reply)
    }

    /// Waits until the power has failed; whether it did within `patience`. Blocks.
    pub(crate) fn wait_for_cut(&self, patience: Duration) -> bool {
        const LOOK: Duration = Duration::from_millis(1);
        let mut left = patience;
        while self.struck().is_none() {
            if left.is_zero() {
                return false;
            }
            std::thread::sleep(LOOK);
            left = left.saturating_sub(LOOK);
        }
        true
    }
}

impl State {
    fn fault_of(&mut self, op: Op, path: &str) -> Option<Errno> {
        let fault = self.fault.as_mut()?;
        if fault.op.is_some_and(|other| other != op) || !path.contains(fault.path) {
            return None;
        }
        fault.nth = fault.nth.saturating_sub(1);
        if fault.nth > 0 {
            return None;
        }
        let error = fault.error;
        if !fault.goes_on {
            self.fault = None;
        }
        self.failed_calls += 1;
        Some(error)
    }

    fn is_cut_due(&mut self, op: Op, path: &str) -> Option<Cut> {
        let cut = self.cut.as_mut()?;
        let steps = steps_of(self.phase, op, path);
        if cut.step.is_some_and(|step| !steps.contains(&step)) {
            return None;
        }
        cut.nth = cut.nth.saturating_sub(1);
        if cut.nth > 0 {
            return None;
        }
        self.struck = Some(Struck {
            op,
            path: path.into(),
            steps,
        });
        self.cut.take()
    }
}
