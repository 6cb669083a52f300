//! Requests that are almost right: the query, the path, headers, bodies, and whole requests on the
//! socket. Each is answered or refused; nothing panics, hangs or grows.

use http::HeaderMap;
use http::header::{ACCEPT, HeaderValue, IF_MATCH, IF_NONE_MATCH};

use crate::api::types::{
    AcquireRequest, CampaignRequest, CompactRequest, DurationText, GrantLeaseRequest, HexId,
    TxnRequest,
};
use crate::base::Rng;
use crate::base::mutants_test::{hammer, mutate, mutate_text};

use super::params::{NoneMatch, Params, condition, idempotency, lease_id, path_bytes};

const QUERIES: [&str; 6] = [
    "timeout=5s&consistency=local&min_revision=18446744073709551615",
    "prefix=a%2Fb%00&limit=10&revision=7&keys_only=true",
    "lease=1f&from=12&resume_after=%ff%fe&previous=true",
    "timeout=1h59m59s999ms",
    "&&&=&=&timeout",
    "prefix=+%2B+&limit=00000000000000000000001",
];

const HEADERS: [&str; 6] = [
    "\"42\"",
    "*",
    "W/\"1\", \"2\" ,\"3\"",
    "\"18446744073709551616\"",
    "",
    "application/json;q=0.1, */*",
];

const BODIES: [&str; 6] = [
    r#"{"compare":[{"key":"a","mod_revision":1,"op":"equal"}],
        "then":[{"put":{"key":"a","value":"b"}}],"else":[{"get":{"prefix":"x"}}]}"#,
    r#"{"compare":[{"key_base64":"AAE=","value_base64":"/w==","op":"not_equal"}],
        "then":[{"delete":{"key":"a"}}]}"#,
    r#"{"ttl":"10s","bind":"process","pid":7,"info":"x"}"#,
    r#"{"lease":"1f","slots":2,"value":"v","wait":true,"timeout":"5s"}"#,
    r#"{"lease":{"ttl":"1m30s","bind":"connection"},"value_base64":"AAAA"}"#,
    r#"{"revision":7}"#,
];

fn pick<'a>(rng: &mut Rng, texts: &[&'a str]) -> &'a str {
    texts[rng.below(texts.len() as u64) as usize]
}

#[test]
fn queries_paths_and_headers_that_are_almost_right() {
    hammer("api parameters", 3_000, |rng| {
        let (sample, other) = (pick(rng, &QUERIES), pick(rng, &QUERIES));
        let text = mutate_text(rng, sample, other);
        let names = ["prefix", "limit", "revision", "lease", "from", "consistency", "min_revision"];
        if let Ok(params) = Params::parse(Some(&text), &names) {
            let _ = (params.bytes("prefix"), params.number("limit"), params.revision("from"));
            let _ = (params.flag("prefix"), params.lease("lease"), params.timeout());
            let _ = params.consistency().map(|freshness| freshness.barriers().count());
        }
        if let Ok(bytes) = path_bytes(&text, "key") {
            assert!(bytes.len() <= text.len(), "{text:?} became longer");
        }
        let _ = lease_id(text.as_bytes(), "lease");
        let mut bytes = pick(rng, &HEADERS).as_bytes().to_vec();
        let other = pick(rng, &HEADERS).as_bytes();
        mutate(rng, &mut bytes, other);
        let Ok(value) = HeaderValue::from_bytes(&bytes) else { return };
        for name in [IF_MATCH, IF_NONE_MATCH, ACCEPT] {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.clone());
            headers.insert("idempotency-key", value.clone());
            let _ = (condition(&headers), NoneMatch::parse(&headers), idempotency(&headers, 0));
        }
    });
}

#[test]
fn durations_and_ids_that_are_almost_right() {
    hammer("api texts", 5_000, |rng| {
        let sample = pick(rng, &["1h2m3s4ms", "10s", "250ms"]);
        let text = mutate_text(rng, sample, "99999999999999h");
        if let Ok(duration) = text.parse::<DurationText>() {
            let again = duration.to_string().parse::<DurationText>();
            assert_eq!(again, Ok(duration), "{text:?}");
        }
        let text = mutate_text(rng, "0123456789abcdef", "ABCDEFG");
        if let Ok(id) = text.parse::<HexId>() {
            assert_eq!(id.to_string().parse(), Ok(id), "{text:?}");
        }
    });
}

/// All that a body can be read as.
fn read_body(text: &[u8]) -> usize {
    [
        serde_json::from_slice::<AcquireRequest>(text).is_ok(),
        serde_json::from_slice::<CampaignRequest>(text).is_ok(),
        serde_json::from_slice::<CompactRequest>(text).is_ok(),
        serde_json::from_slice::<GrantLeaseRequest>(text).is_ok(),
        serde_json::from_slice::<TxnRequest>(text).is_ok(),
    ]
    .into_iter()
    .filter(|taken| *taken)
    .count()
}

#[test]
fn bodies_that_are_almost_right() {
    let taken: usize = BODIES.iter().map(|body| read_body(body.as_bytes())).sum();
    assert!(taken >= BODIES.len() - 2, "the samples are not what the API takes: {taken}");
    hammer("api bodies", 3_000, |rng| {
        let mut bytes = pick(rng, &BODIES).as_bytes().to_vec();
        let other = pick(rng, &BODIES).as_bytes();
        mutate(rng, &mut bytes, other);
        read_body(&bytes);
    });
}

#[test]
fn bodies_that_nest_without_end_are_refused() {
    for (open, close) in
        [("[", "]"), ("{\"then\":", "}"), ("{\"then\":[", "]}"), ("{\"a\":[", "]}")]
    {
        for depth in [200, 100_000] {
            let nested = format!("{}{}", open.repeat(depth), close.repeat(depth));
            assert_eq!(read_body(nested.as_bytes()), 0, "{open} {depth} times");
            assert_eq!(read_body(open.repeat(depth).as_bytes()), 0, "{open} {depth} times, open");
        }
    }
}
