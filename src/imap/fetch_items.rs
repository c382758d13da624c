//! stub
use bytes::Bytes;
#[derive(Debug, Default)]
pub struct FetchScanner { text: Vec<u8> }
#[derive(Debug)]
pub struct Flags { pub text: Bytes }
#[derive(Debug)]
pub struct Items { pub uid: Option<u32>, pub flags: Option<Flags>, pub other: bool }
impl FetchScanner {
    pub fn text(&mut self, t: &[u8]) { self.text.extend_from_slice(t); }
    pub fn literal(&mut self) {}
    pub fn finish(self) -> Items {
        let t = String::from_utf8_lossy(&self.text).to_string();
        let uid = t.split_once("UID ").and_then(|(_, r)| r.split([' ', ')']).next()?.parse().ok());
        let flags = t.split_once("FLAGS (").map(|(_, r)| Flags { text: format!("({})", r.split(')').next().unwrap()).into() });
        Items { uid, flags, other: t.contains("BODY") }
    }
}
impl Items { pub fn news(&self) -> Option<Bytes> { self.flags.as_ref().map(|f| format!("(FLAGS {})", String::from_utf8_lossy(&f.text)).into()) } }
