//! Decides how units of systemd are started, stopped, killed and looked at: by systemctl(1), which
//! as root talks to the manager itself and needs no message bus.
//!
//! Which unit, and when, is for `unit.rs`.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};

/// Between two looks at units that have been asked to stop.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A systemctl that does not answer within this is given up and asked again.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// What `quorumctl` has to do with a unit.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Job {
    /// It is this unit: others are bound to it, and they are what must not outlive the hold.
    Is(String),
    /// It runs this unit.
    Runs(String),
}

impl Job {
    /// Starts what is to be started, and resolves with the reason when it has ended. Never, for a
    /// unit that is only there to be depended on. May be dropped; the unit then runs on.
    pub(super) async fn run(&self) -> String {
        let Self::Runs(unit) = self else { return std::future::pending().await };
        loop {
            let mut command = systemctl(&["start", "--wait", unit]);
            let status = command.kill_on_drop(true).status().await;
            if let Err(error) = &status {
                return format!("systemctl cannot be run: {error}");
            }
            if all_down(std::slice::from_ref(unit)).await {
                let result = property(&["Result"], unit).await.unwrap_or_default();
                return format!("{unit} has ended: {}", result.trim());
            }
            // systemctl has lost its manager, as when that executes itself anew; or the unit is
            // being started once more by its own Restart=.
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Asks what may not outlive the hold to stop, and resolves when nothing of it runs. May be
    /// dropped and called again.
    pub(super) async fn stop(&self) {
        loop {
            let targets = self.targets().await;
            if let Some(targets) = &targets {
                if all_down(targets).await {
                    return;
                }
                let mut arguments = vec!["stop"];
                arguments.extend(targets.iter().map(String::as_str));
                let stopped = systemctl(&arguments).kill_on_drop(true).status().await;
                if stopped.is_ok_and(|status| status.success()) && all_down(targets).await {
                    return;
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Has the unit that this is begin anew: systemd stops what is bound to it, then it, and starts
    /// it again, which waits until it is held. Only ordered, not waited for.
    pub(super) async fn begin_anew(&self) {
        if let Self::Is(own) = self {
            let mut order = systemctl(&["restart", "--no-block", own]);
            // Without it, what is bound to this unit is stopped all the same, by `stop`.
            let _ = tokio::time::timeout(ANSWER_WITHIN, order.status()).await;
        }
    }

    /// Whether something runs that only a holder may run.
    pub(super) async fn is_running(&self) -> bool {
        match self {
            Self::Is(_) => false,
            Self::Runs(unit) => !all_down(std::slice::from_ref(unit)).await,
        }
    }

    /// What may not outlive the hold; nothing when systemd does not answer.
    async fn targets(&self) -> Option<Vec<String>> {
        match self {
            Self::Runs(unit) => Some(vec![unit.clone()]),
            Self::Is(own) => {
                let bound = property(&["BoundBy", "RequiredBy", "ConsistsOf"], own).await?;
                let mut units: Vec<String> = bound.split_whitespace().map(str::to_owned).collect();
                units.sort();
                units.dedup();
                Some(units)
            }
        }
    }
}

/// Kills, again and again, without ever being waited for.
#[derive(Debug, Default)]
pub(super) struct Killer {
    asking: Option<Child>,
    targets: Vec<String>,
}

impl Killer {
    /// For what may not outlive the hold of this job, as it is now.
    pub(super) async fn of(job: &Job) -> Self {
        let targets = match tokio::time::timeout(ANSWER_WITHIN, job.targets()).await {
            Ok(Some(targets)) => targets,
            _ => Vec::new(),
        };
        Self { asking: None, targets }
    }

    /// SIGKILL to every process of the units, also to those that their stopping has started.
    pub(super) fn kill(&mut self) {
        let is_asking = match &mut self.asking {
            Some(child) => matches!(child.try_wait(), Ok(None)),
            None => false,
        };
        if is_asking || self.targets.is_empty() {
            return;
        }
        let mut command = systemctl(&["kill", "--signal=KILL"]);
        // When it cannot be started now, the next round tries again.
        self.asking = command.args(&self.targets).stderr(Stdio::null()).spawn().ok();
    }
}

fn systemctl(arguments: &[&str]) -> Command {
    let mut command = Command::new("systemctl");
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
    // Not for it, and not to be reported to by it.
    command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC").env_remove("WATCHDOG_PID");
    command
}

/// The values of properties of a unit, one on a line; nothing when systemd does not answer.
async fn property(names: &[&str], unit: &str) -> Option<String> {
    let mut command = systemctl(&["show", "--value"]);
    for name in names {
        command.arg(format!("--property={name}"));
    }
    command.arg("--").arg(unit).stdout(Stdio::piped()).kill_on_drop(true);
    let output = tokio::time::timeout(ANSWER_WITHIN, command.output()).await.ok()?.ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether none of the units has anything running. A question without an answer is no yes.
async fn all_down(units: &[String]) -> bool {
    for unit in units {
        match property(&["ActiveState"], unit).await.as_deref().map(str::trim) {
            Some("inactive" | "failed") => {}
            _ => return false,
        }
    }
    true
}
