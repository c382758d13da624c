//! From a request to its answer.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::{Body, Frame};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::header::{REFERRER_POLICY, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::task::{JoinError, spawn_blocking};
use tokio_util::sync::CancellationToken;

use super::access;
use super::actions::{self, Origin};
use super::api::{self, Query};
use super::page;
use super::sampler::{FRESH, Sampler};
use super::{AdminState, Readiness, Refusal};
use crate::metrics;

pub(super) const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const EVENT_STREAM: &str = "text/event-stream";
/// The call that is answered by a stream.
const EVENTS: &str = "events";

/// Nothing from elsewhere, and in no frame: the page needs no more.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Viewers of the page at once; further ones are told to come back.
const VIEWERS: usize = 32;

pub(super) type Answer = Response<AnswerBody>;

/// A body that is known as a whole, or events as they come.
type AnswerBody = Either<Full<Bytes>, Events>;

pub(super) struct Events(mpsc::Receiver<Bytes>);

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|event| event.map(|event| Ok(Frame::data(event))))
    }
}

pub(super) struct Routes {
    state: AdminState,
    /// What looks at everything runs one at a time: requests at once must not take a blocking thread each.
    looking: Mutex<()>,
    sampler: Option<Arc<Sampler>>,
    viewers: Arc<Semaphore>,
}

impl Routes {
    /// Samples the numbers until `stop`, where there is a subject.
    pub(super) fn new(state: AdminState, stop: &CancellationToken) -> Self {
        let sampler = state.subject.as_ref().map(|subject| Sampler::start(subject, &state.readiness, stop));
        Self { state, looking: Mutex::default(), sampler, viewers: Arc::new(Semaphore::new(VIEWERS)) }
    }

    /// The request's body, if it has one, is never read. For HEAD, hyper leaves the answer's body out.
    pub(super) async fn respond<B>(&self, request: &Request<B>, origin: Origin) -> Result<Answer, Infallible> {
        let path = request.uri().path();
        let read = [Method::GET, Method::HEAD].contains(request.method());
        Ok(match path {
            // What probes and scrapers read tells no names.
            "/metrics" | "/healthz" | "/readyz" if !read => method_not_allowed("GET, HEAD"),
            "/metrics" => self.metrics().await,
            "/healthz" => text(StatusCode::OK, "ok\n"),
            "/readyz" => self.readyz(),
            _ => self.guarded(request, read, origin).await.unwrap_or_else(refuse),
        })
    }

    /// What other sites' scripts may not ask for.
    async fn guarded<B>(&self, request: &Request<B>, read: bool, origin: Origin) -> Result<Answer, Refusal> {
        let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
        access::admit(request.headers(), &self.state.hosts.load(), path == "/")?;
        let Some(call) = path.strip_prefix("/api/") else {
            return Ok(page::file(path, read).unwrap_or_else(no_such_page));
        };
        let Some(sampler) = &self.sampler else { return Ok(no_such_page()) };
        if request.method() == Method::POST {
            access::authorize(request.headers(), self.state.token.load().as_ref().as_ref())?;
            return match actions::act(&*sampler.subject, call, query, origin).await {
                Some(done) => Ok(json_answer(StatusCode::OK, &done?)),
                None if call == EVENTS || list(call).is_some() => Ok(method_not_allowed("GET, HEAD")),
                None => Ok(no_such_page()),
            };
        }
        Ok(match list(call) {
            _ if !read => method_not_allowed("GET, HEAD, POST"),
            Some(list) => {
                let (sampler, query) = (Arc::clone(sampler), Query::parse(query));
                match self.look(move || list(&sampler, &query)).await {
                    Ok(value) => json_answer(StatusCode::OK, &value),
                    Err(error) => unavailable(format!("it cannot be read: {error}")),
                }
            }
            None if call == EVENTS => self.events(sampler),
            None => no_such_page(),
        })
    }

    /// Lists may be long, and /proc may take milliseconds with many open descriptors: that is read where it holds up
    /// nobody, one at a time.
    async fn look<T: Send + 'static>(&self, look: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
        let _turn = self.looking.lock().await;
        spawn_blocking(look).await
    }

    /// A stream of server-sent events: the history, then what is new, as fast as the viewer takes it.
    fn events(&self, sampler: &Arc<Sampler>) -> Answer {
        let Ok(viewer) = Arc::clone(&self.viewers).try_acquire_owned() else {
            return unavailable("too many viewers".to_owned());
        };
        let (send, events) = mpsc::channel(1);
        let sampler = Arc::clone(sampler);
        tokio::spawn(async move {
            sampler.show(send).await;
            drop(viewer);
        });
        headed(StatusCode::OK, EVENT_STREAM, Either::Right(Events(events)))
    }

    async fn metrics(&self) -> Answer {
        let metrics = Arc::clone(&self.state.metrics);
        match self.look(move || metrics.render()).await {
            Ok(text) => answer(StatusCode::OK, metrics::CONTENT_TYPE, text),
            Err(error) => unavailable(format!("the numbers cannot be read: {error}")),
        }
    }

    fn readyz(&self) -> Answer {
        match (self.state.readiness)() {
            Readiness::Ready => text(StatusCode::OK, "ready\n"),
            not => unavailable(format!("not ready: {not}")),
        }
    }
}

type List = fn(&Sampler, &Query) -> Value;

/// What can be looked at.
fn list(call: &str) -> Option<List> {
    let list: List = match call {
        "summary" => |sampler, _| sampler.summary(FRESH),
        "accounts" => api::accounts,
        "sessions" => |sampler, query| api::sessions(&*sampler.subject, query),
        "hubs" => |sampler, query| api::hubs(&*sampler.subject, query),
        "connections" => |sampler, query| api::connections(&*sampler.subject, query),
        "backends" => |sampler, _| json!({ "rows": api::backends(&*sampler.subject) }),
        "route" => |sampler, query| api::route(&*sampler.subject, query),
        "config" => |sampler, _| serde_json::to_value(&*sampler.subject.config()).unwrap_or_default(),
        _ => return None,
    };
    Some(list)
}

fn refuse(Refusal(status, why): Refusal) -> Answer {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
    let mut answer = json_answer(status, &json!({ "error": why }));
    if status == StatusCode::UNAUTHORIZED {
        // RFC 9110 section 11.6.1 asks for the header.
        answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    answer
}

fn json_answer(status: StatusCode, value: &Value) -> Answer {
    answer(status, JSON, value.to_string() + "\n")
}

fn no_such_page() -> Answer {
    text(StatusCode::NOT_FOUND, "there is no such page; / lists them\n")
}

fn unavailable(reason: String) -> Answer {
    answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, reason + "\n")
}

/// RFC 9110 section 15.5.6 asks for the header.
pub(super) fn method_not_allowed(allowed: &'static str) -> Answer {
    let words = allowed.replace(", ", " and ");
    let mut response = answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, format!("only {words} are possible here\n"));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

fn text(status: StatusCode, body: &'static str) -> Answer {
    answer(status, TEXT, body)
}

pub(super) fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    headed(status, content_type, Either::Left(Full::new(body.into())))
}

fn headed(status: StatusCode, content_type: &'static str, body: AnswerBody) -> Answer {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers: [(HeaderName, &'static str); 5] = [
        (CONTENT_TYPE, content_type),
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
    ];
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
