//! From a request to its answer.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::Semaphore;

use super::{AdminState, Readiness};
use crate::metrics;

const TEXT: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";

const PAGE: &str = concat!(
    "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>imapool</title>\n",
    "<h1>imapool ",
    env!("CARGO_PKG_VERSION"),
    "</h1>\n<ul>\n",
    "<li><a href=\"/metrics\">/metrics</a>: numbers for Prometheus\n",
    "<li><a href=\"/healthz\">/healthz</a>: the process lives\n",
    "<li><a href=\"/readyz\">/readyz</a>: new sessions can be served\n",
    "</ul>\n</html>\n"
);

/// An answer whose body is known as a whole.
type Answer = Response<Full<Bytes>>;

pub(super) struct Routes {
    state: AdminState,
    /// One rendering at a time: scrapes at once must not take a blocking thread each.
    rendering: Semaphore,
}

impl Routes {
    pub(super) fn new(state: AdminState) -> Self {
        Self { state, rendering: Semaphore::new(1) }
    }

    /// The request's body, if it has one, is never read. For HEAD, hyper leaves the answer's body out.
    pub(super) async fn respond<B>(&self, request: &Request<B>) -> Result<Answer, Infallible> {
        let path = request.uri().path();
        let known = matches!(path, "/" | "/metrics" | "/healthz" | "/readyz");
        let read = [Method::GET, Method::HEAD].contains(request.method());
        Ok(match path {
            _ if known && !read => method_not_allowed(),
            "/" => answer(StatusCode::OK, HTML, PAGE),
            "/metrics" => self.metrics().await,
            "/healthz" => answer(StatusCode::OK, TEXT, "ok\n"),
            "/readyz" => self.readyz(),
            _ => answer(StatusCode::NOT_FOUND, TEXT, "there is no such page; / lists them\n"),
        })
    }

    async fn metrics(&self) -> Answer {
        let Ok(_permit) = self.rendering.acquire().await else {
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
            Readiness::Ready => answer(StatusCode::OK, TEXT, "ready\n"),
            Readiness::Draining => unavailable("not ready: draining".to_owned()),
            Readiness::NoBackend(reason) => unavailable(format!("not ready: no backend can be reached: {reason}")),
        }
    }
}

fn unavailable(reason: String) -> Answer {
    answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, reason + "\n")
}

/// RFC 9110 section 15.5.6 asks for the header.
fn method_not_allowed() -> Answer {
    let mut response = answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD are possible here\n");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    response
}

fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
