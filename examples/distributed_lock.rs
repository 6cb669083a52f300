//! Several programs change one thing that offers no transactions of its own: a counter in a file, a
//! row behind an old API. Read, add, write: without a lock between them, additions are lost.
//!
//! Here the thing is a key that is read and written in two steps. Start several at once, on any
//! hosts of the cluster; the sum is always right:
//!
//! ```text
//! for i in 1 2 3; do cargo run --example distributed_lock -- visits 10 & done; wait
//! quorumctl get visits
//! ```

use std::time::Duration;

use quorumd::client::{AcquireOptions, Client, Error, PutOptions, WriteOptions};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let key = arguments.next().unwrap_or_else(|| "visits".to_owned());
    let times: u32 = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(10);
    let client = Client::from_env();
    for _ in 0..times {
        // Held until it is dropped, or this process dies, however it dies.
        let lock = client.lock(format!("lock-of-{key}"), &AcquireOptions::default()).await?;
        tokio::select! {
            sum = add_one(&client, &key) => println!("{} with token {}", sum?, lock.token()),
            loss = lock.lost() => {
                println!("the lock was lost before this was done: {loss:?}");
                continue;
            }
        }
        lock.release().await?;
    }
    Ok(())
}

/// Reads, adds and writes: right only for whoever is alone.
async fn add_one(client: &Client, key: &str) -> Result<u64, Error> {
    let record = client.get(key).await?;
    let value = record.and_then(|record| record.value).unwrap_or_default();
    let sum = String::from_utf8_lossy(&value).trim().parse().unwrap_or(0) + 1;
    // Sent again under one idempotency key while its outcome is unknown, and applied once.
    let write = WriteOptions::retrying(Duration::from_secs(20));
    let options = PutOptions { write, ..PutOptions::default() };
    client.put_with(key, sum.to_string(), &options).await?;
    Ok(sum)
}
