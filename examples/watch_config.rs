//! A service shall follow its configuration while it runs: begin with what is there, learn each
//! change once and in order, and miss none while the daemon restarts or the network is away.
//!
//! ```text
//! cargo run --example watch_config -- config/
//! quorumctl put config/level debug
//! ```

use std::collections::BTreeMap;

use quorumd::client::{
    Client, Error, Target, WatchEventKind, WatchMessage, WatchOptions, WatchStep,
};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let prefix = std::env::args().nth(1).unwrap_or_else(|| "config/".to_owned());
    let options = WatchOptions { initial: true, ..WatchOptions::default() };
    let mut watch = Client::from_env().watch(Target::Prefix(prefix.into()), options);
    let mut settings: BTreeMap<String, String> = BTreeMap::new();
    loop {
        let message = match watch.step().await? {
            WatchStep::Interrupted(error) => {
                println!("goes on with what is known: {error}");
                continue;
            }
            WatchStep::Message(message) => message,
        };
        match message {
            // The whole state, in one or more parts; `synced` comes when it is complete.
            WatchMessage::Snapshot { keys, .. } => {
                for record in keys {
                    settings.insert(text(&record.key), text(&record.value.unwrap_or_default()));
                }
            }
            WatchMessage::Synced { revision, .. } => apply(revision, &settings),
            // Everything that one transaction changed, never half of it.
            WatchMessage::Changes { revision, events } => {
                for event in events {
                    let (key, value) = (text(&event.record.key), event.record.value);
                    match event.kind {
                        WatchEventKind::Delete => settings.remove(&key),
                        WatchEventKind::Put => {
                            settings.insert(key, text(&value.unwrap_or_default()))
                        }
                    };
                }
                apply(revision, &settings);
            }
            // Away for so long that the history is gone: the state follows anew.
            WatchMessage::Resync { .. } => settings.clear(),
            _ => {}
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn apply(revision: u64, settings: &BTreeMap<String, String>) {
    println!("revision {revision}: {settings:?}");
}
