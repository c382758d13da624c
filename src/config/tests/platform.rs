//! What a system lacks is refused there by name and line, with what to do; and nowhere else.

use super::*;

#[test]
fn what_the_system_lacks_is_refused_where_it_stands() {
    let text = "\
[[listener]]
address = \"unix:/run/imapool/imap.sock\"
[[listener]]
address = \"127.0.0.1:1143\"
reuse_port = true
[[backend]]
address = \"192.0.2.1:143\"
source_port_range = \"40000-44999\"
[admin]
address = \"unix:/run/imapool/admin.sock\"
";
    let error = Config::parse_for(Has::NOTHING, text).unwrap_err().to_string();
    let expected = "\
f:2:11: `listener.address` cannot be \"unix:/run/imapool/imap.sock\": there are no Unix sockets on this system, write an \
IP address and a port
f:5:14: `listener.reuse_port` cannot be true: two processes cannot share a port on this system, delete the line
f:8:21: `backend.source_port_range` cannot be \"40000-44999\": only Linux can keep connections to a range of ports, \
delete the line
f:10:11: `admin.address` cannot be \"unix:/run/imapool/admin.sock\": there are no Unix sockets on this system, write an \
IP address and a port";
    assert_eq!(error, expected);
    assert!(Config::parse_for(Has::EVERYTHING, text).is_ok());
}

/// What is written out as it is by default asks for nothing.
#[test]
fn nothing_is_lacked_by_default() {
    let text = MINIMAL.replace("[[backend]]", "reuse_port = false\n[[backend]]");
    assert_eq!(Config::parse_for(Has::NOTHING, &text).unwrap(), parsed(MINIMAL).unwrap());
    assert!(Config::parse_for(Has::NOTHING, EXAMPLE).is_ok());
}
