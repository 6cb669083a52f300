//! What the JSON looks like, byte for byte, and that both sides read what the other writes.

use std::fmt::Debug;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{
    AcquireRequest, Applied, Bind, CampaignRequest, Code, Compare, ElectionMessage,
    GrantLeaseRequest, HexId, LeaseMessage, LockView, Operand, Place, PlaceMessage, Problem,
    PutAnswer, Record, Target, TxnOperation, TxnRequest, TxnResult, WatchEvent, WatchEventKind,
    WatchMessage,
};

fn both_ways<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T, json: &str) {
    let json: String = json.lines().map(str::trim).collect();
    assert_eq!(serde_json::to_string(value).unwrap(), json);
    assert_eq!(&serde_json::from_str::<T>(&json).unwrap(), value, "read back from {json}");
}

fn refused<T: DeserializeOwned + Debug>(json: &str, because: &str) {
    let error = serde_json::from_str::<T>(json).expect_err(json).to_string();
    assert!(error.contains(because), "{json}: {error}");
}

fn record(value: &'static [u8]) -> Record {
    Record {
        key: Bytes::from_static(b"a/b"),
        value: Some(Bytes::from_static(value)),
        create_revision: 2,
        mod_revision: 5,
        version: 3,
        lease: Some(HexId(0x1f)),
    }
}

fn place(value: Option<&'static [u8]>) -> Place {
    Place {
        token: 7,
        lease: HexId(2),
        node: Some("n1".into()),
        pid: Some(12),
        uid: Some(0),
        info: "x".into(),
        mode: None,
        value: value.map(Bytes::from_static),
    }
}

#[test]
fn records_and_answers() {
    both_ways(
        &record(b"v"),
        r#"{"key":"a/b","value":"v","create_revision":2,"mod_revision":5,"version":3,
          "lease":"1f"}"#,
    );
    let none = Record { value: None, lease: None, ..record(b"") };
    both_ways(
        &none,
        r#"{"key":"a/b","create_revision":2,"mod_revision":5,"version":3,"lease":null}"#,
    );
    let answer = PutAnswer {
        key: Bytes::from_static(b"\xfe"),
        revision: 4,
        create_revision: 4,
        mod_revision: 4,
        version: 1,
    };
    both_ways(
        &answer,
        r#"{"key_base64":"/g==","revision":4,"create_revision":4,"mod_revision":4,"version":1}"#,
    );
}

#[test]
fn transactions_in_every_shape() {
    let json = r#"{"if":[{"key":"k","field":"mod_revision","op":"==","value":3},
      {"key_base64":"/w==","field":"value","op":"!=","value_base64":"/w=="},{"key":"k",
        "field":"lease","op":"<","value":"1f"}],"then":[{"put":{"key":"k","value":"v",
          "lease":"1f"}},{"delete":{"prefix":"p/"}}],"else":[{"get":{"key":"k"}}]}"#;
    let txn: TxnRequest = serde_json::from_str(json).unwrap();
    assert_eq!(txn.compares[0].value, Operand::Number(3));
    assert_eq!(txn.compares[1].key, Bytes::from_static(b"\xff"));
    assert_eq!(txn.or_else, [TxnOperation::Get(Target::Key(Bytes::from_static(b"k")))]);
    both_ways(&txn, json);
    both_ways(&TxnRequest::default(), "{}");
    both_ways(
        &TxnResult::Put { create_revision: 2, mod_revision: 3, version: 2 },
        r#"{"put":{"create_revision":2,"mod_revision":3,"version":2}}"#,
    );
    both_ways(&TxnResult::Delete { deleted: 2 }, r#"{"delete":{"deleted":2}}"#);
}

#[test]
fn typos_in_requests_are_errors_that_name_the_field() {
    refused::<TxnRequest>(r#"{"iff":[]}"#, "unknown field `iff`");
    refused::<TxnRequest>(r#"{"then":[{"put":{"key":"k","valeu":"v"}}]}"#, "unknown field `valeu`");
    refused::<TxnRequest>(r#"{"then":[{"putt":{}}]}"#, "unknown variant `putt`");
    refused::<TxnRequest>(r#"{"then":[{"put":{"key":"k"}}]}"#, "missing field \"value\"");
    refused::<TxnRequest>(r#"{"then":[{"get":{}}]}"#, "either \"key\" or \"prefix\"");
    refused::<TxnRequest>(r#"{"then":[{"get":{"key":"a","prefix":"b"}}]}"#, "either");
    refused::<TxnRequest>(r#"{"if":[],"if":[]}"#, "duplicate field");
    refused::<Compare>(
        r#"{"key":"k","field":"version","op":"=","value":1}"#,
        "unknown variant `=`",
    );
    refused::<Compare>(r#"{"key":"k","field":"mod","op":"==","value":1}"#, "unknown variant `mod`");
    refused::<Compare>(
        r#"{"key":"k","field":"version","op":"==","value":-1}"#,
        "\"value\" must be",
    );
    refused::<Compare>(r#"{"key":"k","field":"version","op":"=="}"#, "missing field \"value\"");
    refused::<GrantLeaseRequest>(r#"{"tll":"10s"}"#, "unknown field `tll`");
    refused::<GrantLeaseRequest>(r#"{"ttl":10}"#, "invalid type");
    refused::<GrantLeaseRequest>(r#"{"ttl":"10"}"#, "is not a duration");
    refused::<GrantLeaseRequest>(r#"{"bind":"conn"}"#, "unknown variant `conn`");
    refused::<AcquireRequest>(r#"{"lease":"XYZ"}"#, "is not an id");
    refused::<AcquireRequest>(r#"{"value":"x"}"#, "unknown field `value`");
    refused::<CampaignRequest>(r#"{"slots":2}"#, "unknown field `slots`");
}

#[test]
fn lock_and_lease_requests_round_trip() {
    let request = AcquireRequest {
        ttl: Some("5s".parse().unwrap()),
        bind: Some(Bind::Connection),
        wait: Some("250ms".parse().unwrap()),
        slots: Some(3),
        ..AcquireRequest::default()
    };
    both_ways(&request, r#"{"ttl":"5s","bind":"connection","wait":"250ms","slots":3}"#);
    both_ways(&AcquireRequest::default(), "{}");
    let campaign = CampaignRequest {
        value: Bytes::from_static(b"me:80"),
        lease: Some(HexId(255)),
        ..CampaignRequest::default()
    };
    both_ways(&campaign, r#"{"value":"me:80","lease":"ff"}"#);
    assert_eq!(serde_json::from_str::<CampaignRequest>("{}").unwrap().value, Bytes::new());
}

#[test]
fn streams_of_watches() {
    both_ways(
        &WatchMessage::Snapshot { revision: 4, epoch: 1, keys: vec![record(b"v")], more: true },
        r#"{"type":"snapshot","revision":4,"epoch":1,"keys":[{"key":"a/b","value":"v",
          "create_revision":2,"mod_revision":5,"version":3,"lease":"1f"}],"more":true}"#,
    );
    let put = WatchEvent { kind: WatchEventKind::Put, record: record(b"v"), prev: None };
    let gone = Record {
        value: None,
        create_revision: 0,
        mod_revision: 0,
        version: 0,
        lease: None,
        ..record(b"")
    };
    let delete =
        WatchEvent { kind: WatchEventKind::Delete, record: gone, prev: Some(record(b"v")) };
    both_ways(
        &WatchMessage::Changes { revision: 5, events: vec![put, delete] },
        r#"{"type":"changes","revision":5,"events":[{"type":"put","key":"a/b","value":"v",
          "create_revision":2,"mod_revision":5,"version":3,"lease":"1f"},{"type":"delete",
            "key":"a/b","prev":{"key":"a/b","value":"v","create_revision":2,"mod_revision":5,
              "version":3,"lease":"1f"}}]}"#,
    );
    both_ways(&WatchMessage::Leader { present: false }, r#"{"type":"leader","present":false}"#);
    let problem = Problem {
        type_uri: None,
        title: "compacted".into(),
        status: 410,
        detail: "d".into(),
        code: Code::Compacted,
        applied: None,
        compact_revision: Some(9),
        mod_revision: None,
        revision: None,
        holders: None,
        rule: None,
    };
    both_ways(
        &WatchMessage::Error(problem),
        r#"{"type":"error","title":"compacted","status":410,"detail":"d","code":"compacted",
          "compact_revision":9}"#,
    );
}

#[test]
fn streams_of_locks_and_elections() {
    both_ways(
        &PlaceMessage::Waiting {
            position: 2,
            token: 9,
            lease: HexId(3),
            holders: vec![place(None)],
        },
        r#"{"state":"waiting","position":2,"token":9,"lease":"3","holders":[{"token":7,
          "lease":"2","node":"n1","pid":12,"uid":0,"info":"x"}]}"#,
    );
    both_ways(
        &PlaceMessage::Held { token: 9, lease: HexId(3), valid_for_ms: 9_000, revision: 9 },
        r#"{"state":"held","token":9,"lease":"3","valid_for_ms":9000,"revision":9}"#,
    );
    both_ways(
        &ElectionMessage::Leader { leader: Some(place(Some(b"v"))), revision: 8 },
        r#"{"type":"leader","leader":{"value":"v","token":7,"lease":"2","node":"n1","pid":12,
          "uid":0,"info":"x"},"revision":8}"#,
    );
    both_ways(
        &ElectionMessage::Leader { leader: None, revision: 8 },
        r#"{"type":"leader","leader":null,"revision":8}"#,
    );
}

#[test]
fn answers_of_a_newer_daemon_are_understood() {
    let message: WatchMessage = serde_json::from_str(r#"{"type":"news","x":1}"#).unwrap();
    assert_eq!(message, WatchMessage::Unknown);
    let message: PlaceMessage = serde_json::from_str(r#"{"state":"news","x":1}"#).unwrap();
    assert_eq!(message, PlaceMessage::Unknown);
    let json = r#"{"state":"active","lease":"1","valid_for_ms":5,"news":true}"#;
    assert_eq!(serde_json::from_str::<LeaseMessage>(json).unwrap().valid_for_ms, 5);
    let json = r#"{"title":"t","status":418,"detail":"d","code":"tea","applied":"no","x":[]}"#;
    let problem: Problem = serde_json::from_str(json).unwrap();
    assert_eq!((problem.code, problem.applied), (Code::Unknown, Some(Applied::No)));
    let json = r#"{"name":"l","slots":1,"holders":[{"token":1,"lease":"1","new":0}],"revision":3}"#;
    assert_eq!(serde_json::from_str::<LockView>(json).unwrap().holders[0].uid, None);
}
