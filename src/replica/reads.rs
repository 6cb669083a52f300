//! Who waits to read, and for what: a quorum's confirmation, an applied index, a revision.
//!
//! All linearizable reads that are waiting share one question to the leader (`raft/` asks the
//! quorum). A read is answered here once its read index is applied; its caller then looks at the
//! view.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::mutation::{self, Mutation};
use crate::base::{Index, Instant, ReadContext, Revision};
use crate::replica::{RequestError, Ticket};

/// Reads that are not answered.
///
/// Invariants:
/// - Every ticket is in exactly one stage: asking, asked, confirmed, or waiting for a revision.
/// - A context is never used twice within a boot.
#[derive(Debug, Default)]
pub(super) struct Reads {
    stages: BTreeMap<Ticket, (Stage, Instant)>,
    deadlines: BTreeSet<(Instant, Ticket)>,
    asking: Vec<Ticket>,
    asked: BTreeMap<ReadContext, (Instant, Vec<Ticket>)>,
    confirmed: BTreeMap<Index, Vec<Ticket>>,
    revisions: BTreeMap<Revision, Vec<Ticket>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Linearizable,
    Revision,
}

impl Reads {
    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.stages.len()
    }

    /// A caller wants to read what was committed before now.
    pub(super) fn ask(&mut self, ticket: Ticket, deadline: Instant) {
        self.stages.insert(ticket, (Stage::Linearizable, deadline));
        self.deadlines.insert((deadline, ticket));
        self.asking.push(ticket);
    }

    /// Whether this ticket waits.
    pub(super) fn holds(&self, ticket: Ticket) -> bool {
        self.stages.contains_key(&ticket)
    }

    /// A caller wants to read `revision` or later of this node's own state.
    pub(super) fn wait_for(&mut self, ticket: Ticket, revision: Revision, deadline: Instant) {
        self.stages.insert(ticket, (Stage::Revision, deadline));
        self.deadlines.insert((deadline, ticket));
        self.revisions.entry(revision).or_default().push(ticket);
    }

    /// Whether a question to the leader is due.
    pub(super) fn has_asking(&self) -> bool {
        !self.asking.is_empty()
    }

    /// All that were asking now wait for the answer to `context`.
    pub(super) fn asked(&mut self, context: ReadContext, now: Instant) {
        let tickets = std::mem::take(&mut self.asking);
        let earlier = self.asked.insert(context, (now, tickets));
        assert!(earlier.is_none(), "read context {context} was used twice");
    }

    /// The leader confirmed `context`: its reads may be served once `index` is applied.
    pub(super) fn confirmed(&mut self, context: ReadContext, index: Index) {
        if let Some((_, tickets)) = self.asked.remove(&context) {
            self.confirmed.entry(index).or_default().extend(tickets);
        }
    }

    /// The question was not answered and will not be: ask again.
    pub(super) fn aborted(&mut self, context: ReadContext) {
        if let Some((_, tickets)) = self.asked.remove(&context) {
            self.asking.extend(tickets.into_iter().filter(|t| self.stages.contains_key(t)));
        }
    }

    /// Asks again for all that were asked before `asked_before`: the question or its answer was
    /// lost.
    pub(super) fn retry_older(&mut self, asked_before: Instant) {
        let old = self.asked.iter().filter(|(_, (at, _))| *at < asked_before);
        let contexts: Vec<ReadContext> = old.map(|(&context, _)| context).collect();
        for context in contexts {
            self.aborted(context);
        }
    }

    /// Whether a question is under way.
    pub(super) fn has_asked(&self) -> bool {
        !self.asked.is_empty()
    }

    /// Those that may be answered now that `applied` and `revision` are in the view.
    pub(super) fn take_served(&mut self, applied: Index, revision: Revision) -> Vec<Ticket> {
        let mut served = Vec::new();
        while let Some(entry) = self.confirmed.first_entry()
            && (*entry.key() <= applied || mutation::active(Mutation::ReadBeforeApplied))
        {
            served.append(&mut entry.remove());
        }
        while let Some(entry) = self.revisions.first_entry()
            && (*entry.key() <= revision || mutation::active(Mutation::RevisionWaitIgnored))
        {
            served.append(&mut entry.remove());
        }
        served.retain(|&ticket| self.forget(ticket));
        served
    }

    /// Those whose time is up. A read is never "unknown": it changed nothing.
    pub(super) fn take_overdue(
        &mut self,
        has_leader: bool,
        now: Instant,
    ) -> Vec<(Ticket, RequestError)> {
        let mut answers = Vec::new();
        while let Some(&(deadline, ticket)) = self.deadlines.first() {
            if deadline > now {
                break;
            }
            let (stage, _) = self.stages[&ticket];
            self.forget(ticket);
            let error = match stage {
                Stage::Linearizable if !has_leader => RequestError::NoLeader,
                Stage::Linearizable | Stage::Revision => RequestError::Timeout,
            };
            answers.push((ticket, error));
        }
        self.asking.retain(|ticket| self.stages.contains_key(ticket));
        answers
    }

    /// Everybody who waits.
    pub(super) fn take_all(&mut self) -> Vec<Ticket> {
        let tickets: Vec<Ticket> = self.stages.keys().copied().collect();
        *self = Self::default();
        tickets
    }

    /// Nobody waits any more.
    pub(super) fn abandon(&mut self, ticket: Ticket) {
        self.forget(ticket);
    }

    /// When the next read is overdue.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }

    fn forget(&mut self, ticket: Ticket) -> bool {
        let Some((_, deadline)) = self.stages.remove(&ticket) else { return false };
        self.deadlines.remove(&(deadline, ticket))
    }
}

#[cfg(test)]
mod tests {
    use super::Reads;
    use crate::base::{Index, Instant, ReadContext, Revision, Span};
    use crate::replica::{RequestError, Ticket};

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Span::from_millis(millis)
    }

    #[test]
    fn a_read_waits_for_its_index_and_not_for_another() {
        let mut reads = Reads::default();
        reads.ask(Ticket(1), at(100));
        reads.asked(ReadContext(1), at(0));
        reads.ask(Ticket(2), at(100));
        reads.asked(ReadContext(2), at(1));
        reads.confirmed(ReadContext(2), Index(9));
        reads.confirmed(ReadContext(1), Index(5));
        assert_eq!(reads.take_served(Index(4), Revision(1)), vec![]);
        assert_eq!(reads.take_served(Index(5), Revision(1)), vec![Ticket(1)]);
        assert_eq!(reads.take_served(Index(9), Revision(1)), vec![Ticket(2)]);
        assert_eq!(reads.len(), 0);
    }

    #[test]
    fn an_aborted_question_is_asked_again_without_those_that_left() {
        let mut reads = Reads::default();
        reads.ask(Ticket(1), at(100));
        reads.ask(Ticket(2), at(100));
        reads.asked(ReadContext(1), at(0));
        reads.abandon(Ticket(1));
        reads.aborted(ReadContext(1));
        reads.confirmed(ReadContext(1), Index(5));
        assert_eq!(
            reads.take_served(Index(9), Revision(1)),
            vec![],
            "a late answer counts nothing"
        );
        reads.asked(ReadContext(2), at(1));
        reads.confirmed(ReadContext(2), Index(5));
        assert_eq!(reads.take_served(Index(9), Revision(1)), vec![Ticket(2)]);
    }

    #[test]
    fn what_is_overdue_says_whether_there_was_a_leader() {
        let mut reads = Reads::default();
        reads.ask(Ticket(1), at(10));
        reads.wait_for(Ticket(2), Revision(7), at(20));
        assert_eq!(reads.take_overdue(false, at(10)), vec![(Ticket(1), RequestError::NoLeader)]);
        assert_eq!(reads.take_overdue(true, at(20)), vec![(Ticket(2), RequestError::Timeout)]);
        assert!(!reads.has_asking(), "an overdue read is not asked for");
    }
}
