//! What requests may say, and that everything else is refused with its name.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::api::types::Code;
use crate::base::{LeaseId, Revision, Span};
use crate::node::Consistency;
use crate::state::Condition;

use super::params::{
    Freshness, NoneMatch, Params, accepts, condition, idempotency, path_bytes, refuse_conditions,
};

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let name: HeaderName = name.parse().unwrap();
        headers.append(name, HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn detail(query: &str) -> String {
    let fault = Params::parse(Some(query), &["limit", "prefix"]).unwrap_err();
    assert_eq!(fault.code(), Code::InvalidRequest);
    fault.into_problem().detail
}

#[test]
fn unknown_and_repeated_parameters_are_named() {
    assert!(detail("limt=5").contains("\"limt\""), "{}", detail("limt=5"));
    assert!(detail("limit=5&Limit=6").contains("\"Limit\""));
    assert!(detail("limit=5&limit=5").contains("\"limit\" is there twice"));
    assert!(detail("prefix=%zz").contains("\"prefix\""));
    assert!(detail("prefix=%4").contains("\"prefix\""));
    assert!(detail("prefi%78=a").contains("prefi%78"));
}

#[test]
fn values_are_decoded_once_and_to_bytes() {
    let query = "prefix=a%2Fb%25%41+c%FF&limit=7";
    let params = Params::parse(Some(query), &["prefix", "limit", "start_after"]).unwrap();
    assert_eq!(params.bytes("prefix").unwrap().as_ref(), b"a/b%A c\xff");
    assert_eq!(params.number("limit").unwrap(), Some(7));
    assert_eq!(params.bytes("start_after"), None);
    let empty = Params::parse(Some("prefix=&&"), &["prefix"]).unwrap();
    assert_eq!(empty.bytes("prefix").unwrap().as_ref(), b"");
    let bare = Params::parse(Some("prefix"), &["prefix"]).unwrap();
    assert_eq!(bare.bytes("prefix").unwrap().as_ref(), b"");
}

#[test]
fn paths_are_decoded_once_and_plus_stays() {
    assert_eq!(path_bytes("a+b%2Fc%252F", "key").unwrap().as_ref(), b"a+b/c%2F");
    assert_eq!(path_bytes("%ff%00", "key").unwrap().as_ref(), b"\xff\x00");
    for bad in ["%", "a%2", "%g0", "%+1", ""] {
        assert!(path_bytes(bad, "key").is_err(), "{bad:?}");
    }
}

#[test]
fn numbers_flags_ids_and_times_are_strict() {
    let known = ["a", "consistency", "min_revision"];
    let params = |query| Params::parse(Some(query), &known).unwrap();
    for bad in ["a=", "a=-1", "a=+1", "a=1.0", "a=0x1", "a=18446744073709551616", "a=%F0"] {
        assert!(params(bad).number("a").is_err(), "{bad}");
    }
    assert_eq!(params("a=18446744073709551615").number("a").unwrap(), Some(u64::MAX));
    assert!(params("a=true").flag("a").unwrap());
    assert!(!params("a=false").flag("a").unwrap());
    for bad in ["a", "a=1", "a=TRUE", "a=yes"] {
        assert!(params(bad).flag("a").is_err(), "{bad}");
    }
    assert_eq!(params("a=1f").lease("a").unwrap(), Some(LeaseId(31)));
    assert!(params("a=1F").lease("a").is_err());
    assert_eq!(params("timeout=250ms").timeout().unwrap(), Span::from_millis(250));
    assert_eq!(params("").timeout().unwrap(), Span::from_secs(5));
    for bad in ["timeout=5", "timeout=0s", "timeout=601s", "timeout=", "timeout=1h"] {
        assert!(params(bad).timeout().is_err(), "{bad}");
    }
    let local = Freshness { local: true, min_revision: Some(Revision(9)) };
    assert_eq!(params("consistency=local&min_revision=9").consistency().unwrap(), local);
    assert!(params("consistency=stale").consistency().is_err());
}

#[test]
fn freshness_is_a_list_of_barriers() {
    let barriers =
        |local, min_revision| Freshness { local, min_revision }.barriers().collect::<Vec<_>>();
    let nine = Some(Revision(9));
    assert_eq!(barriers(false, None), [Consistency::Linearizable]);
    assert_eq!(barriers(true, None), [Consistency::Local { min_revision: None }]);
    assert_eq!(barriers(true, nine), [Consistency::Local { min_revision: nine }]);
    let both = [Consistency::Linearizable, Consistency::Local { min_revision: nine }];
    assert_eq!(barriers(false, nine), both);
}

#[test]
fn preconditions_of_writes() {
    let of = |pairs: &[(&str, &str)]| condition(&headers(pairs));
    assert_eq!(of(&[]).unwrap(), Condition::None);
    assert_eq!(of(&[("if-match", "\"42\"")]).unwrap(), Condition::ModRevision(Revision(42)));
    assert_eq!(of(&[("if-match", "\"0\"")]).unwrap(), Condition::Absent);
    assert_eq!(of(&[("if-none-match", "*")]).unwrap(), Condition::Absent);
    for bad in ["42", "*", "\"42\", \"43\"", "W/\"42\"", "\"\"", "\"x\"", "\"+1\"", ""] {
        assert!(of(&[("if-match", bad)]).is_err(), "{bad:?}");
    }
    assert!(of(&[("if-none-match", "\"42\"")]).is_err());
    assert!(of(&[("if-match", "\"1\""), ("if-none-match", "*")]).is_err());
    assert!(of(&[("if-match", "\"1\""), ("if-match", "\"2\"")]).is_err());
    assert!(refuse_conditions(&headers(&[("if-match", "\"1\"")])).is_err());
    assert!(refuse_conditions(&headers(&[])).is_ok());
}

#[test]
fn validators_of_reads() {
    let holds = |text, revision| {
        let headers = headers(&[("if-none-match", text)]);
        NoneMatch::parse(&headers).map(|none_match| none_match.holds(Revision(revision)))
    };
    assert_eq!(holds("\"5\"", 5), Ok(true));
    assert_eq!(holds("\"5\"", 6), Ok(false));
    assert_eq!(holds("W/\"5\", \"6\"", 6), Ok(true));
    assert_eq!(holds("*", 6), Ok(true));
    for bad in ["5", "\"a\"", "\"5\",", ""] {
        assert!(holds(bad, 5).is_err(), "{bad:?}");
    }
    assert_eq!(NoneMatch::parse(&headers(&[])), Ok(NoneMatch::Absent));
    assert!(NoneMatch::parse(&headers(&[("if-match", "\"5\"")])).is_err());
}

#[test]
fn idempotency_keys_are_short_and_visible() {
    let of = |text: &str| idempotency(&headers(&[("idempotency-key", text)]), 7);
    let key = of("a-b_C!~").unwrap().unwrap();
    assert_eq!((key.uid, key.key.as_str()), (7, "a-b_C!~"));
    assert!(of(&"x".repeat(128)).is_ok());
    for bad in ["", "a b", &"x".repeat(129), "a\tb"] {
        assert!(of(bad).is_err(), "{bad:?}");
    }
    assert_eq!(idempotency(&headers(&[]), 7), Ok(None));
}

#[test]
fn media_types_are_asked_for_by_name() {
    let asked = |text| accepts(&headers(&[("accept", text)]), "application/json");
    assert!(asked("application/json"));
    assert!(asked("text/html, Application/JSON;q=0.5"));
    assert!(!asked("*/*"));
    assert!(!asked("application/json-seq"));
    assert!(!accepts(&HeaderMap::new(), "application/json"));
}
