//! `/v1/access`: which rules are in force, and what they say about somebody.
//!
//! It explains what `permit.rs` asks of the same rules for every request; it decides nothing.

use bytes::Bytes;
use http::{Response, StatusCode};

use crate::api::types::{
    AccessAnswer, AccessCheckAnswer, AccessCheckRequest, AccessRight, AccessRuleView, AccessSubject,
};
use crate::base::KeyRange;
use crate::host::{AccessRuleOptions, Facts, Subject, Wanted, sees_all_users};

use super::answer::{Stamp, json};
use super::body;
use super::context::{Ask, Context};
use super::params;
use super::problem::Fault;
use super::stream::Body;

/// `GET /v1/access`
pub(super) fn list(context: &Context, ask: &Ask) -> Result<Response<Body>, Fault> {
    params::refuse_conditions(&ask.parts.headers)?;
    ask.params(&[])?.timeout()?;
    let rules = context.host.access().list().map(rule_view).collect();
    let answer = AccessAnswer { rules, sees_all_users: sees_all_users() };
    Ok(json(StatusCode::OK, &answer, Stamp::of(&context.node.view())))
}

fn rule_view(rule: &AccessRuleOptions) -> AccessRuleView {
    let rule = rule.clone();
    AccessRuleView {
        name: rule.name,
        uids: rule.uids,
        gids: rule.gids,
        unit: rule.unit,
        cgroup: rule.cgroup,
        read: rule.read,
        write: rule.write,
        lock: rule.lock,
        campaign: rule.campaign,
        administrate: rule.administrate,
    }
}

/// `POST /v1/access/check`: about itself for everybody, about others for administrators.
pub(super) async fn check(context: &Context, ask: Ask) -> Result<Response<Body>, Fault> {
    params::refuse_conditions(&ask.parts.headers)?;
    ask.params(&[])?.timeout()?;
    let max = context.options.request_bytes_max;
    let request: AccessCheckRequest = body::json(ask.body, max).await?;
    let wanted = wanted(&request)?;
    let described = described(&request)?;
    if described.is_some() {
        context.permit(&ask.subject, vec![Wanted::Administrate])?;
    }
    let subject = described.as_ref().unwrap_or(&ask.subject);
    let decision = context.host.access().decide(subject, &wanted);
    let facts = subject.facts();
    let answer = AccessCheckAnswer {
        allowed: decision.allowed_by.is_some(),
        rule: decision.allowed_by,
        applies: decision.applies,
        subject: AccessSubject {
            uid: subject.uid(),
            gids: facts.groups.iter().copied().collect(),
            cgroup: facts.cgroup.clone(),
            unit: facts.unit.clone(),
        },
    };
    Ok(json(StatusCode::OK, &answer, Stamp::of(&context.node.view())))
}

fn wanted(request: &AccessCheckRequest) -> Result<Wanted, Fault> {
    let name = request.name.clone().map(Bytes::from);
    let is_range = matches!(request.right, AccessRight::Read | AccessRight::Write);
    if request.prefix && !is_range {
        return Err(Fault::invalid("\"prefix\" goes with \"read\" and \"write\" only"));
    }
    let name = match (request.right, name) {
        (AccessRight::Administrate, None) => return Ok(Wanted::Administrate),
        (AccessRight::Administrate, Some(_)) => {
            return Err(Fault::invalid("\"name\" is not for \"administrate\""));
        }
        (_, None) => return Err(Fault::invalid("\"name\" is missing")),
        (_, Some(name)) => name,
    };
    let range = |name| if request.prefix { KeyRange::Prefix(name) } else { KeyRange::Key(name) };
    Ok(match request.right {
        AccessRight::Administrate => Wanted::Administrate,
        AccessRight::Campaign => Wanted::Campaign(name),
        AccessRight::Lock => Wanted::Lock(name),
        AccessRight::Read => Wanted::Read(range(name)),
        AccessRight::Write => Wanted::Write(range(name)),
    })
}

fn described(request: &AccessCheckRequest) -> Result<Option<Subject>, Fault> {
    let Some(uid) = request.uid else {
        if !request.gids.is_empty() || request.cgroup.is_some() || request.unit.is_some() {
            return Err(Fault::invalid("\"gids\", \"cgroup\" and \"unit\" go with \"uid\""));
        }
        return Ok(None);
    };
    let facts = Facts::new(request.gids.iter().copied(), request.cgroup.clone());
    let unit = request.unit.clone().or(facts.unit.clone());
    Ok(Some(Subject::described(uid, Facts { unit, ..facts })))
}
