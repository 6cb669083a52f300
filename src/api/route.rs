//! The table of routes: which path and method leads where, and what kind of request it is.
//!
//! What a request does is decided in the file of its resource.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::{Method, Response};
use matchit::Router;

use crate::host::Wanted;
use crate::state::QueueKind;

use super::answer::Stamp;
use super::context::{Ask, Context};
use super::params::path_bytes;
use super::problem::Fault;
use super::stream::Body;
use super::{
    access, barrier, ca, election, health, kv, lease, lock, members, status, tokens, txn, watch,
};

/// What kind of request it is: who may make it, and what its failures say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Changes the cluster: for administrators, which is decided here.
    Administrate,
    /// Shows what only administrators may see, which is decided here.
    Inspect,
    /// About the process, for supervisors: for all who may connect.
    Probe,
    /// About the cluster, nothing of the store: for all who may connect.
    Public,
    /// Reads the store: its handler decides, by the names that it parsed.
    Read,
    /// Changes the store: its handler decides, by the names that it parsed. Like those of
    /// `Administrate`, its failures say whether it was applied.
    Write,
}

/// Where a request leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Endpoint {
    AccessCheck,
    AccessList,
    BarrierEnter,
    BarrierGet,
    BarrierLeave,
    Barriers,
    CaFinish,
    CaRotate,
    CaStatus,
    Campaign,
    Compact,
    ElectionGet,
    Elections,
    GrantLease,
    Healthz,
    Keepalive,
    KvDelete,
    KvDeletePrefix,
    KvGet,
    KvList,
    KvPut,
    LeaseEvents,
    LeaseGet,
    Leases,
    LeaderMove,
    LockAcquire,
    LockGet,
    LockRelease,
    Locks,
    Members,
    MembersCancel,
    MembersPut,
    Metrics,
    Proclaim,
    Readyz,
    Rebuild,
    Reload,
    Resign,
    Revoke,
    Status,
    TokenCreate,
    TokenRevoke,
    Tokens,
    Txn,
    Watch,
}

impl Endpoint {
    /// Whether it is of no use on a node whose state is not that of the others.
    fn looks_at_the_state(self) -> bool {
        !matches!(
            self,
            Self::AccessCheck
                | Self::AccessList
                | Self::Healthz
                | Self::Members
                | Self::Metrics
                | Self::Readyz
                | Self::Rebuild
                | Self::Reload
                | Self::Status
        )
    }
}

/// One path with its methods, and what `Allow` says of them.
struct Path {
    pattern: &'static str,
    methods: &'static [(Method, Access, Endpoint)],
    allow: &'static str,
}

use Access::{Administrate, Inspect, Probe, Public, Read, Write};

const PATHS: &[Path] = &[
    Path {
        pattern: "/v1/kv/{*rest}",
        methods: &[
            (Method::GET, Read, Endpoint::KvGet),
            (Method::HEAD, Read, Endpoint::KvGet),
            (Method::PUT, Write, Endpoint::KvPut),
            (Method::DELETE, Write, Endpoint::KvDelete),
        ],
        allow: "GET, HEAD, PUT, DELETE",
    },
    Path {
        pattern: "/v1/kv",
        methods: &[
            (Method::GET, Read, Endpoint::KvList),
            (Method::HEAD, Read, Endpoint::KvList),
            (Method::DELETE, Write, Endpoint::KvDeletePrefix),
        ],
        allow: "GET, HEAD, DELETE",
    },
    Path { pattern: "/v1/txn", methods: &[(Method::POST, Write, Endpoint::Txn)], allow: "POST" },
    Path { pattern: "/v1/watch", methods: &[(Method::GET, Read, Endpoint::Watch)], allow: "GET" },
    Path {
        pattern: "/v1/leases",
        methods: &[
            (Method::GET, Read, Endpoint::Leases),
            (Method::HEAD, Read, Endpoint::Leases),
            (Method::POST, Write, Endpoint::GrantLease),
        ],
        allow: "GET, HEAD, POST",
    },
    Path {
        pattern: "/v1/leases/{rest}",
        methods: &[
            (Method::GET, Read, Endpoint::LeaseGet),
            (Method::HEAD, Read, Endpoint::LeaseGet),
            (Method::DELETE, Write, Endpoint::Revoke),
        ],
        allow: "GET, HEAD, DELETE",
    },
    Path {
        pattern: "/v1/leases/{rest}/keepalive",
        methods: &[(Method::POST, Write, Endpoint::Keepalive)],
        allow: "POST",
    },
    Path {
        pattern: "/v1/leases/{rest}/events",
        methods: &[(Method::GET, Read, Endpoint::LeaseEvents)],
        allow: "GET",
    },
    Path {
        pattern: "/v1/locks",
        methods: &[(Method::GET, Read, Endpoint::Locks), (Method::HEAD, Read, Endpoint::Locks)],
        allow: "GET, HEAD",
    },
    Path {
        pattern: "/v1/locks/{*rest}",
        methods: &[
            (Method::GET, Read, Endpoint::LockGet),
            (Method::HEAD, Read, Endpoint::LockGet),
            (Method::POST, Write, Endpoint::LockAcquire),
            (Method::DELETE, Write, Endpoint::LockRelease),
        ],
        allow: "GET, HEAD, POST, DELETE",
    },
    Path {
        pattern: "/v1/elections",
        methods: &[
            (Method::GET, Read, Endpoint::Elections),
            (Method::HEAD, Read, Endpoint::Elections),
        ],
        allow: "GET, HEAD",
    },
    Path {
        pattern: "/v1/elections/{*rest}",
        methods: &[
            (Method::GET, Read, Endpoint::ElectionGet),
            (Method::HEAD, Read, Endpoint::ElectionGet),
            (Method::POST, Write, Endpoint::Campaign),
            (Method::PUT, Write, Endpoint::Proclaim),
            (Method::DELETE, Write, Endpoint::Resign),
        ],
        allow: "GET, HEAD, POST, PUT, DELETE",
    },
    Path {
        pattern: "/v1/barriers",
        methods: &[
            (Method::GET, Read, Endpoint::Barriers),
            (Method::HEAD, Read, Endpoint::Barriers),
        ],
        allow: "GET, HEAD",
    },
    Path {
        pattern: "/v1/barriers/{*rest}",
        methods: &[
            (Method::GET, Read, Endpoint::BarrierGet),
            (Method::HEAD, Read, Endpoint::BarrierGet),
            (Method::POST, Write, Endpoint::BarrierEnter),
            (Method::DELETE, Write, Endpoint::BarrierLeave),
        ],
        allow: "GET, HEAD, POST, DELETE",
    },
    Path {
        pattern: "/v1/status",
        methods: &[
            (Method::GET, Public, Endpoint::Status),
            (Method::HEAD, Public, Endpoint::Status),
        ],
        allow: "GET, HEAD",
    },
    Path {
        pattern: "/v1/members",
        methods: &[
            (Method::GET, Public, Endpoint::Members),
            (Method::HEAD, Public, Endpoint::Members),
            (Method::PUT, Administrate, Endpoint::MembersPut),
        ],
        allow: "GET, HEAD, PUT",
    },
    Path {
        pattern: "/v1/members/cancel",
        methods: &[(Method::POST, Administrate, Endpoint::MembersCancel)],
        allow: "POST",
    },
    Path {
        pattern: "/v1/leader",
        methods: &[(Method::POST, Administrate, Endpoint::LeaderMove)],
        allow: "POST",
    },
    Path {
        pattern: "/v1/rebuild",
        methods: &[(Method::POST, Administrate, Endpoint::Rebuild)],
        allow: "POST",
    },
    Path {
        pattern: "/v1/reload",
        methods: &[(Method::POST, Administrate, Endpoint::Reload)],
        allow: "POST",
    },
    Path {
        pattern: "/v1/compact",
        methods: &[(Method::POST, Administrate, Endpoint::Compact)],
        allow: "POST",
    },
    Path {
        pattern: "/v1/access",
        methods: &[
            (Method::GET, Inspect, Endpoint::AccessList),
            (Method::HEAD, Inspect, Endpoint::AccessList),
        ],
        allow: "GET, HEAD",
    },
    Path {
        pattern: "/v1/access/check",
        methods: &[(Method::POST, Public, Endpoint::AccessCheck)],
        allow: "POST",
    },
    Path {
        pattern: "/v1/ca",
        methods: &[
            (Method::GET, Inspect, Endpoint::CaStatus),
            (Method::HEAD, Inspect, Endpoint::CaStatus),
        ],
        allow: "GET, HEAD",
    },
    Path {
        pattern: "/v1/ca/finish",
        methods: &[(Method::POST, Administrate, Endpoint::CaFinish)],
        allow: "POST",
    },
    Path {
        pattern: "/v1/ca/rotate",
        methods: &[(Method::POST, Administrate, Endpoint::CaRotate)],
        allow: "POST",
    },
    Path {
        pattern: "/v1/tokens",
        methods: &[
            (Method::GET, Inspect, Endpoint::Tokens),
            (Method::HEAD, Inspect, Endpoint::Tokens),
            (Method::POST, Administrate, Endpoint::TokenCreate),
        ],
        allow: "GET, HEAD, POST",
    },
    Path {
        pattern: "/v1/tokens/{rest}",
        methods: &[(Method::DELETE, Administrate, Endpoint::TokenRevoke)],
        allow: "DELETE",
    },
    Path {
        pattern: "/healthz",
        methods: &[
            (Method::GET, Probe, Endpoint::Healthz),
            (Method::HEAD, Probe, Endpoint::Healthz),
        ],
        allow: "GET, HEAD",
    },
    Path {
        pattern: "/readyz",
        methods: &[(Method::GET, Probe, Endpoint::Readyz), (Method::HEAD, Probe, Endpoint::Readyz)],
        allow: "GET, HEAD",
    },
    Path {
        pattern: "/metrics",
        methods: &[
            (Method::GET, Probe, Endpoint::Metrics),
            (Method::HEAD, Probe, Endpoint::Metrics),
        ],
        allow: "GET, HEAD",
    },
];

fn router() -> &'static Router<usize> {
    static ROUTER: OnceLock<Router<usize>> = OnceLock::new();
    ROUTER.get_or_init(|| {
        let mut router = Router::new();
        for (index, path) in PATHS.iter().enumerate() {
            router.insert(path.pattern, index).expect("the patterns above do not overlap");
        }
        router
    })
}

/// Every route, for tests that must not miss one.
#[cfg(test)]
pub(super) fn table() -> impl Iterator<Item = (&'static Method, &'static str, Access)> {
    let routes = |path: &'static Path| path.methods.iter().map(|it| (&it.0, path.pattern, it.1));
    PATHS.iter().flat_map(routes)
}

/// Finds the route of a request, and the raw rest of its path.
fn find<'p>(method: &Method, path: &'p str) -> Result<(Access, Endpoint, &'p str), Fault> {
    let found = router().at(path).map_err(|_| Fault::no_such_route())?;
    let route = &PATHS[*found.value];
    let rest = found.params.get("rest").unwrap_or_default();
    match route.methods.iter().find(|(known, ..)| known == method) {
        Some((_, access, endpoint)) => Ok((*access, *endpoint, rest)),
        None => Err(Fault::method_not_allowed(route.allow)),
    }
}

/// Answers a request.
pub(super) async fn answer(context: &Arc<Context>, ask: Ask) -> Response<Body> {
    let found = find(&ask.parts.method, ask.parts.uri.path());
    let (access, endpoint, rest) = match found {
        Ok((access, endpoint, rest)) => (access, endpoint, rest.to_owned()),
        Err(fault) => return fault.into_response(),
    };
    let allowed = match access {
        Administrate | Inspect => {
            context.permit(&ask.subject, vec![Wanted::Administrate]).map(drop)
        }
        Probe | Public | Read | Write => Ok(()),
    };
    let answer = match allowed {
        Ok(()) => dispatch(context, ask, endpoint, rest).await,
        Err(fault) => Err(fault),
    };
    match answer {
        Ok(response) => response,
        Err(fault) => {
            let changes = matches!(access, Administrate | Write);
            let fault = if changes { fault.of_write() } else { fault };
            fault.seen_at(|| Stamp::of(&context.node.view())).into_response()
        }
    }
}

async fn dispatch(
    context: &Arc<Context>,
    ask: Ask,
    endpoint: Endpoint,
    rest: String,
) -> Result<Response<Body>, Fault> {
    let takes_body = matches!(ask.parts.method, Method::POST | Method::PUT);
    if !takes_body && !hyper::body::Body::is_end_stream(&ask.body) {
        return Err(Fault::invalid(format!("a {} request has no body", ask.parts.method)));
    }
    if endpoint.looks_at_the_state() && context.node.fence().is_some() {
        return Err(Fault::diverged());
    }
    let key = || path_bytes(&rest, "key");
    let name = || path_bytes(&rest, "name");
    let id = || lease::path_lease(&Bytes::copy_from_slice(rest.as_bytes()));
    match endpoint {
        Endpoint::AccessCheck => access::check(context, ask).await,
        Endpoint::AccessList => access::list(context, &ask),
        Endpoint::BarrierEnter => barrier::post(context, ask, name()?).await,
        Endpoint::BarrierGet => barrier::get(context, ask, name()?).await,
        Endpoint::BarrierLeave => barrier::leave(context, ask, name()?).await,
        Endpoint::Barriers => barrier::list(context, ask).await,
        Endpoint::CaFinish => ca::finish(context, ask).await,
        Endpoint::CaRotate => ca::rotate(context, ask).await,
        Endpoint::CaStatus => ca::status(context, &ask),
        Endpoint::Campaign => election::post(context, ask, name()?).await,
        Endpoint::Compact => txn::compact(context, ask).await,
        Endpoint::ElectionGet => election::get(context, ask, name()?).await,
        Endpoint::Elections => election::list(context, ask).await,
        Endpoint::GrantLease => lease::grant(context, ask).await,
        Endpoint::Healthz => Ok(health::alive()),
        Endpoint::Keepalive => lease::keepalive(context, ask, id()?).await,
        Endpoint::KvDelete => kv::delete(context, ask, key()?).await,
        Endpoint::KvDeletePrefix => kv::delete_prefix(context, ask).await,
        Endpoint::KvGet => kv::get(context, ask, key()?).await,
        Endpoint::KvList => kv::list(context, ask).await,
        Endpoint::KvPut => kv::put(context, ask, key()?).await,
        Endpoint::LeaseEvents => lease::events(context, ask, id()?).await,
        Endpoint::LeaseGet => lease::get(context, ask, id()?).await,
        Endpoint::Leases => lease::list(context, ask).await,
        Endpoint::LeaderMove => members::transfer(context, ask).await,
        Endpoint::LockAcquire => lock::post(context, ask, name()?).await,
        Endpoint::LockGet => lock::get(context, ask, name()?).await,
        Endpoint::LockRelease => lock::release(context, ask, QueueKind::Lock, name()?).await,
        Endpoint::Locks => lock::list(context, ask).await,
        Endpoint::Members => members::list(context, &ask),
        Endpoint::MembersCancel => members::cancel(context, ask).await,
        Endpoint::MembersPut => members::put(context, ask).await,
        Endpoint::Metrics => Ok(health::metrics(context)),
        Endpoint::Proclaim => election::proclaim(context, ask, name()?).await,
        Endpoint::Readyz => health::ready(context),
        Endpoint::Rebuild => status::rebuild(context, &ask),
        Endpoint::Reload => status::reload(context, &ask).await,
        Endpoint::Resign => lock::release(context, ask, QueueKind::Election, name()?).await,
        Endpoint::Revoke => lease::revoke(context, ask, id()?).await,
        Endpoint::Status => status::status(context, &ask),
        Endpoint::TokenCreate => tokens::create(context, ask).await,
        Endpoint::TokenRevoke => tokens::revoke(context, ask, rest).await,
        Endpoint::Tokens => tokens::list(context, ask).await,
        Endpoint::Txn => txn::txn(context, ask).await,
        Endpoint::Watch => watch::watch(context, ask).await,
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use crate::api::types::Code;

    use super::{Access, Endpoint, PATHS, find};

    #[test]
    fn paths_lead_where_the_contract_says() {
        for (method, path, access, endpoint, rest) in [
            (Method::GET, "/v1/kv/a/b%2Fc", Access::Read, Endpoint::KvGet, "a/b%2Fc"),
            (Method::HEAD, "/v1/kv/a", Access::Read, Endpoint::KvGet, "a"),
            (Method::GET, "/v1/kv//a/", Access::Read, Endpoint::KvGet, "/a/"),
            (Method::PUT, "/v1/kv/keepalive", Access::Write, Endpoint::KvPut, "keepalive"),
            (Method::GET, "/v1/kv", Access::Read, Endpoint::KvList, ""),
            (Method::DELETE, "/v1/kv", Access::Write, Endpoint::KvDeletePrefix, ""),
            (Method::POST, "/v1/leases", Access::Write, Endpoint::GrantLease, ""),
            (Method::POST, "/v1/leases/1f/keepalive", Access::Write, Endpoint::Keepalive, "1f"),
            (Method::GET, "/v1/leases/1f/events", Access::Read, Endpoint::LeaseEvents, "1f"),
            (Method::DELETE, "/v1/leases/1f", Access::Write, Endpoint::Revoke, "1f"),
            (Method::POST, "/v1/locks/a/b", Access::Write, Endpoint::LockAcquire, "a/b"),
            (Method::PUT, "/v1/elections/e", Access::Write, Endpoint::Proclaim, "e"),
            (Method::GET, "/healthz", Access::Probe, Endpoint::Healthz, ""),
        ] {
            assert_eq!(find(&method, path), Ok((access, endpoint, rest)), "{method} {path}");
        }
    }

    #[test]
    fn what_is_not_there_is_said_to_be_not_there() {
        for path in [
            "/",
            "/v1",
            "/v1/",
            "/v1/kv/",
            "/v2/kv/a",
            "/v1/leases/a/b",
            "/v1/backup",
            "/v1/leader/",
            "/v1/txn/",
            "/v1/locks/",
        ] {
            let fault = find(&Method::GET, path).unwrap_err();
            assert_eq!(fault.code(), Code::NoSuchRoute, "{path}");
        }
        let fault = find(&Method::PUT, "/v1/status").unwrap_err();
        let response = fault.into_response();
        assert_eq!(
            (response.status().as_u16(), &response.headers()["allow"]),
            (405, &http::HeaderValue::from_static("GET, HEAD"))
        );
    }

    #[test]
    fn allow_lists_exactly_the_methods_of_a_path() {
        for path in PATHS {
            let methods: Vec<&str> =
                path.methods.iter().map(|(method, ..)| method.as_str()).collect();
            assert_eq!(methods.join(", "), path.allow, "{}", path.pattern);
        }
    }
}
