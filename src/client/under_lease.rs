//! Decides how a place in a queue is asked for under a lease of the caller's own.
//!
//! The caller keeps that lease alive; nothing here does. A place with a lease and a stream of its
//! own is in `acquire.rs`.

use std::time::Duration;

use hyper::Method;

use super::call::{Call, Client};
use super::error::Error;
use crate::api::types::{AcquireRequest, CampaignRequest, HeldAnswer};

/// What the daemon is given on top of the wait that was asked for.
const BESIDES_THE_WAIT: Duration = Duration::from_secs(10);

impl Client {
    /// Waits for a lock under `request.lease`, for `wait`: then [`Code::LockHeld`] is the error,
    /// and the place in the queue is left. Asking again while it is held is answered at once.
    ///
    /// [`Code::LockHeld`]: crate::api::types::Code::LockHeld
    pub async fn acquire_under_lease(
        &self,
        name: impl AsRef<[u8]>,
        request: &AcquireRequest,
        wait: Duration,
    ) -> Result<HeldAnswer, Error> {
        let call = Call::new(Method::POST, "/v1/locks/").name(name.as_ref()).json(request)?;
        self.json(&call.within(Some(wait + BESIDES_THE_WAIT))).await
    }

    /// Campaigns under `request.lease`, as [`Client::acquire_under_lease`].
    pub async fn campaign_under_lease(
        &self,
        name: impl AsRef<[u8]>,
        request: &CampaignRequest,
        wait: Duration,
    ) -> Result<HeldAnswer, Error> {
        let call = Call::new(Method::POST, "/v1/elections/").name(name.as_ref()).json(request)?;
        self.json(&call.within(Some(wait + BESIDES_THE_WAIT))).await
    }
}
