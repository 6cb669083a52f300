//! `token`: makes, lists and revokes the tokens by which hosts join.

use std::time::Duration;

use clap::{Subcommand, ValueEnum};

use super::command::{Session, duration};
use super::exit::{DONE, Failure, NOT_SO};
use super::output::{say, shown, table};
use crate::client::{DurationText, MemberRole, TokenPhase, TokenRequest, TokenView};

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Make a token, good once, for `quorumd join` on another host
    Create {
        /// What that host may become
        #[arg(long, value_enum, default_value_t)]
        role: Becomes,
        /// How long the token is good
        #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "1h")]
        ttl: Duration,
        /// The only name that it may be used for
        #[arg(long, value_name = "NODE")]
        name: Option<String>,
        /// Let the host take the place and the name of this member
        #[arg(long, value_name = "NODE", conflicts_with = "name")]
        replace: Option<String>,
    },
    /// List those that are not forgotten yet
    List,
    /// Make one useless
    Revoke {
        /// Its id
        id: String,
    },
}

/// What a host may become.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Becomes {
    /// A learner
    #[default]
    Learner,
    /// A voter
    Voter,
}

impl TokenCommand {
    pub(super) async fn run(self, session: &Session) -> Result<u8, Failure> {
        match self {
            Self::Create { role, ttl, name, replace } => {
                let request = TokenRequest {
                    role: Some(match role {
                        Becomes::Learner => MemberRole::Learner,
                        Becomes::Voter => MemberRole::Voter,
                    }),
                    ttl: Some(DurationText(ttl)),
                    replace: replace.is_some(),
                    name: name.or(replace),
                };
                let answer = session.client.create_token(&request).await?;
                // The token alone, so that it can be piped.
                session.output.print(&answer, &answer.token)?;
                Ok(DONE)
            }
            Self::List => {
                let answer = session.client.tokens().await.map_err(Failure::from);
                let answer = answer.map_err(Failure::of_a_read)?;
                session.output.print(&answer, tokens_table(&answer.tokens))?;
                Ok(DONE)
            }
            Self::Revoke { id } => {
                let seen = session.client.revoke_token(&id).await?;
                session.output.print(&seen, tokens_table(std::slice::from_ref(&seen)))?;
                if seen.state == TokenPhase::Used {
                    let by = seen.used_by.unwrap_or_default();
                    say(&format!("it has been used already, by {}", shown(by.as_bytes())));
                    return Ok(NOT_SO);
                }
                Ok(DONE)
            }
        }
    }
}

fn tokens_table(tokens: &[TokenView]) -> String {
    let heads = ["ID", "ROLE", "FOR", "STATE", "GOOD FOR"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    rows.extend(tokens.iter().map(|token| {
        let role = match token.role {
            MemberRole::Learner => "learner",
            MemberRole::Unknown => "unknown",
            MemberRole::Voter => "voter",
        };
        let name = token.name.as_ref().map_or("any name".to_owned(), |name| {
            let name = shown(name.as_bytes());
            if token.replace { format!("replaces {name}") } else { name }
        });
        let state = match (token.state, &token.used_by) {
            (TokenPhase::Used, Some(by)) => format!("used by {}", shown(by.as_bytes())),
            (TokenPhase::Used, None) => "used".to_owned(),
            (TokenPhase::Expired, _) => "expired".to_owned(),
            (TokenPhase::Open, _) => "open".to_owned(),
            (TokenPhase::Revoked, _) => "revoked".to_owned(),
            (TokenPhase::Unknown, _) => "unknown".to_owned(),
        };
        let left = match token.state {
            TokenPhase::Open => format!("{}s", token.remaining_ms / 1_000),
            _ => String::new(),
        };
        vec![token.id.clone(), role.to_owned(), name, state, left]
    }));
    table(&rows)
}
