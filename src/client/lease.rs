//! Leases, and the streams that tell how a lease or an election stands.

use hyper::Method;

use super::call::{Call, Client, ReadOptions, WriteOptions, message};
use super::clock::BootInstant;
use super::connection::Lines;
use super::error::Error;
use crate::api::types::{
    ElectionMessage, ElectionView, ElectionsAnswer, GrantLeaseRequest, HexId, KeepaliveAnswer,
    LeaseAnswer, LeaseMessage, LeaseView, LeasesAnswer, LockView, LocksAnswer, ReleaseAnswer,
    RevokeAnswer,
};

/// An answer that promises something, with the point until which it does.
#[derive(Clone, Copy, Debug)]
pub struct Kept<T> {
    /// The answer.
    pub answer: T,
    /// Nobody else can be given what the lease protects before this. Counted from before the
    /// request was sent: the answer may have been under way for any time since.
    pub valid_until: BootInstant,
}

/// The states of one lease, as they change. Ends after `lost`.
pub struct LeaseEvents {
    lines: Lines,
}

impl LeaseEvents {
    /// The next state; nothing when the stream has ended. May be dropped at any time.
    pub async fn next(&mut self) -> Result<Option<LeaseMessage>, Error> {
        self.lines.next().await?.map(|line| message(&line)).transpose()
    }
}

/// Who leads an election, as it changes, the present leader first.
pub struct ElectionWatch {
    lines: Lines,
}

impl ElectionWatch {
    /// The next message; nothing when the stream has ended. May be dropped at any time.
    pub async fn next(&mut self) -> Result<Option<ElectionMessage>, Error> {
        self.lines.next().await?.map(|line| message(&line)).transpose()
    }
}

fn lease_call(method: Method, lease: HexId, rest: &str) -> Call {
    Call::new(method, &format!("/v1/leases/{lease}{rest}"))
}

impl Client {
    /// Makes a lease that the caller keeps alive, or with `bind` `process` a process.
    pub async fn grant_lease(
        &self,
        request: &GrantLeaseRequest,
        options: &WriteOptions,
    ) -> Result<Kept<LeaseAnswer>, Error> {
        let call = Call::new(Method::POST, "/v1/leases").json(request)?.write(options);
        let before = BootInstant::now();
        let answer: LeaseAnswer = self.json(&call).await?;
        let valid_until = before + std::time::Duration::from_millis(answer.valid_for_ms);
        Ok(Kept { answer, valid_until })
    }

    /// Makes a lease that lives as long as the stream that is returned. The first message names it.
    pub async fn grant_lease_of_connection(
        &self,
        request: &GrantLeaseRequest,
    ) -> Result<LeaseEvents, Error> {
        let bind = Some(crate::api::types::Bind::Connection);
        let request = GrantLeaseRequest { bind, ..request.clone() };
        let call = Call::new(Method::POST, "/v1/leases").json(&request)?;
        Ok(LeaseEvents { lines: self.stream(&call).await? })
    }

    /// A sign of life.
    pub async fn keep_alive(&self, lease: HexId) -> Result<Kept<KeepaliveAnswer>, Error> {
        let before = BootInstant::now();
        let answer: KeepaliveAnswer =
            self.json(&lease_call(Method::POST, lease, "/keepalive")).await?;
        let valid_until = before + std::time::Duration::from_millis(answer.valid_for_ms);
        Ok(Kept { answer, valid_until })
    }

    /// Ends a lease and deletes its keys, in one revision.
    pub async fn revoke_lease(
        &self,
        lease: HexId,
        options: &WriteOptions,
    ) -> Result<RevokeAnswer, Error> {
        self.json(&lease_call(Method::DELETE, lease, "").write(options)).await
    }

    /// A lease, its keys and, on the node that keeps it alive, what its holder is promised.
    pub async fn lease(
        &self,
        lease: HexId,
        options: &ReadOptions,
    ) -> Result<Kept<LeaseView>, Error> {
        let before = BootInstant::now();
        let answer: LeaseView =
            self.json(&lease_call(Method::GET, lease, "").read(options)).await?;
        let promised = answer.valid_for_ms.unwrap_or(0);
        let valid_until = before + std::time::Duration::from_millis(promised);
        Ok(Kept { answer, valid_until })
    }

    /// Every lease, without its keys, on as many pages as it takes.
    pub async fn leases(&self) -> Result<LeasesAnswer, Error> {
        let mut all: LeasesAnswer = self.json(&Call::new(Method::GET, "/v1/leases")).await?;
        while let Some(last) = all.leases.last().filter(|_| all.more) {
            let call =
                Call::new(Method::GET, "/v1/leases").query("start_after", last.lease.to_string());
            let page: LeasesAnswer = self.json(&call).await?;
            all.leases.extend(page.leases);
            (all.more, all.revision) = (page.more, page.revision);
        }
        Ok(all)
    }

    /// The states of a lease.
    pub async fn lease_events(&self, lease: HexId) -> Result<LeaseEvents, Error> {
        Ok(LeaseEvents { lines: self.stream(&lease_call(Method::GET, lease, "/events")).await? })
    }

    /// Who holds and who waits for a lock.
    pub async fn lock_view(&self, name: impl AsRef<[u8]>) -> Result<LockView, Error> {
        self.json(&Call::new(Method::GET, "/v1/locks/").name(name.as_ref())).await
    }

    /// Every lock that is held or waited for, on as many pages as it takes.
    pub async fn locks(&self) -> Result<LocksAnswer, Error> {
        let mut all: LocksAnswer = self.json(&Call::new(Method::GET, "/v1/locks")).await?;
        while let Some(last) = all.locks.last().filter(|_| all.more) {
            let call = Call::new(Method::GET, "/v1/locks").query("start_after", &last.name);
            let page: LocksAnswer = self.json(&call).await?;
            all.locks.extend(page.locks);
            (all.more, all.revision) = (page.more, page.revision);
        }
        Ok(all)
    }

    /// Releases a lock whose token is known, also for somebody else.
    pub async fn release_lock(
        &self,
        name: impl AsRef<[u8]>,
        token: u64,
        options: &WriteOptions,
    ) -> Result<ReleaseAnswer, Error> {
        let call = Call::new(Method::DELETE, "/v1/locks/").name(name.as_ref());
        self.json(&call.query("token", token.to_string()).write(options)).await
    }

    /// Resigns from an election, or ends a candidacy, whose token is known.
    pub async fn resign(
        &self,
        name: impl AsRef<[u8]>,
        token: u64,
        options: &WriteOptions,
    ) -> Result<ReleaseAnswer, Error> {
        let call = Call::new(Method::DELETE, "/v1/elections/").name(name.as_ref());
        self.json(&call.query("token", token.to_string()).write(options)).await
    }

    /// Who leads an election and who would follow.
    pub async fn election(&self, name: impl AsRef<[u8]>) -> Result<ElectionView, Error> {
        self.json(&Call::new(Method::GET, "/v1/elections/").name(name.as_ref())).await
    }

    /// Every election with a leader or candidates, on as many pages as it takes.
    pub async fn elections(&self) -> Result<ElectionsAnswer, Error> {
        let mut all: ElectionsAnswer = self.json(&Call::new(Method::GET, "/v1/elections")).await?;
        while let Some(last) = all.elections.last().filter(|_| all.more) {
            let call = Call::new(Method::GET, "/v1/elections").query("start_after", &last.name);
            let page: ElectionsAnswer = self.json(&call).await?;
            all.elections.extend(page.elections);
            (all.more, all.revision) = (page.more, page.revision);
        }
        Ok(all)
    }

    /// Who leads an election, as it changes.
    pub async fn watch_election(&self, name: impl AsRef<[u8]>) -> Result<ElectionWatch, Error> {
        let call = Call::new(Method::GET, "/v1/elections/").name(name.as_ref());
        Ok(ElectionWatch { lines: self.stream(&call.query_if("watch", true)).await? })
    }
}
