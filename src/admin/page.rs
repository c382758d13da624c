//! The status page: files that are part of the program.

use hyper::StatusCode;

use super::routes::{Answer, answer, method_not_allowed};

/// Path, media type, content. uPlot is MIT-licensed, see `page/uplot.LICENSE`.
const FILES: [(&str, &str, &str); 5] = [
    ("/", "text/html; charset=utf-8", include_str!("page/page.html")),
    ("/page.css", "text/css; charset=utf-8", include_str!("page/page.css")),
    ("/page.js", "text/javascript; charset=utf-8", include_str!("page/page.js")),
    ("/uplot.css", "text/css; charset=utf-8", include_str!("page/uplot.min.css")),
    ("/uplot.js", "text/javascript; charset=utf-8", include_str!("page/uplot.iife.min.js")),
];

/// The file of this path, if there is one.
pub(super) fn file(path: &str, read: bool) -> Option<Answer> {
    let (_, content_type, content) = FILES.iter().find(|(known, ..)| *known == path)?;
    Some(if read { answer(StatusCode::OK, content_type, *content) } else { method_not_allowed("GET, HEAD") })
}
