//! stub
use bytes::{BufMut, BytesMut};
use super::{numbering::Numbering, untagged::Reply};
#[derive(Debug)]
pub struct Renumber { r: Reply }
impl Renumber {
    pub fn new(r: Reply, _uid: bool) -> Self { Self { r } }
    pub fn head(&mut self, _n: &Numbering, out: &mut BytesMut) -> bool {
        out.put_slice(match self.r { Reply::Search => b"* SEARCH", Reply::Sort => b"* SORT", Reply::Thread => b"* THREAD", _ => b"* ESEARCH" });
        true
    }
    pub fn text(&mut self, t: &[u8], _n: &Numbering, out: &mut BytesMut) { out.put_slice(t); }
}
