//! Runs the golden scripts of `scripts/`: requests to a cluster of three, and their answers.
//!
//! ```text
//! PUT v1/kv/a blue node=2 If-Match='"$r1"'    a request: method, target, body, headers
//! POST v1/leases '{}' as=L                    its lease is $L from here on
//! open w GET 'v1/watch?key=a'                  a stream called w
//! read w 2                                     its next two messages
//! end w                                        its messages to its end
//! close w                                      its connection is closed
//! ```
//!
//! Every script begins with an empty store, whose revision is called r0: `r3` is what the third
//! write made, and `$r3` names it in a request. Times, process ids and users are masked; leases
//! have the names that the script gave them.
//!
//! `UPDATE_GOLDENFILES=1 cargo test --test daemon api_scripts` writes the expected output anew;
//! read the difference line by line before committing it.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::harness::{Cluster, wait_until};
use crate::http::{Answer, Stream, ask, get};

/// Fields that hold a revision of the store.
const REVISIONS: &[&str] =
    &["revision", "create_revision", "mod_revision", "compact_revision", "token", "place"];
/// Fields whose value differs from run to run, unless it is zero.
const TIMES: &[&str] = &["valid_for_ms", "remaining_ms"];
/// Fields whose value differs from run to run.
const VOLATILE: &[&str] = &["pid", "uid"];
/// Headers that are shown, and whether they hold a revision.
const HEADERS: &[(&str, bool)] = &[
    ("allow", false),
    ("etag", true),
    ("quorumd-revision", true),
    ("quorumd-create-revision", true),
    ("quorumd-mod-revision", true),
    ("quorumd-version", false),
    ("retry-after", false),
];

struct Runner<'a> {
    sockets: &'a [PathBuf],
    /// The revision of the empty store.
    base: u64,
    leases: BTreeMap<String, String>,
    streams: BTreeMap<String, Stream>,
}

impl<'a> Runner<'a> {
    fn new(sockets: &'a [PathBuf]) -> Self {
        Self { sockets, base: 0, leases: BTreeMap::new(), streams: BTreeMap::new() }
    }

    /// `$r3` and the names of leases in what is sent.
    fn expand(&self, text: &str) -> String {
        let mut parts = text.split('$');
        let mut expanded = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let end = part.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(part.len());
            let (name, rest) = part.split_at(end);
            let number = name.strip_prefix('r').and_then(|number| number.parse::<u64>().ok());
            match (number, self.leases.get(name)) {
                (Some(number), _) => expanded += &(self.base + number).to_string(),
                (None, Some(id)) => expanded += id,
                (None, None) => panic!("${name} is not known"),
            }
            expanded += rest;
        }
        expanded
    }

    fn revision(&self, value: u64) -> String {
        match value.checked_sub(self.base) {
            Some(number) => format!("r{number}"),
            None => format!("{value}"),
        }
    }

    fn name_of(&self, id: &str) -> String {
        let known = self.leases.iter().find(|(_, known)| *known == id);
        known.map_or("<lease>".to_owned(), |(name, _)| format!("${name}"))
    }

    /// What is shown of a document.
    fn masked(&self, value: Value) -> Value {
        match value {
            Value::Object(map) => {
                let field = |(key, value): (String, Value)| {
                    let value = self.masked_field(&key, value);
                    (key, value)
                };
                Value::Object(map.into_iter().map(field).collect::<Map<_, _>>())
            }
            Value::Array(list) => {
                Value::Array(list.into_iter().map(|value| self.masked(value)).collect())
            }
            other => other,
        }
    }

    fn masked_field(&self, key: &str, value: Value) -> Value {
        match (&value, value.as_u64()) {
            (_, Some(_)) if VOLATILE.contains(&key) => "#".into(),
            (_, Some(0)) => value,
            (_, Some(number)) if REVISIONS.contains(&key) => self.revision(number).into(),
            (_, Some(_)) if TIMES.contains(&key) => "#".into(),
            (Value::String(id), _) if key == "lease" => self.name_of(id).into(),
            (Value::String(text), _) if key == "detail" => self.without_revisions(text).into(),
            // Keys below a queue end with the lease.
            (Value::String(text), _) if key == "key" && text.starts_with('_') => {
                let (queue, id) = text.rsplit_once('/').unwrap();
                format!("{queue}/{}", self.name_of(id)).into()
            }
            _ => self.masked(value),
        }
    }

    /// Revisions within a sentence.
    fn without_revisions(&self, text: &str) -> String {
        let words = text.split(' ').map(|word| match word.parse::<u64>() {
            Ok(number) if number >= self.base => self.revision(number),
            _ => word.to_owned(),
        });
        words.collect::<Vec<_>>().join(" ")
    }

    fn shown(&self, answer: &Answer) -> String {
        let mut text = answer.status.to_string();
        for (name, is_revision) in HEADERS {
            let Some(value) = answer.header(name) else { continue };
            let number = value.trim_matches('"').parse().ok().filter(|_| *is_revision);
            let value = number.map_or(value.to_owned(), |number| self.revision(number));
            text += &format!(" {name}={}", value.replace(' ', ""));
        }
        match (serde_json::from_slice::<Value>(&answer.body), answer.header("content-type")) {
            (_, None) => {}
            (Ok(value), Some(media)) if media.ends_with("json") => {
                text += &format!("\n{}", self.masked(value));
            }
            _ => text += &format!("\n{:?}", answer.text()),
        }
        text
    }

    /// One line of a stream: a JSON document, or a field of an event.
    fn shown_line(&self, line: &str) -> String {
        let (name, value) = match line.strip_prefix("data: ") {
            Some(value) => ("data: ", value),
            None => ("", line),
        };
        if let Some(id) = line.strip_prefix("id: ") {
            return format!("id: {}", self.revision(id.parse().unwrap()));
        }
        match serde_json::from_str::<Value>(value) {
            Ok(value) => format!("{name}{}", self.masked(value)),
            Err(_) => line.to_owned(),
        }
    }

    fn stream(&self, name: &str) -> &Stream {
        self.streams.get(name).unwrap_or_else(|| panic!("no stream {name}"))
    }

    /// The next line that is more than a sign of life.
    fn next_line(&self, name: &str) -> Option<String> {
        let is_news = |line: &String| !line.is_empty() && !line.contains("\"progress\"");
        std::iter::from_fn(|| self.stream(name).line()).map(|line| line.text).find(is_news)
    }

    fn learn(&mut self, name: Option<String>, answer: &Value) {
        if let (Some(name), Some(id)) = (name, answer["lease"].as_str()) {
            self.leases.insert(name, id.to_owned());
        }
    }

    fn request(&mut self, method: &str, command: &goldenscript::Command) -> Request {
        let mut args = command.consume_args();
        let node: usize = args.take_key("node").map_or(1, |node| node.parse().unwrap());
        let name = args.take_key("as").map(str::to_owned);
        let mut next = |what| args.next_pos().unwrap_or_else(|| panic!("{what} is missing"));
        let (stream, method) = match method {
            "open" => (Some(next("a name").to_owned()), next("a method")),
            method => (None, method),
        };
        let line = format!("{method} /{}", self.expand(next("a target")));
        let body = self.expand(args.next_pos().unwrap_or_default());
        let socket = self.sockets[node - 1].clone();
        Request { stream, line, body, headers: self.headers(&mut args), socket, name }
    }

    fn headers(&self, args: &mut goldenscript::ArgumentConsumer<'_>) -> Vec<(String, String)> {
        let header = |(name, value): (&str, &str)| (name.to_owned(), self.expand(value));
        std::iter::from_fn(|| args.next_key()).map(header).collect()
    }
}

struct Request {
    stream: Option<String>,
    line: String,
    body: String,
    headers: Vec<(String, String)>,
    socket: PathBuf,
    name: Option<String>,
}

impl goldenscript::Runner for Runner<'_> {
    type Command = goldenscript::Command;

    fn start_script(&mut self) -> Result<(), Box<dyn Error>> {
        // What bound leases of the last script held goes with their connections, in its own time.
        wait_until("the leases of the last script have ended", || {
            let leases = get(&self.sockets[0], "/v1/leases").json()["leases"].take();
            let of = |bind: &str| {
                let bound = leases.as_array().unwrap().iter().filter(|lease| lease["bind"] == bind);
                bound.map(|lease| lease["lease"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
            };
            for lease in of("none") {
                ask(&self.sockets[0], &format!("DELETE /v1/leases/{lease}"), &[], b"");
            }
            (of("none").is_empty() && of("connection").is_empty()).then_some(())
        });
        let emptied = ask(&self.sockets[0], "DELETE /v1/kv?prefix=&all=true", &[], b"").expect(200);
        self.base = emptied.json()["revision"].as_u64().unwrap();
        Ok(())
    }

    fn run(
        &mut self,
        command: &goldenscript::Command,
        _: &goldenscript::Context,
    ) -> Result<String, Box<dyn Error>> {
        match command.name.as_str() {
            "read" | "end" => {
                let mut args = command.consume_args();
                let name = args.next_pos().expect("a name of a stream").to_owned();
                let lease = args.take_key("as").map(str::to_owned);
                // Steps that are told or not, as time allows: a waiter's way to the front.
                let skip = args.take_key("skip").map(str::to_owned);
                let count: Option<usize> = args.next_pos().map(str::parse).transpose()?;
                let most = if command.name == "end" { usize::MAX } else { count.unwrap_or(1) };
                let mut lines = Vec::new();
                while lines.len() < most {
                    let Some(line) = self.next_line(&name) else {
                        lines.push("the end".to_owned());
                        break;
                    };
                    let message: Value = serde_json::from_str(&line).unwrap_or_default();
                    if skip.is_some() && message["state"].as_str() == skip.as_deref() {
                        continue;
                    }
                    // Signs of life come by the clock.
                    if message["type"] == "progress" {
                        continue;
                    }
                    self.learn(lease.clone(), &message);
                    lines.push(self.shown_line(&line));
                }
                Ok(lines.join("\n"))
            }
            "close" => {
                let mut args = command.consume_args();
                let name = args.next_pos().expect("a name of a stream").to_owned();
                self.streams.remove(&name).expect("a stream of this name");
                Ok(String::new())
            }
            method => {
                let request = self.request(method, command);
                let headers: Vec<(&str, &str)> = request
                    .headers
                    .iter()
                    .map(|(name, value)| (name.as_str(), value.as_str()))
                    .collect();
                let body = request.body.as_bytes();
                let Some(stream) = request.stream else {
                    let answer = ask(&request.socket, &request.line, &headers, body);
                    self.learn(
                        request.name,
                        &serde_json::from_slice(&answer.body).unwrap_or_default(),
                    );
                    return Ok(self.shown(&answer));
                };
                let opened = Stream::open(&request.socket, &request.line, &headers, body);
                let shown = opened.status.to_string();
                self.streams.insert(stream, opened);
                Ok(shown)
            }
        }
    }
}

/// All scripts, on one cluster, one after the other. Each is a claim, and all are tried.
#[test]
fn api_scripts() {
    let cluster = Cluster::start();
    let sockets = cluster.sockets();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/daemon/scripts");
    let mut scripts: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    scripts.sort();
    assert!(scripts.len() > 5, "the scripts are there");
    let mut failed = Vec::new();
    for script in &scripts {
        let run = || goldenscript::run(&mut Runner::new(&sockets), script);
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => failed.push(format!("{}: {error}", script.display())),
            // The panic has printed the difference.
            Err(_) => failed.push(script.display().to_string()),
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
    cluster.until_equal();
}
