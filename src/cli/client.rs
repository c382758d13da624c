//! Asks a running imapool.

use std::error::Error;
use std::fmt::Display;
use std::io;
use std::time::Duration;

use anyhow::anyhow;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1::handshake;
use hyper::header::{AUTHORIZATION, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use imapool::admin::Token;
use imapool::config::ListenAddr;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long an answer may take; a reload reads files and may bind ports.
const PATIENCE: Duration = Duration::from_secs(10);
/// A move is waited for, for half a minute at most.
const PATIENCE_WITH_ACTIONS: Duration = Duration::from_secs(40);
/// More than the longest page of a list.
const LONGEST_ANSWER: usize = 16 * 1024 * 1024;

/// Knows where imapool is, and perhaps the token.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(super) address: ListenAddr,
    pub(super) token: Result<Option<Token>, String>,
}

impl Client {
    /// `GET /api/{call}`.
    ///
    /// # Errors
    /// When imapool cannot be reached, what answers is not imapool, or it says no.
    pub(crate) async fn get(&self, call: &str) -> anyhow::Result<Value> {
        self.call(Method::GET, call, PATIENCE).await
    }

    /// `POST /api/{call}`, with the token.
    ///
    /// # Errors
    /// As [`Client::get`]; and when the token cannot be had.
    pub(crate) async fn post(&self, call: &str) -> anyhow::Result<Value> {
        if let Err(reason) = &self.token {
            return Err(anyhow!("{reason}"));
        }
        self.call(Method::POST, call, PATIENCE_WITH_ACTIONS).await
    }

    async fn call(&self, method: Method, call: &str, patience: Duration) -> anyhow::Result<Value> {
        let answer = timeout(patience, self.exchange(method, call)).await;
        let late = |_| self.strange(&format!("no answer within {}", humantime::format_duration(patience)));
        let (status, body) = answer.map_err(late)??;
        let value: Value = serde_json::from_slice(&body).unwrap_or_default();
        if status.is_success() && !value.is_null() {
            return Ok(value);
        }
        let text = String::from_utf8_lossy(&body);
        let reason = value["error"].as_str().unwrap_or_else(|| text.lines().next().unwrap_or_default());
        Err(match status {
            StatusCode::OK => self.strange(&"not JSON"),
            _ if reason.is_empty() => self.strange(&format!("status {status}")),
            _ => anyhow!("{reason}"),
        })
    }

    async fn exchange(&self, method: Method, call: &str) -> anyhow::Result<(StatusCode, Bytes)> {
        let refused = |error: io::Error| {
            let address = &self.address;
            anyhow!("imapool cannot be reached at {address}: {error}; is it running, and is that its admin.address?")
        };
        let answer = match &self.address {
            ListenAddr::Tcp(address) => {
                let stream = TcpStream::connect(address).await.map_err(refused)?;
                self.exchange_over(stream, method, call, &address.to_string()).await
            }
            ListenAddr::Unix(path) => {
                let stream = imapool::platform::connect(path).await.map_err(refused)?;
                self.exchange_over(stream, method, call, "localhost").await
            }
        };
        answer.map_err(|error| self.strange(&error))
    }

    async fn exchange_over<S>(
        &self,
        stream: S,
        method: Method,
        call: &str,
        host: &str,
    ) -> Result<(StatusCode, Bytes), Box<dyn Error + Send + Sync>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        // The connection ends with `sender`.
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let mut request = Request::builder().method(method.clone()).uri(format!("/api/{call}")).header(HOST, host);
        if let (Method::POST, Ok(Some(token))) = (method, &self.token) {
            request = request.header(AUTHORIZATION, token.bearer());
        }
        let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
        let status = response.status();
        Ok((status, Limited::new(response.into_body(), LONGEST_ANSWER).collect().await?.to_bytes()))
    }

    /// Something answered, but not so.
    fn strange(&self, reason: &dyn Display) -> anyhow::Error {
        anyhow!("{} does not answer as imapool does: {reason}", self.address)
    }
}
