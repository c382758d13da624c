//! Asks a running imapool.

use std::io;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::header::{AUTHORIZATION, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use imapool::admin::Token;
use imapool::config::ListenAddr;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long an answer may take; a reload reads files and may bind ports.
const PATIENCE: Duration = Duration::from_secs(10);
/// A move is waited for, for half a minute at most.
const PATIENCE_WITH_ACTIONS: Duration = Duration::from_secs(40);
/// More than the longest page of a list.
const LONGEST_ANSWER: usize = 16 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// Not an address.
    #[error("{address:?} is no admin address: write an IP address and a port such as 127.0.0.1:9143, or unix:/path")]
    Address {
        /// What was given.
        address: String,
    },
    /// Nobody there.
    #[error("imapool cannot be reached at {address}: {error}; is it running, and is that its admin.address?")]
    Connect {
        /// What was tried.
        address: ListenAddr,
        /// What the system said.
        error: io::Error,
    },
    /// Something answered, but not so.
    #[error("{address} does not answer as imapool does: {reason}")]
    Protocol {
        /// Who.
        address: ListenAddr,
        /// What was wrong.
        reason: String,
    },
    /// It said no.
    #[error("{0}")]
    Refused(String),
}

/// Knows where imapool is, and perhaps the token.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    address: ListenAddr,
    token: Result<Option<Token>, String>,
}

impl Client {
    pub(crate) fn new(address: ListenAddr, token: Result<Option<Token>, String>) -> Self {
        Self { address, token }
    }

    /// Where it is.
    pub(crate) fn address(&self) -> &ListenAddr {
        &self.address
    }

    /// `GET /api/{call}`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub(crate) async fn get(&self, call: &str) -> Result<Value, ClientError> {
        self.call(Method::GET, call, PATIENCE).await
    }

    /// `POST /api/{call}`, with the token.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub(crate) async fn post(&self, call: &str) -> Result<Value, ClientError> {
        if let Err(reason) = &self.token {
            return Err(ClientError::Refused(reason.clone()));
        }
        self.call(Method::POST, call, PATIENCE_WITH_ACTIONS).await
    }

    async fn call(&self, method: Method, call: &str, patience: Duration) -> Result<Value, ClientError> {
        let answer = timeout(patience, self.exchange(method, call)).await;
        let (status, body) = answer.unwrap_or_else(|_| {
            Err(self.protocol(format!("no answer within {}", humantime::format_duration(patience))))
        })?;
        let value: Value = serde_json::from_slice(&body).unwrap_or_default();
        if status.is_success() && !value.is_null() {
            return Ok(value);
        }
        let text = String::from_utf8_lossy(&body);
        let reason = value["error"].as_str().unwrap_or_else(|| text.lines().next().unwrap_or_default());
        match status {
            StatusCode::OK => Err(self.protocol("not JSON".to_owned())),
            _ if reason.is_empty() => Err(self.protocol(format!("status {status}"))),
            _ => Err(ClientError::Refused(reason.to_owned())),
        }
    }

    async fn exchange(&self, method: Method, call: &str) -> Result<(StatusCode, Vec<u8>), ClientError> {
        let refused = |error| ClientError::Connect { address: self.address.clone(), error };
        match &self.address {
            ListenAddr::Tcp(address) => {
                let stream = TcpStream::connect(address).await.map_err(refused)?;
                self.exchange_over(stream, method, call, &address.to_string()).await
            }
            ListenAddr::Unix(path) => {
                let stream = imapool::platform::connect(path).await.map_err(refused)?;
                self.exchange_over(stream, method, call, "localhost").await
            }
        }
    }

    async fn exchange_over<S>(
        &self,
        stream: S,
        method: Method,
        call: &str,
        host: &str,
    ) -> Result<(StatusCode, Vec<u8>), ClientError>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let protocol = |error: &dyn std::fmt::Display| self.protocol(error.to_string());
        let shaken = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = shaken.map_err(|error| protocol(&error))?;
        let driving = tokio::spawn(connection);
        let mut request = Request::builder().method(method.clone()).uri(format!("/api/{call}")).header(HOST, host);
        if let (Method::POST, Ok(Some(token))) = (method, &self.token) {
            request = request.header(AUTHORIZATION, token.bearer());
        }
        let request = request.body(Empty::<bytes::Bytes>::new()).map_err(|error| protocol(&error))?;
        let response = sender.send_request(request).await.map_err(|error| protocol(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LONGEST_ANSWER).collect().await;
        driving.abort();
        Ok((status, body.map_err(|error| protocol(&error))?.to_bytes().to_vec()))
    }

    fn protocol(&self, reason: String) -> ClientError {
        ClientError::Protocol { address: self.address.clone(), reason }
    }
}
