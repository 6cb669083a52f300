//! What a request on the loopback TCP port must show: a token, a local `Host`, and no browser.
//!
//! Any user of the host, and any web page in a browser on it, can connect there. The token keeps
//! the users out; the other two keep out pages that make the browser send requests for them, under
//! a name that resolves to this address (DNS rebinding: CVE-2018-1099 of etcd).

use http::header::{AUTHORIZATION, HOST, ORIGIN};
use http::request::Parts;
use tokio::sync::watch;

use super::problem::Fault;

/// What is asked of requests on the port.
#[derive(Clone)]
pub(super) struct Gate {
    token: watch::Receiver<String>,
    hosts: [String; 3],
}

impl Gate {
    /// For a port and the token that is asked for at the moment.
    pub(super) fn new(port: u16, token: watch::Receiver<String>) -> Self {
        let hosts = ["localhost", "127.0.0.1", "[::1]"].map(|host| format!("{host}:{port}"));
        Self { token, hosts }
    }

    /// Refuses what may not pass.
    pub(super) fn check(&self, parts: &Parts) -> Result<(), Fault> {
        if parts.headers.contains_key(ORIGIN) || parts.headers.contains_key("sec-fetch-site") {
            return Err(Fault::forbidden("web pages may not use this port"));
        }
        let known = |host: &str| self.hosts.iter().any(|known| host.eq_ignore_ascii_case(known));
        let mut hosts = parts.headers.get_all(HOST).iter();
        let host = hosts.next().and_then(|host| host.to_str().ok());
        let authority = parts.uri.authority().is_none_or(|authority| known(authority.as_str()));
        if !host.is_some_and(known) || hosts.next().is_some() || !authority {
            let detail = format!("\"Host\" is none of {}", self.hosts.join(", "));
            return Err(Fault::forbidden(detail));
        }
        let mut given = parts.headers.get_all(AUTHORIZATION).iter();
        let token = given.next().and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        match token {
            Some(token)
                if same(token, self.token.borrow().as_bytes()) && given.next().is_none() =>
            {
                Ok(())
            }
            _ => Err(Fault::forbidden(
                "this port asks for \"Authorization: Bearer\" with the content of its token file",
            )),
        }
    }
}

/// Compares in a time that does not depend on where the first difference is.
fn same(given: &[u8], token: &[u8]) -> bool {
    let differences = given.iter().zip(token).fold(0_u8, |seen, (one, other)| seen | (one ^ other));
    given.len() == token.len() && differences == 0
}

#[cfg(test)]
mod tests {
    use http::Request;
    use http::request::Parts;

    use tokio::sync::watch;

    use super::Gate;

    fn parts(uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn only_local_programs_with_the_token_pass() {
        let gate = Gate::new(2380, watch::channel("secret".to_owned()).1);
        let bearer = ("authorization", "Bearer secret");
        let local = ("host", "localhost:2380");
        for host in ["localhost:2380", "127.0.0.1:2380", "[::1]:2380", "LOCALHOST:2380"] {
            assert!(gate.check(&parts("/", &[("host", host), bearer])).is_ok(), "{host}");
        }
        for (uri, headers) in [
            ("/", vec![local]),
            ("/", vec![local, ("authorization", "Bearer secre")]),
            ("/", vec![local, ("authorization", "Bearer secretx")]),
            ("/", vec![local, ("authorization", "Basic secret")]),
            ("/", vec![local, bearer, ("authorization", "Bearer other")]),
            ("/", vec![bearer]),
            ("/", vec![("host", "localhost"), bearer]),
            ("/", vec![("host", "evil.example:2380"), bearer]),
            ("/", vec![local, ("host", "evil.example"), bearer]),
            ("http://evil.example/", vec![local, bearer]),
            ("/", vec![local, bearer, ("origin", "http://localhost:2380")]),
            ("/", vec![local, bearer, ("sec-fetch-site", "same-origin")]),
        ] {
            let problem = gate.check(&parts(uri, &headers)).unwrap_err().into_problem();
            assert_eq!(problem.status, 403, "{uri} {headers:?}");
            assert!(!problem.detail.contains("secret"), "the token is told: {}", problem.detail);
        }
    }
}
