//! What a node that has not started yet waits for, for those who ask meanwhile.

use tokio::sync::watch;

use crate::base::NodeId;

/// What a starting node waits for. Cheap to clone; the clones share it.
#[derive(Clone, Debug)]
pub struct Starting(watch::Sender<StartStatus>);

/// How far a node has come on its way into its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartStatus {
    /// Its name.
    pub name: String,
    /// The name of its cluster.
    pub cluster_name: String,
    /// Its incarnation, once its data directory is open.
    pub incarnation: Option<NodeId>,
    /// What it waits for.
    pub phase: StartPhase,
}

/// What a starting node waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartPhase {
    /// The first boot of a cluster: these members have not been seen yet.
    FirstBoot {
        /// Their names.
        waiting_for: Vec<String>,
    },
    /// Its own files.
    Loading,
    /// A cluster that runs does not know it: an operator has to add it.
    WaitingToBeAdded {
        /// Who said so.
        by: String,
        /// Whether there is a member of its name, whose place it can only take by replacing it.
        replaces: bool,
        /// What an operator runs on any member.
        command: String,
    },
}

impl StartPhase {
    /// One sentence for people.
    pub fn sentence(&self) -> String {
        match self {
            Self::FirstBoot { waiting_for } => format!(
                "first boot: all members must be up together; waiting for {}",
                waiting_for.join(", ")
            ),
            Self::Loading => "loading".to_owned(),
            Self::WaitingToBeAdded { by, replaces: true, command } => format!(
                "waiting to be added: {by} has a member of this name with another data directory; \
                 to let this node take its place, run on any member: {command}"
            ),
            Self::WaitingToBeAdded { by, replaces: false, command } => format!(
                "waiting to be added: {by} does not know this node; run on any member: {command}"
            ),
        }
    }
}

impl Starting {
    /// Of the node `name`, before anything was done.
    pub fn new(name: &str, cluster_name: &str) -> Self {
        Self(watch::Sender::new(StartStatus {
            name: name.to_owned(),
            cluster_name: cluster_name.to_owned(),
            incarnation: None,
            phase: StartPhase::Loading,
        }))
    }

    /// How it stands now.
    pub fn status(&self) -> StartStatus {
        self.0.borrow().clone()
    }

    /// Those who want to see each change.
    pub fn subscribe(&self) -> watch::Receiver<StartStatus> {
        self.0.subscribe()
    }

    pub(super) fn is(&self, incarnation: NodeId) {
        self.0.send_modify(|status| status.incarnation = Some(incarnation));
    }

    /// Says what is waited for, in the log too when it has changed.
    pub(super) fn waits(&self, phase: StartPhase) {
        self.0.send_if_modified(|status| {
            let is_news = status.phase != phase;
            if is_news {
                tracing::info!("{}", phase.sentence());
                status.phase = phase;
            }
            is_news
        });
    }
}
