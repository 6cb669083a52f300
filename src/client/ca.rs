//! The authority of the cluster, for administrators.

use hyper::Method;

use super::call::{Call, Client};
use super::error::Error;
use crate::api::types::{CaAnswer, CaFinishRequest};

impl Client {
    /// How the authority of the cluster stands, as this node knows it.
    pub async fn ca(&self) -> Result<CaAnswer, Error> {
        self.json(&Call::new(Method::GET, "/v1/ca")).await
    }

    /// Begins to exchange it; this node must hold its key. It goes on by itself.
    pub async fn rotate_ca(&self) -> Result<CaAnswer, Error> {
        self.json(&Call::new(Method::POST, "/v1/ca/rotate")).await
    }

    /// Ends the present phase of an exchange although members are not done with it.
    pub async fn force_ca(&self) -> Result<CaAnswer, Error> {
        let request = CaFinishRequest { force: true };
        self.json(&Call::new(Method::POST, "/v1/ca/finish").json(&request)?).await
    }
}
