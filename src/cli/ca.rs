//! `ca`: the authority of the cluster, and its exchange.

use clap::Subcommand;

use super::command::Session;
use super::exit::{DONE, Failure, USAGE};
use super::output::{shown, table};
use crate::client::{CaAnswer, CaMemberView, CaPhase};

#[derive(Debug, Subcommand)]
pub(super) enum CaCommand {
    /// End the present phase of an exchange without the members that are not done with it
    Finish {
        /// They will have to join again
        #[arg(long)]
        force: bool,
    },
    /// Exchange the authority for a new one, while the cluster runs
    Rotate,
    /// Who signs, how far an exchange is, and when certificates end
    Status,
}

impl CaCommand {
    pub(super) async fn run(self, session: &Session) -> Result<u8, Failure> {
        let client = &session.client;
        let answer = match self {
            Self::Finish { force: false } => {
                return Err(Failure::new(
                    USAGE,
                    "an exchange ends by itself when every member is done (`quorumctl ca status`); \
                     --force ends its present phase without the others, who then have to join \
                     again",
                ));
            }
            Self::Finish { force: true } => client.force_ca().await?,
            Self::Rotate => client.rotate_ca().await?,
            Self::Status => client.ca().await.map_err(Failure::from).map_err(Failure::of_a_read)?,
        };
        session.output.print(&answer, page(&answer))?;
        Ok(DONE)
    }
}

fn page(answer: &CaAnswer) -> String {
    let text = |text: &str| shown(text.as_bytes());
    let pin = answer.pin.as_deref().map_or("not known here".to_owned(), text);
    let signers: Vec<String> = answer.signers.iter().map(|name| text(name)).collect();
    let signers = if signers.is_empty() { "nobody".to_owned() } else { signers.join(", ") };
    let mut lines = vec![format!("authority: {pin}"), format!("held by: {signers}")];
    let next = answer.next_pin.as_deref().map(text).unwrap_or_default();
    lines.extend(answer.phase.map(|phase| match phase {
        CaPhase::Issue => format!("exchange: every member gets a certificate of {next}"),
        CaPhase::Retire => "exchange: every member forgets the old authority".to_owned(),
        CaPhase::Trust => format!("exchange: every member is to trust {next} too"),
        CaPhase::Unknown => "exchange: in a phase that this program does not know".to_owned(),
    }));
    let heads = ["MEMBER", "SIGNED BY", "ENDS IN", ""];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    rows.extend(answer.members.iter().map(row));
    lines.push(table(&rows));
    lines.join("\n")
}

fn row(member: &CaMemberView) -> Vec<String> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = u64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(u64::MAX);
    let left = member.not_after_ms.map(|end| end.saturating_sub(now) / 1_000);
    vec![
        shown(member.name.as_bytes()),
        member.issuer.as_ref().map_or("?".to_owned(), |issuer| shown(issuer.as_bytes())),
        left.map_or("?".to_owned(), |left| match left {
            0..172_800 => format!("{left}s"),
            _ => format!("{} days", left / 86_400),
        }),
        if member.waits { "waited for".to_owned() } else { String::new() },
    ]
}
