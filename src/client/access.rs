//! The access rules of this host: those in force, and what they say about somebody.

use hyper::Method;

use super::call::{Call, Client};
use super::error::Error;
use crate::api::types::{AccessAnswer, AccessCheckAnswer, AccessCheckRequest};

impl Client {
    /// The rules in force; for administrators.
    pub async fn access_rules(&self) -> Result<AccessAnswer, Error> {
        self.json(&Call::new(Method::GET, "/v1/access")).await
    }

    /// Whether the rules in force allow something, and which does.
    pub async fn check_access(
        &self,
        request: &AccessCheckRequest,
    ) -> Result<AccessCheckAnswer, Error> {
        self.json(&Call::new(Method::POST, "/v1/access/check").json(request)?).await
    }
}
