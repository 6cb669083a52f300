//! Which nodes may use which names: the reservations under `_access/`, as a leader goes by them.
//!
//! A reservation *reserves* names for nodes: other nodes may not use them. Names that no
//! reservation mentions are for all nodes, so that an incomplete one locks nobody out. Nodes are
//! known by the name that the transport compared with their certificate. This is no part of the
//! replicated state: it decides what a leader takes into its log, never what an entry means.

use bytes::Bytes;

use crate::base::{KeyRange, NamePattern, NodeId, Term, limits};
use crate::state::{
    Bind, Lease, Operation, QueueKind, QueueName, RangeContent, RangeQuery, Selection,
    StateMachine, TxnOperation, parse_queue_key,
};

/// Where reservations are kept.
pub(super) const PREFIX: &[u8] = b"_access/";
/// Where places stand: nobody writes there but the state machine itself.
const PLACES: [&[u8]; 3] = [b"_barriers/", b"_elections/", b"_locks/"];

/// All reservations of the cluster.
#[derive(Debug, Default)]
pub(super) struct Reservations {
    all: Vec<Reservation>,
}

/// One reservation.
#[derive(Debug, Default, PartialEq, Eq)]
struct Reservation {
    nodes: Vec<NamePattern>,
    write: Vec<NamePattern>,
    lock: Vec<NamePattern>,
    campaign: Vec<NamePattern>,
    administrate: bool,
}

/// Who asks a leader for an entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin<'a> {
    /// The node.
    pub(super) node: NodeId,
    /// Its name in the membership; nothing for one that is no member.
    pub(super) name: Option<&'a str>,
    /// The term of the leader, when it is the leader itself that asks.
    pub(super) leads: bool,
    /// The term in which the leader leads.
    pub(super) term: Term,
}

/// What an operation does to names.
enum Use {
    Administrate,
    Campaign(Bytes),
    Lock(Bytes),
    /// What no honest node asks for.
    Never,
    Write(KeyRange),
}

impl Reservations {
    /// What the state holds.
    pub(super) fn read(machine: &StateMachine) -> Self {
        let mut all = Vec::new();
        let mut query = RangeQuery {
            prefix: Bytes::from_static(PREFIX),
            start_after: None,
            limit: limits::LIST_KEYS_MAX,
            bytes_max: limits::PAGE_BYTES_MAX,
            at: None,
            content: RangeContent::Records,
        };
        while let Ok(page) = machine.range(&query) {
            for record in &page.records {
                match Reservation::parse(&record.value) {
                    Some(reservation) => all.push(reservation),
                    None => {
                        let key = String::from_utf8_lossy(&record.key);
                        tracing::warn!(%key, "a reservation cannot be read, and reserves nothing");
                    }
                }
            }
            match page.records.last().filter(|_| page.more) {
                Some(last) => query.start_after = Some(last.key.clone()),
                None => break,
            }
        }
        Self { all }
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether the node may bring this about.
    pub(super) fn allow(
        &self,
        origin: Origin<'_>,
        operation: &Operation,
        machine: &StateMachine,
    ) -> bool {
        self.all.is_empty()
            || uses(origin, operation, machine).iter().all(|it| self.allows(origin, it))
    }

    /// Whether the node may administrate the cluster.
    pub(super) fn allow_administration(&self, name: Option<&str>) -> bool {
        let mut all = self.all.iter().filter(|reservation| reservation.administrate).peekable();
        all.peek().is_none() || all.any(|reservation| reservation.names(name))
    }

    fn allows(&self, origin: Origin<'_>, used: &Use) -> bool {
        let one = |name: &Bytes| KeyRange::Key(name.clone());
        match used {
            Use::Administrate => self.allow_administration(origin.name),
            Use::Campaign(name) => self.is_free(origin, &one(name), |it| &it.campaign),
            Use::Lock(name) => self.is_free(origin, &one(name), |it| &it.lock),
            Use::Never => false,
            Use::Write(range) => self.is_free(origin, range, |it| &it.write),
        }
    }

    /// Whether no part of the range is reserved for others only.
    fn is_free(
        &self,
        origin: Origin<'_>,
        range: &KeyRange,
        list: impl Fn(&Reservation) -> &Vec<NamePattern>,
    ) -> bool {
        let (own, others): (Vec<_>, Vec<_>) =
            self.all.iter().partition(|reservation| reservation.names(origin.name));
        let patterns = others.into_iter().flat_map(&list);
        patterns
            .filter_map(|pattern| pattern.part_of(range))
            .all(|part| own.iter().flat_map(|own| list(own)).any(|pattern| pattern.covers(&part)))
    }
}

/// What an operation of this node does to names, the node's own leases aside.
fn uses(origin: Origin<'_>, operation: &Operation, machine: &StateMachine) -> Vec<Use> {
    match operation {
        Operation::Acquire(acquire) => vec![queue(&acquire.queue)],
        // A leader trims the history of its own accord.
        Operation::Compact { .. } if origin.leads => Vec::new(),
        Operation::Compact { .. } | Operation::StartEpoch => vec![Use::Administrate],
        Operation::Delete { selection, .. } => vec![write(&range(selection))],
        // Only who leads in a term ends leases by its clock; of another term it means nothing.
        Operation::ExpireLeases { term, .. } if *term == origin.term && !origin.leads => {
            vec![Use::Never]
        }
        Operation::AdoptLeases { .. }
        | Operation::BindLease { .. }
        | Operation::ExpireLeases { .. }
        | Operation::GrantLease(_)
        | Operation::NodeBooted => Vec::new(),
        Operation::Proclaim { name, .. } => vec![Use::Campaign(name.clone())],
        Operation::Put { key, .. } => vec![write(&KeyRange::Key(key.clone()))],
        Operation::Release { queue: name, .. } => vec![queue(name)],
        Operation::RevokeLeases { leases } => {
            let all = leases.iter().filter_map(|&lease| machine.lease(lease));
            let others = all.filter(|lease| lease.node != origin.node);
            let ended = |lease: &Lease| match lease.bind {
                // All leases of a host go with its own, which only a leader ends, when it retires.
                Bind::Node if !origin.leads => vec![Use::Never],
                _ => lease.keys.iter().map(ended).collect(),
            };
            others.flat_map(ended).collect()
        }
        Operation::Txn(txn) => {
            let all = txn.then.iter().chain(&txn.or_else);
            let written = |operation: &TxnOperation| match operation {
                TxnOperation::Delete(selection) => Some(write(&range(selection))),
                TxnOperation::Get(_) => None,
                TxnOperation::Put { key, .. } => Some(write(&KeyRange::Key(key.clone()))),
            };
            all.filter_map(written).collect()
        }
    }
}

fn range(selection: &Selection) -> KeyRange {
    match selection {
        Selection::Key(key) => KeyRange::Key(key.clone()),
        Selection::Prefix(prefix) => KeyRange::Prefix(prefix.clone()),
    }
}

fn queue(queue: &QueueName) -> Use {
    match queue.kind {
        QueueKind::Election => Use::Campaign(queue.name.clone()),
        QueueKind::Barrier | QueueKind::Lock => Use::Lock(queue.name.clone()),
    }
}

/// A key or place that goes with its lease.
fn ended(key: &Bytes) -> Use {
    match parse_queue_key(key) {
        Some((name, ..)) => queue(&name),
        None => write(&KeyRange::Key(key.clone())),
    }
}

/// Writing keys. What belongs to the daemons (reservations, tokens, who may join) is a matter of
/// administration; the empty prefix is every key but those.
fn write(range: &KeyRange) -> Use {
    let touches = |namespace: &[u8]| match range {
        KeyRange::Key(key) => key.starts_with(namespace),
        KeyRange::Prefix(prefix) => {
            !prefix.is_empty() && (prefix.starts_with(namespace) || namespace.starts_with(prefix))
        }
    };
    if PLACES.into_iter().any(touches) {
        return Use::Never;
    }
    if touches(b"_") { Use::Administrate } else { Use::Write(range.clone()) }
}

impl Reservation {
    fn names(&self, node: Option<&str>) -> bool {
        let name = node.map(|node| KeyRange::Key(Bytes::copy_from_slice(node.as_bytes())));
        name.is_some_and(|name| self.nodes.iter().any(|pattern| pattern.covers(&name)))
    }

    /// Reads the one form in which `api/` writes them: JSON without any white space, of lists of
    /// texts in which nothing is escaped but `"` and `\`.
    fn parse(value: &[u8]) -> Option<Self> {
        let mut text = Reader { rest: std::str::from_utf8(value).ok()? };
        let mut reservation = Self::default();
        text.take('{')?;
        loop {
            let field = text.string()?;
            text.take(':')?;
            let list = match field.as_str() {
                "nodes" => &mut reservation.nodes,
                "write" => &mut reservation.write,
                "lock" => &mut reservation.lock,
                "campaign" => &mut reservation.campaign,
                "administrate" => {
                    text.rest = text.rest.strip_prefix("true")?;
                    reservation.administrate = true;
                    if text.take(',').is_some() {
                        continue;
                    }
                    break;
                }
                _ => return None,
            };
            *list = text.list()?;
            if text.take(',').is_none() {
                break;
            }
        }
        text.take('}')?;
        text.rest.is_empty().then_some(reservation)
    }
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn take(&mut self, letter: char) -> Option<()> {
        self.rest = self.rest.strip_prefix(letter)?;
        Some(())
    }

    fn list(&mut self) -> Option<Vec<NamePattern>> {
        let mut list = Vec::new();
        self.take('[')?;
        loop {
            list.push(NamePattern::parse(&self.string()?).ok()?);
            if self.take(',').is_none() {
                break;
            }
        }
        self.take(']')?;
        Some(list)
    }

    fn string(&mut self) -> Option<String> {
        self.take('"')?;
        let mut text = String::new();
        let mut letters = self.rest.char_indices();
        while let Some((at, letter)) = letters.next() {
            match letter {
                '"' => {
                    self.rest = &self.rest[at + 1..];
                    return Some(text);
                }
                '\\' => {
                    let (_, escaped) = letters.next()?;
                    if !matches!(escaped, '"' | '\\') {
                        return None;
                    }
                    text.push(escaped);
                }
                letter => text.push(letter),
            }
        }
        None
    }
}
