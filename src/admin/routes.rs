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
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::access::{self, Refused};
use super::actions::{self, Done, Origin};
use super::api::{self, Query};
use super::page;
use super::sampler::Sampler;
use super::{AdminState, Readiness, Subject};
use crate::metrics;

pub(super) const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const EVENT_STREAM: &str = "text/event-stream";

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
    looking: Semaphore,
    sampler: Option<Arc<Sampler>>,
    viewers: Arc<Semaphore>,
}

impl Routes {
    /// Samples the numbers until `stop`, where there is a subject.
    pub(super) fn new(state: AdminState, stop: &CancellationToken) -> Self {
        let sampler = state.subject.as_ref().map(|subject| Sampler::start(subject, &state.readiness, stop));
        Self { state, looking: Semaphore::new(1), sampler, viewers: Arc::new(Semaphore::new(VIEWERS)) }
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
            _ => match access::admit(request.headers(), &self.state.hosts.load(), path == "/") {
                Err(refused) => refuse(refused),
                Ok(()) => match path.strip_prefix("/api/") {
                    Some(call) => self.api(request, call, read, origin).await,
                    None => page::file(path, read).unwrap_or_else(no_such_page),
                },
            },
        })
    }

    async fn api<B>(&self, request: &Request<B>, call: &str, read: bool, origin: Origin) -> Answer {
        let Some(subject) = &self.state.subject else { return no_such_page() };
        if request.method() == Method::POST {
            let token = self.state.token.load();
            if let Err(refused) = access::authorize(request.headers(), token.as_ref().as_ref()) {
                return refuse(refused);
            }
            return match actions::act(&**subject, call, request.uri().query().unwrap_or_default(), origin).await {
                Some(done) => told(done),
                None if is_list(call) => method_not_allowed("GET, HEAD"),
                None => no_such_page(),
            };
        }
        if !read {
            return method_not_allowed("GET, HEAD, POST");
        }
        if call == "events" {
            return self.events();
        }
        if !is_list(call) {
            return no_such_page();
        }
        let query = Query::parse(request.uri().query().unwrap_or_default());
        self.look(subject, call.to_owned(), query).await
    }

    /// Lists may be long: they are made where they hold up nobody, one at a time.
    async fn look(&self, subject: &Arc<dyn Subject>, call: String, query: Query) -> Answer {
        let Ok(_turn) = self.looking.acquire().await else { return unavailable("shutting down".to_owned()) };
        let (subject, sampler) = (Arc::clone(subject), self.sampler.clone());
        let looked = tokio::task::spawn_blocking(move || match call.as_str() {
            "accounts" => sampler.map(|sampler| api::accounts(&sampler, &query)).unwrap_or_default(),
            "sessions" => api::sessions(&*subject, &query),
            "hubs" => api::hubs(&*subject, &query),
            "connections" => api::connections(&*subject, &query),
            "backends" => json!({ "rows": api::backends(&*subject) }),
            "route" => api::route(&*subject, &query),
            "config" => serde_json::to_value(&*subject.config()).unwrap_or_default(),
            _ => sampler.map(|sampler| sampler.summary(true)).unwrap_or_default(),
        });
        match looked.await {
            Ok(value) => json_answer(StatusCode::OK, &value),
            Err(error) => unavailable(format!("it cannot be read: {error}")),
        }
    }

    /// A stream of server-sent events: the history, then what is new, as fast as the viewer takes it.
    fn events(&self) -> Answer {
        let (Some(sampler), Ok(viewer)) = (&self.sampler, Arc::clone(&self.viewers).try_acquire_owned()) else {
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
        let Ok(_turn) = self.looking.acquire().await else {
            return unavailable("the numbers cannot be read".to_owned());
        };
        let metrics = Arc::clone(&self.state.metrics);
        // /proc is read there, which may take milliseconds with many open descriptors.
        match tokio::task::spawn_blocking(move || metrics.render()).await {
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

fn is_list(call: &str) -> bool {
    matches!(
        call,
        "summary" | "accounts" | "sessions" | "hubs" | "connections" | "backends" | "config" | "events" | "route"
    )
}

fn told(done: Done) -> Answer {
    match done {
        Done::Well(value) => json_answer(StatusCode::OK, &value),
        Done::NoSuch(what) => error(StatusCode::NOT_FOUND, &format!("there is no such {what}")),
        Done::Not(status, reason) => error(StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST), &reason),
    }
}

fn refuse(refused: Refused) -> Answer {
    let status = if refused == Refused::Token { StatusCode::UNAUTHORIZED } else { StatusCode::FORBIDDEN };
    let mut answer = error(status, refused.reason());
    if refused == Refused::Token {
        // RFC 9110 section 11.6.1 asks for the header.
        answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    answer
}

fn error(status: StatusCode, reason: &str) -> Answer {
    json_answer(status, &json!({ "error": reason }))
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
