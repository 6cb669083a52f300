//! Bad input of every kind: the documented error and nothing else, and nobody else notices.

use std::fs;
use std::io::{BufReader, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Cluster, Options, Process, certify, quorumd, test_directory, wait_until};
use crate::http::{Answer, ask, get, post, put, read_answer, request, send};

/// Limits that a test can reach with few bytes.
const SMALL: &str =
    "limits: {key_bytes: 64, value_bytes: 1KiB, request_bytes: 4KiB, txn_operations: 4}\n";

/// A request that must be refused: its line, headers, body, and the status and code that it gets.
type Case =
    (&'static str, &'static [(&'static str, &'static str)], &'static str, u16, &'static str);

const PUT_CASES: &[Case] = &[
    ("PUT /v1/kv/a?leese=1", &[], "v", 400, "invalid_request"),
    ("PUT /v1/kv/a?lease=XYZ", &[], "v", 400, "invalid_request"),
    ("PUT /v1/kv/a?lease=12345678901234567", &[], "v", 400, "invalid_request"),
    ("PUT /v1/kv/a?lease=abc", &[], "v", 404, "lease_not_found"),
    ("PUT /v1/kv/a?timeout=5", &[], "v", 400, "invalid_request"),
    ("PUT /v1/kv/a?timeout=5d", &[], "v", 400, "invalid_request"),
    ("PUT /v1/kv/a?timeout=-1s", &[], "v", 400, "invalid_request"),
    ("PUT /v1/kv/a?timeout=0s", &[], "v", 400, "invalid_request"),
    ("PUT /v1/kv/a?timeout=1s&timeout=2s", &[], "v", 400, "invalid_request"),
    ("PUT /v1/kv/a?timeout=1000h", &[], "v", 400, "invalid_request"),
    ("PUT /v1/kv/%", &[], "v", 400, "invalid_request"),
    ("PUT /v1/kv/a%2", &[], "v", 400, "invalid_request"),
    ("PUT /v1/kv/a%zz", &[], "v", 400, "invalid_request"),
    ("PUT /v1/kv/", &[], "v", 404, "no_such_route"),
    ("PUT /v1/kv/_x", &[], "v", 403, "forbidden"),
    ("PUT /v1/kv/%5Flocks/l/1", &[], "v", 403, "forbidden"),
    ("PUT /v1/kv/_locks/l/1", &[], "v", 403, "forbidden"),
    ("PUT /v1/kv/a", &[("If-Match", "3")], "v", 400, "invalid_request"),
    ("PUT /v1/kv/a", &[("If-Match", "*")], "v", 400, "invalid_request"),
    ("PUT /v1/kv/a", &[("If-Match", "\"x\"")], "v", 400, "invalid_request"),
    ("PUT /v1/kv/a", &[("If-Match", "\"-1\"")], "v", 400, "invalid_request"),
    ("PUT /v1/kv/a", &[("If-Match", "W/\"3\"")], "v", 400, "invalid_request"),
    ("PUT /v1/kv/a", &[("If-Match", "\"1\", \"2\"")], "v", 400, "invalid_request"),
    ("PUT /v1/kv/a", &[("If-Match", "\"1\""), ("If-Match", "\"2\"")], "v", 400, "invalid_request"),
    ("PUT /v1/kv/a", &[("If-Match", "\"99999999999999999999\"")], "v", 400, "invalid_request"),
    ("PUT /v1/kv/a", &[("If-None-Match", "\"3\"")], "v", 400, "invalid_request"),
    ("PUT /v1/kv/a", &[("If-Match", "\"1\""), ("If-None-Match", "*")], "v", 400, "invalid_request"),
    ("PUT /v1/kv/a", &[("If-Match", "\"999\"")], "v", 412, "precondition_failed"),
    ("PUT /v1/kv/absent", &[("If-Match", "\"999\"")], "v", 412, "precondition_failed"),
    ("PUT /v1/kv/a", &[("If-None-Match", "*")], "v", 412, "precondition_failed"),
    ("PUT /v1/kv/a", &[("Idempotency-Key", "two words")], "v", 400, "invalid_request"),
    ("PUT /v1/kv/a", &[("Idempotency-Key", "")], "v", 400, "invalid_request"),
    ("PUT /v1/kv/a", &[("Idempotency-Key", "caf\u{e9}")], "v", 400, "invalid_request"),
    ("DELETE /v1/kv/_x", &[], "", 403, "forbidden"),
    ("DELETE /v1/kv/a", &[("If-Match", "nine")], "", 400, "invalid_request"),
    ("DELETE /v1/kv/a", &[("If-None-Match", "*")], "", 400, "invalid_request"),
    ("DELETE /v1/kv/a", &[], "body", 400, "invalid_request"),
    ("DELETE /v1/kv", &[], "", 400, "invalid_request"),
    ("DELETE /v1/kv?prefix=", &[], "", 400, "invalid_request"),
    ("DELETE /v1/kv?prefix=&all=yes", &[], "", 400, "invalid_request"),
    ("DELETE /v1/kv?prefix=_", &[], "", 403, "forbidden"),
    ("DELETE /v1/kv?prefix=a&al=true", &[], "", 400, "invalid_request"),
];

const READ_CASES: &[Case] = &[
    ("GET /v1/kv/absent", &[], "", 404, "key_not_found"),
    ("GET /v1/kv/a?revison=1", &[], "", 400, "invalid_request"),
    ("GET /v1/kv/a?revision=x", &[], "", 400, "invalid_request"),
    ("GET /v1/kv/a?revision=", &[], "", 400, "invalid_request"),
    ("GET /v1/kv/a?revision=-1", &[], "", 400, "invalid_request"),
    ("GET /v1/kv/a?revision=999999", &[], "", 400, "invalid_request"),
    ("GET /v1/kv/a?revision=18446744073709551616", &[], "", 400, "invalid_request"),
    ("GET /v1/kv/a?consistency=eventual", &[], "", 400, "invalid_request"),
    ("GET /v1/kv/a?min_revision=new", &[], "", 400, "invalid_request"),
    ("GET /v1/kv/a?consistency=local&min_revision=999999&timeout=50ms", &[], "", 504, "timeout"),
    ("GET /v1/kv/a?wait_after=1&revision=1", &[], "", 400, "invalid_request"),
    ("GET /v1/kv/a", &[("If-None-Match", "3")], "", 400, "invalid_request"),
    ("GET /v1/kv/a", &[("If-Match", "\"3\"")], "", 400, "invalid_request"),
    ("GET /v1/kv/a", &[], "a body", 400, "invalid_request"),
    ("GET /v1/kv", &[], "", 400, "invalid_request"),
    ("GET /v1/kv?prefix=%F", &[], "", 400, "invalid_request"),
    ("GET /v1/kv?prefix=a&limit=0", &[], "", 400, "invalid_request"),
    ("GET /v1/kv?prefix=a&limit=1000000", &[], "", 400, "invalid_request"),
    ("GET /v1/kv?prefix=a&keys_only=1", &[], "", 400, "invalid_request"),
    ("GET /v1/kv?prefix=a&revision=999999", &[], "", 400, "invalid_request"),
    ("GET /v1/kv?prefix=a", &[("If-None-Match", "*")], "", 400, "invalid_request"),
    ("GET /v1/watch", &[], "", 400, "invalid_request"),
    ("GET /v1/watch?key=a&prefix=b", &[], "", 400, "invalid_request"),
    ("GET /v1/watch?prefix=a&from=x", &[], "", 400, "invalid_request"),
    ("GET /v1/watch?prefix=a&inital=true", &[], "", 400, "invalid_request"),
    ("GET /v1/watch?prefix=a", &[("Last-Event-ID", "x")], "", 400, "invalid_request"),
    ("GET /v1/leases/xyz", &[], "", 400, "invalid_request"),
    ("GET /v1/leases/ABC", &[], "", 400, "invalid_request"),
    ("GET /v1/leases/abc", &[], "", 404, "lease_not_found"),
    ("GET /v1/leases/abc/events", &[], "", 404, "lease_not_found"),
    ("GET /v1/locks/l?consistency=none", &[], "", 400, "invalid_request"),
    ("GET /v1/elections/e?watch=maybe", &[], "", 400, "invalid_request"),
    ("GET /v1/status?verbose=true", &[], "", 400, "invalid_request"),
    ("GET /v1/members?x=1", &[], "", 400, "invalid_request"),
    ("GET /", &[], "", 404, "no_such_route"),
    ("GET /v1", &[], "", 404, "no_such_route"),
    ("GET /v2/kv/a", &[], "", 404, "no_such_route"),
    ("GET /v1/KV/a", &[], "", 404, "no_such_route"),
    ("GET /v1/leases/a/b/c", &[], "", 404, "no_such_route"),
];

const METHOD_CASES: &[(&str, &str)] = &[
    ("POST /v1/kv/a", "GET, HEAD, PUT, DELETE"),
    ("PATCH /v1/kv/a", "GET, HEAD, PUT, DELETE"),
    ("OPTIONS /v1/kv/a", "GET, HEAD, PUT, DELETE"),
    ("BREW /v1/kv/a", "GET, HEAD, PUT, DELETE"),
    ("PUT /v1/kv?prefix=a", "GET, HEAD, DELETE"),
    ("GET /v1/txn", "POST"),
    ("POST /v1/watch", "GET"),
    ("DELETE /v1/leases", "GET, HEAD, POST"),
    ("GET /v1/leases/a/keepalive", "POST"),
    ("PUT /v1/locks/l", "GET, HEAD, POST, DELETE"),
    ("POST /v1/status", "GET, HEAD"),
    ("POST /healthz", "GET, HEAD"),
    ("DELETE /metrics", "GET, HEAD"),
];

const BODY_CASES: &[Case] = &[
    ("POST /v1/txn", &[], "{", 400, "invalid_request"),
    ("POST /v1/txn", &[], "nonsense", 400, "invalid_request"),
    ("POST /v1/txn", &[], "[]", 400, "invalid_request"),
    ("POST /v1/txn", &[], "null", 400, "invalid_request"),
    ("POST /v1/txn", &[], "{} {}", 400, "invalid_request"),
    ("POST /v1/txn", &[], "{\"iff\":[]}", 400, "invalid_request"),
    ("POST /v1/txn", &[], "{\"then\":[],\"then\":[]}", 400, "invalid_request"),
    ("POST /v1/txn", &[], "{\"then\":[{\"put\":{\"key\":\"a\"}}]}", 400, "invalid_request"),
    (
        "POST /v1/txn",
        &[],
        "{\"then\":[{\"put\":{\"key\":\"a\",\"value\":\"v\",\"ttl\":\"1s\"}}]}",
        400,
        "invalid_request",
    ),
    (
        "POST /v1/txn",
        &[],
        "{\"then\":[{\"put\":{\"key\":\"a\",\"value\":\"v\",\"value_base64\":\"dg==\"}}]}",
        400,
        "invalid_request",
    ),
    (
        "POST /v1/txn",
        &[],
        "{\"then\":[{\"put\":{\"key\":\"a\",\"value_base64\":\"dg=\"}}]}",
        400,
        "invalid_request",
    ),
    (
        "POST /v1/txn",
        &[],
        "{\"then\":[{\"put\":{\"key\":\"a\",\"value\":\"1\"}},\
         {\"put\":{\"key\":\"a\",\"value\":\"2\"}}]}",
        400,
        "invalid_request",
    ),
    ("POST /v1/txn", &[], "{\"then\":[{\"move\":{\"key\":\"a\"}}]}", 400, "invalid_request"),
    ("POST /v1/txn", &[], "{\"then\":[{\"delete\":{\"prefix\":\"\"}}]}", 400, "invalid_request"),
    ("POST /v1/txn", &[], "{\"then\":[{\"delete\":{\"prefix\":\"_\"}}]}", 403, "forbidden"),
    (
        "POST /v1/txn",
        &[],
        "{\"then\":[{\"put\":{\"key\":\"_x\",\"value\":\"v\"}}]}",
        403,
        "forbidden",
    ),
    (
        "POST /v1/txn",
        &[],
        "{\"then\":[{\"put\":{\"key\":\"a\",\"value\":\"v\",\"lease\":\"abc\"}}]}",
        404,
        "lease_not_found",
    ),
    (
        "POST /v1/txn",
        &[],
        "{\"if\":[{\"key\":\"a\",\"field\":\"age\",\"op\":\"==\",\"value\":1}]}",
        400,
        "invalid_request",
    ),
    (
        "POST /v1/txn",
        &[],
        "{\"if\":[{\"key\":\"a\",\"field\":\"version\",\"op\":\">=\",\"value\":1}]}",
        400,
        "invalid_request",
    ),
    (
        "POST /v1/txn",
        &[],
        "{\"if\":[{\"key\":\"a\",\"field\":\"version\",\"op\":\"==\",\"value\":-1}]}",
        400,
        "invalid_request",
    ),
    (
        "POST /v1/txn",
        &[],
        "{\"if\":[{\"key\":\"a\",\"field\":\"version\",\"op\":\"==\",\"value\":\"1\"}]}",
        400,
        "invalid_request",
    ),
    (
        "POST /v1/txn",
        &[],
        "{\"then\":[{\"get\":{\"key\":\"1\"}},{\"get\":{\"key\":\"2\"}},{\"get\":{\"key\":\"3\"}},\
         {\"get\":{\"key\":\"4\"}},{\"get\":{\"key\":\"5\"}}]}",
        413,
        "too_large",
    ),
    ("POST /v1/leases", &[], "{\"ttl\":10}", 400, "invalid_request"),
    ("POST /v1/leases", &[], "{\"ttl\":\"10\"}", 400, "invalid_request"),
    ("POST /v1/leases", &[], "{\"ttl\":\"1ms\"}", 400, "invalid_request"),
    ("POST /v1/leases", &[], "{\"ttl\":\"1000h\"}", 400, "invalid_request"),
    ("POST /v1/leases", &[], "{\"tll\":\"10s\"}", 400, "invalid_request"),
    ("POST /v1/leases", &[], "{\"bind\":\"host\"}", 400, "invalid_request"),
    ("POST /v1/leases", &[], "{\"bind\":\"node\"}", 400, "invalid_request"),
    ("POST /v1/leases", &[], "{\"pid\":1}", 400, "invalid_request"),
    ("POST /v1/leases/abc/keepalive", &[], "", 404, "lease_not_found"),
    ("POST /v1/leases/abc/keepalive", &[], "{\"ttl\":\"1s\"}", 400, "invalid_request"),
    ("DELETE /v1/leases/abc", &[], "", 404, "lease_not_found"),
    ("POST /v1/locks/l", &[], "{\"wait\":\"soon\"}", 400, "invalid_request"),
    ("POST /v1/locks/l", &[], "{\"slots\":0}", 400, "invalid_request"),
    ("POST /v1/locks/l", &[], "{\"slots\":1000000}", 400, "invalid_request"),
    ("POST /v1/locks/l", &[], "{\"mode\":\"read\"}", 400, "invalid_request"),
    ("POST /v1/locks/l", &[], "{\"mode\":\"shared\",\"slots\":2}", 400, "invalid_request"),
    ("POST /v1/barriers/b", &[], "{}", 400, "invalid_request"),
    ("POST /v1/barriers/b", &[], "{\"count\":0}", 400, "invalid_request"),
    ("POST /v1/barriers/b", &[], "{\"count\":1001}", 400, "invalid_request"),
    ("POST /v1/barriers/b", &[], "{\"count\":-1}", 400, "invalid_request"),
    ("POST /v1/barriers/b", &[], "{\"count\":2,\"slots\":1}", 400, "invalid_request"),
    ("POST /v1/barriers/b", &[], "{\"count\":2,\"lease\":\"abc\"}", 404, "lease_not_found"),
    ("DELETE /v1/barriers/b?token=5", &[], "", 400, "invalid_request"),
    ("DELETE /v1/barriers/b?place=5", &[], "", 404, "lock_not_held"),
    ("PUT /v1/kv/_barriers/b/1", &[], "ready", 403, "forbidden"),
    ("POST /v1/locks/l", &[], "{\"lease\":\"abc\"}", 404, "lease_not_found"),
    ("POST /v1/locks/l", &[], "{\"lease\":\"abc\",\"ttl\":\"1s\"}", 400, "invalid_request"),
    ("POST /v1/locks/l", &[], "{\"bind\":\"none\"}", 400, "invalid_request"),
    ("POST /v1/locks/%GG", &[], "{}", 400, "invalid_request"),
    ("DELETE /v1/locks/l", &[], "", 400, "invalid_request"),
    ("DELETE /v1/locks/l?token=x", &[], "", 400, "invalid_request"),
    ("DELETE /v1/locks/l?token=5", &[], "", 404, "lock_not_held"),
    ("POST /v1/elections/e", &[], "{\"value\":1}", 400, "invalid_request"),
    ("POST /v1/elections/e", &[], "{\"slots\":2}", 400, "invalid_request"),
    ("PUT /v1/elections/e", &[], "v", 400, "invalid_request"),
    ("PUT /v1/elections/e?token=5", &[], "v", 404, "lock_not_held"),
    ("DELETE /v1/elections/e?token=5", &[], "", 404, "lock_not_held"),
    ("POST /v1/compact", &[], "", 400, "invalid_request"),
    ("POST /v1/compact", &[], "[2]", 400, "invalid_request"),
    ("POST /v1/locks/l", &[], " [null, \"10s\"]", 400, "invalid_request"),
    ("POST /v1/compact", &[], "{\"revision\":999999}", 400, "invalid_request"),
    ("POST /v1/compact", &[], "{\"revision\":\"1\"}", 400, "invalid_request"),
];

/// What is wrong with a problem document; nothing when it is as API.md says.
fn faults(line: &str, answer: &Answer, status: u16, code: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let mut check = |good: bool, what: String| {
        if !good {
            faults.push(format!("{line}: {what}; answered {} {}", answer.status, answer.text()));
        }
    };
    check(answer.status == status, format!("not {status}"));
    let media_type = answer.header("content-type").unwrap_or_default();
    check(media_type == "application/problem+json", format!("is {media_type:?}"));
    let problem: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    check(problem["code"] == code, format!("not {code}"));
    check(problem["type"] == format!("/problems/{code}"), "another type".to_owned());
    check(problem["status"] == status, "another status".to_owned());
    for field in ["title", "detail"] {
        let said = problem[field].as_str().is_some_and(|text| text.len() > 3);
        check(said, format!("{field} says nothing"));
    }
    let is_write = !line.starts_with("GET ") && answer.status != 404 && answer.status != 405;
    let applied = problem["applied"].as_str();
    check(!is_write || applied == Some("no"), "does not say that nothing was applied".to_owned());
    check(!line.starts_with("GET ") || applied.is_none(), "a read that is applied".to_owned());
    faults
}

#[track_caller]
fn report(faults: &[String]) {
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

/// Every case of the tables, and nothing of it reaches the store.
#[test]
fn every_mistake_gets_its_documented_error() {
    let cluster = Cluster::with(&Options { more: SMALL.to_owned(), ..Options::default() });
    let socket = cluster.socket(cluster.others(cluster.leader())[0]);
    put(socket, "/v1/kv/a", "v").expect(201);
    let before = get(socket, "/v1/kv?prefix=").json();
    let mut faulty = Vec::new();
    for (line, headers, body, status, code) in
        [PUT_CASES, READ_CASES, BODY_CASES].into_iter().flatten()
    {
        let answer = ask(socket, line, headers, body.as_bytes());
        faulty.extend(faults(&format!("{line} {headers:?} {body}"), &answer, *status, code));
    }
    for (line, allow) in METHOD_CASES {
        let answer = ask(socket, line, &[], b"");
        faulty.extend(faults(line, &answer, 405, "method_not_allowed"));
        if answer.header("allow") != Some(allow) {
            faulty.push(format!("{line}: Allow is {:?}", answer.header("allow")));
        }
    }
    faulty.extend(too_large(socket));
    report(&faulty);
    let mut after = get(socket, "/v1/kv?prefix=").json();
    // What was exactly at the limits was put and deleted.
    let expected = before["revision"].as_u64().unwrap() + 2;
    assert_eq!(after["revision"], expected, "something was applied");
    after["revision"] = before["revision"].clone();
    assert_eq!(after, before, "something was applied");
    cluster.until_equal();
}

/// What is over a limit, and what is exactly at it.
fn too_large(socket: &Path) -> Vec<String> {
    let mut faulty = Vec::new();
    let key = "k".repeat(64);
    ask(socket, &format!("PUT /v1/kv/{key}"), &[], &[0xff; 1024]).expect(201);
    ask(socket, &format!("DELETE /v1/kv/{key}"), &[], b"").expect(200);
    let long = "k".repeat(65);
    let name = "n".repeat(1025);
    let id = "i".repeat(129);
    let big = "v".repeat(1025);
    let bigger = "v".repeat(4097);
    let info = format!("{{\"info\":\"{big}\"}}");
    let value = format!("{{\"then\":[{{\"put\":{{\"key\":\"a\",\"value\":\"{big}\"}}}}]}}");
    let id_header = [("Idempotency-Key", id.as_str())];
    let none: &[(&str, &str)] = &[];
    let cases = [
        (format!("PUT /v1/kv/{long}"), none, "v", 413, "too_large"),
        (format!("GET /v1/kv/{long}"), none, "", 413, "too_large"),
        (format!("GET /v1/kv?prefix={long}"), none, "", 413, "too_large"),
        (format!("GET /v1/watch?prefix={long}"), none, "", 413, "too_large"),
        ("PUT /v1/kv/a".to_owned(), none, &big, 413, "too_large"),
        ("PUT /v1/kv/a".to_owned(), none, &bigger, 413, "too_large"),
        ("POST /v1/txn".to_owned(), none, &bigger, 413, "too_large"),
        ("POST /v1/txn".to_owned(), none, &value, 413, "too_large"),
        ("POST /v1/leases".to_owned(), none, &info, 413, "too_large"),
        (format!("POST /v1/locks/{name}"), none, "{}", 413, "too_large"),
        ("PUT /v1/kv/a".to_owned(), &id_header[..], "v", 400, "invalid_request"),
    ];
    for (line, headers, body, status, code) in cases {
        let answer = ask(socket, &line, headers, body.as_bytes());
        faulty.extend(faults(&line, &answer, status, code));
    }
    faulty
}

/// What is no HTTP, or tries to make two readers disagree about it: 400 or a closed connection,
/// never anything that is served.
#[test]
fn what_is_no_http_is_never_served() {
    let cluster = Cluster::start();
    let socket = cluster.socket(0);
    let many = "X-A: b\r\n".repeat(200);
    let huge = "a".repeat(200 * 1024);
    let smuggled = "0\r\n\r\nPUT /v1/kv/smuggled HTTP/1.1\r\nHost: q\r\nContent-Length: 1\r\n\r\nx";
    let head = |rest: &str| format!("PUT /v1/kv/bad HTTP/1.1\r\nHost: q\r\n{rest}");
    let cases = [
        "\r\n\r\n\r\n".to_owned(),
        "nonsense\r\n\r\n".to_owned(),
        "GET\r\n\r\n".to_owned(),
        "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}".to_owned() + &"x".repeat(100) + "\r\n\r\n",
        "GET /v1/status HTTP/9.9\r\nHost: q\r\n\r\n".to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        head("Content-Length: x\r\n\r\nx"),
        head("Content-Length: -1\r\n\r\nx"),
        head("Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx"),
        head("No colon\r\n\r\n"),
        head("Bad name : x\r\nContent-Length: 1\r\n\r\nx"),
        head("Transfer-Encoding: chunked\r\n\r\nzz\r\nx\r\n0\r\n\r\n"),
        head("Transfer-Encoding: gzip\r\n\r\nx"),
        head(&format!("{many}Content-Length: 1\r\n\r\nx")),
        head(&format!("X-Huge: {huge}\r\nContent-Length: 1\r\n\r\nx")),
        format!("GET /v1/kv/{huge} HTTP/1.1\r\nHost: q\r\n\r\n"),
        format!("{}{smuggled}", head("Transfer-Encoding: chunked, identity\r\n\r\n")),
    ];
    for case in cases {
        let mut stream = send(socket, case.as_bytes()).unwrap();
        // A daemon that waits for more is told that there is none.
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        // It may be reset instead of closed when bytes were left unread.
        let _ = stream.read_to_end(&mut answer);
        let text = String::from_utf8_lossy(&answer);
        let shown: String = case.chars().take(120).collect();
        for line in text.lines().filter(|line| line.starts_with("HTTP/1.")) {
            let status = line.split(' ').nth(1).unwrap();
            assert!(["400", "413", "414", "431", "505"].contains(&status), "{shown:?}: {text}");
        }
    }
    get(socket, "/v1/kv/bad").expect(404);
    // Two ways to say where the body ends: it is read in one of them, and nothing after it is
    // (RFC 9112, section 6.1).
    let (length, chunked) = ("Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n");
    for both in [format!("{length}{chunked}"), format!("{chunked}{length}")] {
        let bytes = format!("{}{smuggled}", head(&format!("{both}\r\n")));
        let mut stream = send(socket, bytes.as_bytes()).unwrap();
        let mut answers = String::new();
        let _ = stream.read_to_string(&mut answers);
        assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{answers}");
    }
    get(socket, "/v1/kv/smuggled").expect(404);
    // Requests that follow each other on one connection are answered in order, up to the nonsense.
    let mut lines = b"GET /healthz HTTP/1.1\r\nHost: q\r\n\r\n".repeat(3);
    lines.extend_from_slice(b"nonsense\r\n\r\nGET /healthz HTTP/1.1\r\nHost: q\r\n\r\n");
    let mut reader = BufReader::new(send(socket, &lines).unwrap());
    for _ in 0..3 {
        assert_eq!(read_answer(&mut reader, false).unwrap().text(), "ok\n");
    }
    let mut rest = String::new();
    let _ = reader.read_to_string(&mut rest);
    assert!(!rest.contains(" 200 "), "{rest}");
    cluster.until_equal();
}

/// Heads and bodies that trickle in: ended in time, and many of them keep nobody from being served.
#[test]
fn slow_callers_hurt_only_themselves() {
    let cluster = Cluster::start();
    let socket = cluster.socket(0);
    let begun = Instant::now();
    let mut heads: Vec<_> =
        (0..200).map(|_| send(socket, b"GET /v1/kv/a HTTP/1.1\r\nHo").unwrap()).collect();
    let slow_body =
        send(socket, b"PUT /v1/kv/slow HTTP/1.1\r\nHost: q\r\nContent-Length: 9\r\n\r\nhalf")
            .unwrap();
    let mut worst = Duration::ZERO;
    wait_until("slow heads are given up", || {
        let asked = Instant::now();
        put(socket, "/v1/kv/quick", "v");
        worst = worst.max(asked.elapsed());
        heads.retain_mut(|head| {
            head.set_nonblocking(true).unwrap();
            // One more byte now and then is no progress.
            let _ = head.write_all(b"s");
            let mut byte = [0];
            let end = head.read_exact(&mut byte);
            end.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
        });
        heads.is_empty().then_some(())
    });
    eprintln!("slow heads ended after {:?}; slowest other request {worst:?}", begun.elapsed());
    assert!(worst < Duration::from_secs(2), "another caller waited {worst:?}");
    // The body has as long as documented; whoever goes away before leaves nothing behind.
    drop(slow_body);
    get(socket, "/v1/kv/slow").expect(404);
}

/// Answers of 404 and 412 carry what a program needs to go on.
#[test]
fn refusals_carry_what_a_retry_needs() {
    let cluster = Cluster::start();
    let socket = cluster.socket(1);
    let made = put(socket, "/v1/kv/a", "v").expect(201);
    let revision = made.json()["revision"].clone();
    let failed = ask(socket, "PUT /v1/kv/a", &[("If-Match", "\"1\"")], b"w").expect(412).json();
    assert_eq!(failed["mod_revision"], revision);
    let failed = ask(socket, "PUT /v1/kv/b", &[("If-Match", "\"1\"")], b"w").expect(412).json();
    assert_eq!(failed["mod_revision"], 0);
    let held = post(socket, "/v1/leases", "{}").expect(201).json();
    let body = json!({ "lease": held["lease"] }).to_string();
    post(socket, "/v1/locks/l", &body).expect(200);
    let other = post(socket, "/v1/leases", "{}").expect(201).json();
    let body = json!({ "lease": other["lease"], "wait": "0s" }).to_string();
    let refused = post(socket, "/v1/locks/l", &body).expect(409).json();
    assert_eq!(refused["code"], "lock_held");
    assert_eq!(refused["holders"][0]["lease"], held["lease"]);
    put(socket, "/v1/kv/a", "w").expect(200);
    let newest = put(socket, "/v1/kv/a", "x").expect(200).json()["revision"].clone();
    post(socket, "/v1/compact", &json!({ "revision": newest }).to_string()).expect(200);
    let gone = get(socket, &format!("/v1/kv/a?revision={revision}")).expect(410).json();
    assert_eq!((&gone["code"], &gone["compact_revision"]), (&"compacted".into(), &newest));
    let gone = get(socket, &format!("/v1/watch?key=a&from={revision}")).expect(410).json();
    assert_eq!((&gone["code"], &gone["compact_revision"]), (&"compacted".into(), &newest));
}

/// All mistakes of a configuration are told at once, with line and column, by `check` and by `run`.
#[test]
fn mistakes_in_a_configuration_are_told_with_their_place() {
    let directory = test_directory();
    let home = directory.path();
    let authority = quorumd::pki::Authority::create("blue").unwrap();
    certify(&authority, "n1", home, "");
    let config = home.join("quorumd.yaml");
    let good = "cluster: blue\nname: n1\nmembers: {n1: \"127.0.0.1:1\"}\n\
        tls: {cert: node.crt, key: node.key, ca: ca.crt}\ndata_dir: data\n";
    let bad = "raft:\n  heartbeat_interval: 10\n  electoin_timeout: 1s\nlog: {level: loud}\n";
    let both = |text: &str| {
        fs::write(&config, text).unwrap();
        ["check", "run"].map(|command| {
            let output = quorumd().arg(command).arg("--config").arg(&config).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            (output.status.code(), said)
        })
    };
    for (code, said) in both(&format!("{good}{bad}")) {
        assert_eq!(code, Some(2), "{said}");
        let path = config.display().to_string();
        for place in [":7:23: `raft.heartbeat_interval`", ":8:3: unknown key", ":9:14: `log.level`"]
        {
            assert!(said.contains(&format!("{path}{place}")), "{place}: {said}");
        }
    }
    for (text, reason) in [
        ("", "`cluster` is missing"),
        ("cluster: [\n", ":"),
        (&good.replace("name: n1", "name: n2"), "`name` must be one of `members`"),
        (&good.replace("node.key", "absent.key"), "absent.key"),
        (&good.replace("node.key", "ca.crt"), "private key"),
        (&good.replace("cluster: blue", "cluster: green"), "is for spiffe://blue/node/n1"),
    ] {
        for (code, said) in both(text) {
            assert_eq!(code, Some(2), "{said}");
            assert!(said.contains(reason), "{reason:?} is missing: {said}");
        }
    }
    fs::write(&config, good).unwrap();
    let checked = quorumd().arg("check").arg("--config").arg(&config).output().unwrap();
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert_eq!(checked.status.code(), Some(0), "{said}");
    assert!(said.contains("node n1 of cluster blue can start"), "{said}");
    assert!(!home.join("data").exists(), "a check starts nothing");
    let mut usage = Process::spawn(quorumd().arg("rum").stderr(std::process::Stdio::null()));
    assert_eq!(usage.until_ended().code(), Some(2));
}

/// The request of these tests is what it claims to be.
#[test]
fn a_request_of_a_test_has_the_bytes_that_it_should() {
    let bytes = request("PUT /v1/kv/a", &[("If-Match", "\"3\"")], b"v");
    let text = String::from_utf8(bytes).unwrap();
    let head = "PUT /v1/kv/a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n";
    assert_eq!(text, format!("{head}If-Match: \"3\"\r\nContent-Length: 1\r\n\r\nv"));
}
