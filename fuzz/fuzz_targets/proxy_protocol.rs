//! The PROXY header: a verdict holds however much more comes, and never covers an octet that was not given.

#![no_main]

use imapool::proxy_protocol::{MAX_V2, Progress, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| {
    let whole = parse(octets);
    if let Ok(Progress::Header { len, .. }) = whole {
        assert!(len <= octets.len() && len <= MAX_V2);
        assert_eq!(parse(&octets[..len]), whole, "what follows the header has no say in it");
    }
    for len in 0..octets.len().min(300) {
        match parse(&octets[..len]) {
            Ok(Progress::NeedMore(more)) => {
                assert!(more > 0 && len + more <= MAX_V2);
                if let Ok(Progress::Header { len: end, .. }) = whole {
                    assert!(len < end && end <= len + more.max(MAX_V2));
                }
            }
            decided => assert_eq!(decided, whole),
        }
    }
});
