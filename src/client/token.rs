//! Join tokens, for administrators.

use hyper::Method;

use super::call::{Call, Client};
use super::error::Error;
use crate::api::types::{TokenAnswer, TokenRequest, TokenView, TokensAnswer};

impl Client {
    /// Makes a join token. Without an answer one may have been made that nobody knows; it ends by
    /// itself.
    pub async fn create_token(&self, request: &TokenRequest) -> Result<TokenAnswer, Error> {
        self.json(&Call::new(Method::POST, "/v1/tokens").json(request)?).await
    }

    /// The tokens that are not forgotten yet.
    pub async fn tokens(&self) -> Result<TokensAnswer, Error> {
        self.json(&Call::new(Method::GET, "/v1/tokens")).await
    }

    /// Makes a token useless, unless it was used.
    pub async fn revoke_token(&self, id: &str) -> Result<TokenView, Error> {
        self.json(&Call::new(Method::DELETE, "/v1/tokens/").name(id.as_bytes())).await
    }
}
