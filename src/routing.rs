//! Where sessions go.

pub use imapool_proto::routing::*;
