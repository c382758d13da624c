//! stub
use bytes::{Bytes, BytesMut};
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply { Fetch(u32), Expunge(u32), Exists(u32), Recent(u32), Vanished { earlier: bool }, Search, Sort, Thread, Esearch, Other }
#[derive(Debug)]
pub enum Part { Begin(Reply), Text(Bytes), Literal(Bytes), End }
#[derive(Debug, Default)]
pub struct Reader { buf: BytesMut, state: S, q: std::collections::VecDeque<Part> }
#[derive(Debug, Default, Clone, Copy)]
enum S { #[default] Start, Line, Lit(usize) }
impl Reader {
    pub fn feed(&mut self, b: Bytes) { self.buf.extend_from_slice(&b); }
    pub fn next(&mut self) -> Option<Part> {
        if let Some(p) = self.q.pop_front() { return Some(p); }
        match self.state {
            S::Start => {
                let at = memchr::memchr(b'\n', &self.buf)?;
                let line = self.buf[..=at].to_vec();
                let text = String::from_utf8_lossy(&line).to_string();
                let w: Vec<&str> = text.trim_end().splitn(4, ' ').collect();
                let n = w.get(1).and_then(|n| n.parse::<u32>().ok());
                let (r, skip) = match (n, w.get(1).copied(), w.get(2).copied()) {
                    (Some(n), _, Some("FETCH")) => (Reply::Fetch(n), 2 + w[1].len() + 6),
                    (Some(n), _, Some("EXISTS")) => (Reply::Exists(n), 2 + w[1].len() + 7),
                    (Some(n), _, Some("RECENT")) => (Reply::Recent(n), 2 + w[1].len() + 7),
                    (Some(n), _, Some("EXPUNGE")) => (Reply::Expunge(n), 2 + w[1].len() + 8),
                    (None, Some("SEARCH"), _) => (Reply::Search, 8),
                    (None, Some("SORT"), _) => (Reply::Sort, 6),
                    (None, Some("THREAD"), _) => (Reply::Thread, 8),
                    (None, Some("ESEARCH"), _) => (Reply::Esearch, 9),
                    _ => (Reply::Other, 0),
                };
                let _ = self.buf.split_to(skip);
                self.state = S::Line;
                Some(Part::Begin(r))
            }
            S::Line => {
                let at = memchr::memchr(b'\n', &self.buf)?;
                let line = self.buf.split_to(at + 1).freeze();
                let t = crate::imap::response::trim_line_end(&line);
                self.state = match crate::imap::frame::trailing_literal(t) {
                    Ok(Some((_, l))) => S::Lit(l.len as usize),
                    _ => { self.q.push_back(Part::End); S::Start }
                };
                Some(Part::Text(line))
            }
            S::Lit(n) => {
                if n == 0 { self.state = S::Line; return self.next(); }
                if self.buf.is_empty() { return None; }
                let take = n.min(self.buf.len());
                self.state = S::Lit(n - take);
                Some(Part::Literal(self.buf.split_to(take).freeze()))
            }
        }
    }
}
