//! Ends this process when the one that started it ends, however that one ends.
//!
//! Who asks for it is decided in `dev`.

use anyhow::Context;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

/// From here on the kernel kills this process when its parent is gone (PR_SET_PDEATHSIG, prctl(2)).
/// Fails when the parent is no longer `parent`: it ended before the kernel was asked, and nothing
/// would ever come.
///
/// The signal is SIGKILL, because a process that hangs would ignore a polite one, and a node must
/// survive it at any moment anyway.
pub(super) fn exit_with(parent: u32) -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))
        .context("cannot ask the system to end this process with its parent")?;
    let present = getppid().map(Pid::as_raw_nonzero);
    if present.map(|pid| pid.get().unsigned_abs()) != Some(parent) {
        anyhow::bail!("the parent process {parent} is gone already");
    }
    Ok(())
}
