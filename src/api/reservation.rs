//! Keys under `_access/`: names that the cluster reserves for nodes. Their content is checked here,
//! because what reads it, the leader's intake, must find one form only.
//!
//! What a reservation means is decided in `replica/`.

use bytes::Bytes;

use crate::api::types::Reservation;
use crate::base::{KeyRange, NamePattern, limits};

use super::context::Context;
use super::problem::Fault;

const PREFIX: &[u8] = b"_access/";

/// The name of the reservation that a key holds, if it is one.
pub(super) fn name(key: &[u8]) -> Option<&[u8]> {
    key.strip_prefix(PREFIX)
}

/// Refuses keys that may not be written, reservations excepted.
pub(super) fn check_key(context: &Context, key: &[u8]) -> Result<(), Fault> {
    let Some(name) = name(key) else { return context.check_written_key(key) };
    let letter = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    match (1..=limits::RESERVATION_NAME_BYTES_MAX).contains(&name.len()) && name.iter().all(letter)
    {
        true => Ok(()),
        false => Err(Fault::invalid(
            "the name of a reservation has 1 to 63 letters, digits, \"-\", \"_\" or \".\"",
        )),
    }
}

/// The one form of a reservation, from what a caller wrote.
pub(super) fn canonical(context: &Context, value: &[u8]) -> Result<Bytes, Fault> {
    let max = limits::RESERVATION_BYTES_MAX;
    if value.len() > max {
        return Err(Fault::too_large("a reservation", max, "bytes"));
    }
    let reservation: Reservation = serde_json::from_slice(value)
        .map_err(|error| Fault::invalid(format!("a reservation is JSON: {error}")))?;
    let Reservation { nodes, write, lock, campaign, administrate } = &reservation;
    let mut parsed = Vec::new();
    for (field, list) in
        [("nodes", nodes), ("write", write), ("lock", lock), ("campaign", campaign)]
    {
        for text in list {
            let pattern = NamePattern::parse(text);
            let pattern = pattern.map_err(|why| Fault::invalid(format!("{field:?}: {why}")))?;
            if text.chars().any(char::is_control) {
                return Err(Fault::invalid(format!("{field:?}: a control character")));
            }
            if field == "nodes" {
                parsed.push(pattern);
            }
        }
    }
    if nodes.is_empty() {
        return Err(Fault::invalid("\"nodes\" is empty: the names would be for nobody"));
    }
    if write.is_empty() && lock.is_empty() && campaign.is_empty() && !administrate {
        return Err(Fault::invalid("it reserves nothing"));
    }
    // Whoever reserves administration for others only could never take it back.
    let own = KeyRange::Key(Bytes::from(context.node.status().name.clone()));
    if *administrate && !parsed.iter().any(|pattern| pattern.covers(&own)) {
        return Err(Fault::unmet(
            "this node would lock itself out: reserve administration through a node that is named",
        ));
    }
    let text = serde_json::to_vec(&reservation).expect("the types of the API serialise");
    Ok(Bytes::from(text))
}
