//! Several copies of a service run, and exactly one of them may do the work: send the reports, run
//! the migrations, own the external address. When it dies, another must take over at once, and one
//! that was only cut off must stop before that.
//!
//! Start it in several terminals, on any hosts of the cluster, and kill the leader:
//!
//! ```text
//! cargo run --example leader_election -- reports alice
//! cargo run --example leader_election -- reports bob
//! ```

use std::time::Duration;

use quorumd::client::{CampaignOptions, Client, Error, Hold, Turn};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let election = arguments.next().unwrap_or_else(|| "reports".to_owned());
    let me = arguments.next().unwrap_or_else(|| format!("pid-{}", std::process::id()));
    let client = Client::from_env();
    let options = CampaignOptions { value: me.clone().into(), ..CampaignOptions::default() };
    loop {
        match campaign(&client, &election, &options).await {
            Ok(leadership) => {
                println!("{me} leads {election} with token {}", leadership.token());
                // The work is dropped, that is stopped, when the leadership is lost.
                tokio::select! {
                    () = work(&me, leadership.token()) => return Ok(()),
                    loss = leadership.lost() => println!("{me} leads no longer: {loss:?}"),
                }
            }
            Err(error) if error.is_transient() => {
                println!("{me} cannot campaign, tries again: {error}");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

async fn campaign(
    client: &Client,
    election: &str,
    options: &CampaignOptions,
) -> Result<Hold, Error> {
    let mut campaign = client.campaign(election, options).await?;
    loop {
        match campaign.next().await? {
            Turn::Held(leadership) => return Ok(leadership),
            Turn::Waiting { position, .. } => println!("waiting, position {position}"),
        }
    }
}

/// What only the leader may do. Whatever it changes outside should be given the token, and refuse
/// lower ones than it has seen: a process that was stopped for long cannot know that it is late.
async fn work(me: &str, token: u64) {
    for report in 1.. {
        println!("{me} sends report {report} with token {token}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
