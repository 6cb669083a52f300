//! `members`: who the members are, and orders to change that.
//!
//! Each order is made of the members as they are and declares the whole wanted set, together with
//! the index of what it was made of: the daemon refuses it when somebody else was faster.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};

use super::command::Session;
use super::exit::{DONE, FAILED, Failure, NOT_FOUND, USAGE};
use super::output::{Output, say, table};
use crate::client::{
    Becomes, ChangeDone, Error, Incarnation, MemberAt, MemberRole, MemberView, MembersAnswer,
    MembersMessage, MembersRequest, NewcomerView, WantedMember,
};

/// Without a command: lists them.
#[derive(Args, Debug)]
pub(super) struct Members {
    #[command(subcommand)]
    command: Option<MembersCommand>,
}

#[derive(Debug, Subcommand)]
enum MembersCommand {
    /// Add nodes; they learn, and vote only with --voter
    Add {
        /// The nodes, which run and wait to be added
        #[arg(required = true, value_name = "NAME=HOST:PORT", value_parser = node_at)]
        nodes: Vec<MemberAt>,
        /// They shall vote, once they have caught up
        #[arg(long)]
        voter: bool,
        #[command(flatten)]
        how: How,
    },
    /// Give up a change whose new voters have not caught up
    Cancel,
    /// Let voters only receive the log
    Demote(Named),
    /// List them
    List,
    /// Let learners vote, once they have caught up
    Promote(Named),
    /// Remove members
    Remove(Named),
    /// Let a node that lost its data directory take its own place again
    Replace {
        /// Its name
        name: String,
        /// Where it is reached now [default: where it was]
        #[arg(value_name = "HOST:PORT")]
        address: Option<String>,
        #[command(flatten)]
        how: How,
    },
    /// Declare the whole wanted set
    Set {
        /// All who shall vote
        #[arg(long, required = true, value_delimiter = ',', value_name = "NAME[=HOST:PORT],…")]
        voters: Vec<String>,
        /// All who shall only receive the log
        #[arg(long, value_delimiter = ',', value_name = "NAME[=HOST:PORT],…")]
        learners: Vec<String>,
        #[command(flatten)]
        how: How,
    },
    /// Let another voter lead
    #[command(visible_alias = "move-leader")]
    TransferLeader {
        /// Which [default: the one that is best prepared]
        name: Option<String>,
    },
}

#[derive(Args, Debug)]
struct Named {
    /// Their names
    #[arg(required = true)]
    names: Vec<String>,
    #[command(flatten)]
    how: How,
}

#[derive(Args, Clone, Copy, Debug)]
struct How {
    /// Even if so few of the wanted voters answer that nothing could be committed
    #[arg(long)]
    force: bool,
    /// Take the place of a change whose new voters have not caught up
    #[arg(long)]
    supersede: bool,
}

/// The wanted set: by name, whether it votes, and where it is asked.
type Wanted = BTreeMap<String, (bool, Option<String>)>;

impl Members {
    pub(super) async fn run(self, session: &Session) -> Result<u8, Failure> {
        let client = &session.client;
        match self.command {
            None | Some(MembersCommand::List) => list(session).await.map_err(Failure::of_a_read),
            Some(MembersCommand::Cancel) => {
                let done = client.cancel_change().await?;
                session.output.print(&done, done_text(&done))?;
                Ok(DONE)
            }
            Some(MembersCommand::TransferLeader { name }) => {
                let moved = client.move_leader(name.as_deref()).await?;
                let text = format!("{} leads (term {})", moved.leader, moved.term);
                session.output.print(&moved, text)?;
                Ok(DONE)
            }
            Some(command) => change(session, command).await,
        }
    }
}

async fn list(session: &Session) -> Result<u8, Failure> {
    let answer = session.client.members().await?;
    let mut text = members_table(&answer.members);
    if answer.phase.is_some() || answer.joint {
        text.push_str("\nA change of members is under way.");
    }
    for newcomer in &answer.newcomers {
        text.push('\n');
        text.push_str(&newcomer_line(newcomer));
    }
    session.output.print(&answer, text)?;
    Ok(DONE)
}

async fn change(session: &Session, command: MembersCommand) -> Result<u8, Failure> {
    let now = session.client.members().await?;
    let (wanted, how) = match &command {
        MembersCommand::Set { voters, learners, how } => (set(voters, learners)?, *how),
        _ => edited(&now, &command)?,
    };
    let request = request(&wanted, &now, how);
    let mut change = session.client.change_members(&request).await?;
    let done = follow(session.output, &mut change).await?;
    if let MembersCommand::Replace { name, .. } = &command {
        check_replaced(&now, &done, name)?;
    }
    if session.output == Output::Text {
        session.output.print(&done, done_text(&done))?;
    }
    Ok(DONE)
}

/// What is to become of the members as they are.
fn edited(now: &MembersAnswer, command: &MembersCommand) -> Result<(Wanted, How), Failure> {
    let mut wanted: Wanted = now.members.iter().filter_map(becomes).collect();
    let how = match command {
        MembersCommand::Add { nodes, voter, how } => {
            for node in nodes {
                if wanted.contains_key(&node.name) {
                    let message = format!(
                        "{0} is a member already: to let a new data directory take its place, use \
                         `quorumctl members replace {0}`",
                        node.name
                    );
                    return Err(Failure::new(FAILED, message));
                }
                wanted.insert(node.name.clone(), (*voter, Some(node.address.clone())));
            }
            how
        }
        MembersCommand::Demote(named) | MembersCommand::Promote(named) => {
            let votes = matches!(command, MembersCommand::Promote(_));
            for name in &named.names {
                wanted.get_mut(name).ok_or_else(|| no_member(name))?.0 = votes;
            }
            &named.how
        }
        MembersCommand::Remove(named) => {
            for name in &named.names {
                wanted.remove(name).ok_or_else(|| no_member(name))?;
            }
            &named.how
        }
        MembersCommand::Replace { name, address, how } => {
            let present = now.members.iter().find(|member| member.name == *name);
            let present = present.ok_or_else(|| no_member(name))?;
            let address = address.clone().unwrap_or_else(|| present.address.clone());
            wanted.get_mut(name).ok_or_else(|| no_member(name))?.1 = Some(address);
            how
        }
        MembersCommand::Cancel
        | MembersCommand::List
        | MembersCommand::Set { .. }
        | MembersCommand::TransferLeader { .. } => {
            return Err(Failure::new(FAILED, "this command changes no single member"));
        }
    };
    Ok((wanted, *how))
}

/// A member with what it will be when the change under way, if any, is done.
fn becomes(member: &MemberView) -> Option<(String, (bool, Option<String>))> {
    let votes = match (member.becomes, member.role) {
        (Some(Becomes::Removed), _) => return None,
        (Some(Becomes::Voter), _) => true,
        (Some(Becomes::Learner), _) => false,
        (_, role) => role == MemberRole::Voter,
    };
    Some((member.name.clone(), (votes, None)))
}

fn set(voters: &[String], learners: &[String]) -> Result<Wanted, Failure> {
    let mut wanted = Wanted::new();
    let all = voters.iter().map(|text| (true, text));
    for (votes, text) in all.chain(learners.iter().map(|text| (false, text))) {
        let (name, address) = match text.split_once('=') {
            Some((name, address)) => (name, Some(address.to_owned())),
            None => (text.as_str(), None),
        };
        if wanted.insert(name.to_owned(), (votes, address)).is_some() {
            return Err(Failure::new(USAGE, format!("{name} is named twice")));
        }
    }
    Ok(wanted)
}

fn request(wanted: &Wanted, now: &MembersAnswer, how: How) -> MembersRequest {
    let member = |(name, (_, address)): (&String, &(bool, Option<String>))| match address {
        Some(address) => {
            WantedMember::At(MemberAt { name: name.clone(), address: address.clone() })
        }
        None => WantedMember::Known(name.clone()),
    };
    let half = |votes: bool| {
        wanted.iter().filter(|(_, (of, _))| *of == votes).map(member).collect::<Vec<_>>()
    };
    MembersRequest {
        voters: half(true),
        learners: half(false),
        index: Some(now.index),
        force: how.force,
        supersede: how.supersede,
    }
}

fn no_member(name: &str) -> Failure {
    Failure::new(NOT_FOUND, format!("no member is named {name}; `quorumctl members` lists them"))
}

fn node_at(text: &str) -> Result<MemberAt, String> {
    let at = text.split_once('=').filter(|(name, address)| !name.is_empty() && !address.is_empty());
    let (name, address) = at.ok_or("is not NAME=HOST:PORT")?;
    Ok(MemberAt { name: name.to_owned(), address: address.to_owned() })
}

/// Tells how the change comes along, each line once.
async fn follow(
    output: Output,
    change: &mut crate::client::MembersChange,
) -> Result<ChangeDone, Failure> {
    let mut told = String::new();
    while let Some(message) = change.next().await? {
        if output == Output::Json {
            output.print(&message, "")?;
        }
        let line = match message {
            MembersMessage::CatchingUp { members, waits, .. } => {
                let mut lines: Vec<String> = members.iter().map(newcomer_line).collect();
                lines.extend(waits.map(|waits| format!("waiting: {waits}")));
                lines.join("; ")
            }
            MembersMessage::Done(done) => return Ok(done),
            MembersMessage::Error(problem) => {
                return Err(Error::Problem(Box::new(problem)).into());
            }
            MembersMessage::Joint { waits: Some(waits), .. } => format!("waiting: {waits}"),
            MembersMessage::Joint { waits: None, .. } => "switching to the new members".to_owned(),
            MembersMessage::Unknown => continue,
        };
        if output == Output::Text && line != told {
            say(&line);
            told = line;
        }
    }
    let message = "the daemon ended the stream: the change goes on, `quorumctl members` shows it";
    Err(Failure::new(FAILED, message))
}

fn check_replaced(now: &MembersAnswer, done: &ChangeDone, name: &str) -> Result<(), Failure> {
    let before = now.members.iter().find(|member| member.name == name);
    let after = done.voters.get(name).or_else(|| done.learners.get(name));
    match (before.map(|member| member.incarnation), after) {
        (Some(before), Some(after)) if before == *after => Err(Failure::new(
            FAILED,
            format!(
                "{name} runs with the data directory that the cluster knows ({before}): there was \
                 nothing to replace"
            ),
        )),
        _ => Ok(()),
    }
}

fn newcomer_line(newcomer: &NewcomerView) -> String {
    let NewcomerView { name, matched_index, last_index, .. } = newcomer;
    let how = match newcomer {
        NewcomerView { connected: false, .. } => "does not answer",
        NewcomerView { snapshot: true, .. } => "receives the state",
        NewcomerView { caught_up: true, .. } => "has caught up",
        _ => "catches up",
    };
    format!("{name} {how} ({matched_index} of {last_index})")
}

fn done_text(done: &ChangeDone) -> String {
    let names =
        |half: &BTreeMap<String, Incarnation>| half.keys().cloned().collect::<Vec<_>>().join(" ");
    let mut text = format!("voters: {}", names(&done.voters));
    if !done.learners.is_empty() {
        text.push_str(&format!("; learners: {}", names(&done.learners)));
    }
    for warning in &done.warnings {
        text.push_str(&format!("\nwarning: {warning}"));
    }
    text
}

pub(super) fn members_table(members: &[MemberView]) -> String {
    let head = ["NAME", "ROLE", "ADDRESS", "INCARNATION", "LEADER"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for member in members {
        let role = match member.role {
            MemberRole::Learner => "learner",
            MemberRole::Unknown => "unknown",
            MemberRole::Voter => "voter",
        };
        let becomes = match member.becomes {
            None | Some(Becomes::Unknown) => "",
            Some(Becomes::Learner) => " -> learner",
            Some(Becomes::Removed) => " -> removed",
            Some(Becomes::Voter) => " -> voter",
        };
        rows.push(vec![
            member.name.clone(),
            format!("{role}{becomes}"),
            member.address.clone(),
            member.incarnation.to_string(),
            if member.leader { "yes".to_owned() } else { String::new() },
        ]);
    }
    table(&rows)
}
