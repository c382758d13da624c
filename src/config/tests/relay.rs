//! Groups of replicas.

use super::*;

/// Two listeners, a replica, a server and a group, as the documentation has it; each of `changes` replaces a line.
fn replicas(changes: &[(&str, &str)]) -> String {
    let mut text = "[[listener]]\nname = \"outer\"\naddress = \"0.0.0.0:143\"\n\
        [[listener]]\nname = \"inner\"\naddress = \"0.0.0.0:1143\"\nproxy_protocol_from = [\"10.0.0.0/8\"]\n\
        [[backend]]\nname = \"imapool-0\"\naddress = \"imapool-0.imapool:1143\"\ngroup = \"replicas\"\nsend_proxy = true\n\
        [[backend]]\nname = \"mail\"\naddress = \"mail:143\"\n\
        [[group]]\nname = \"replicas\"\nmode = \"relay\"\ninner = \"inner\"\n\
        [routing]\nreplica = \"imapool-0\"\ndefault = \"mail\"\n\
        [[route]]\nlisteners = [\"outer\"]\nto = \"replicas\"\n"
        .to_owned();
    for (line, other) in changes {
        assert!(text.contains(&format!("{line}\n")), "{line}");
        text = text.replace(&format!("{line}\n"), other);
    }
    text
}

#[test]
fn replicas_as_they_should_be() {
    let config = Config::parse(&replicas(&[]), "f").unwrap();
    assert!(config.groups[0].relays());
    assert_eq!(config.groups[0].takes_over_after(), Some(Duration::ZERO), "at once");
    assert_eq!(config.groups[0].check.interval, Duration::from_millis(500));
    assert_eq!(config.groups[0].inner.as_deref(), Some("inner"));
    assert_eq!(config.routing.replica.as_deref(), Some("imapool-0"));
    // The same address as a listener's: it does not dial itself.
    let near = [("address = \"imapool-0.imapool:1143\"", "address = \"127.0.0.1:1143\"\n")];
    assert!(Config::parse(&replicas(&near), "f").is_ok());
    // Nothing gets past a route for everybody.
    let closed =
        [("default = \"mail\"", "default = \"replicas\"\n[[route]]\nlisteners = [\"inner\"]\nto = \"mail\"\n")];
    assert!(Config::parse(&replicas(&closed), "f").is_ok());
}

#[test]
fn what_would_not_work_is_refused_with_its_line() {
    let circle = "sessions of the listener \"inner\" would go from replica to replica";
    for (change, place, wanted) in [
        (("inner = \"inner\"", ""), "18:8", "`group.inner` is missing: mode = \"relay\" needs it: name the listener by which the replicas reach each other".to_owned()),
        (("inner = \"inner\"", "inner = \"x\"\n"), "19:9", "`group.inner` cannot be \"x\": there is no listener of this name, only \"outer\", \"inner\"".into()),
        (("mode = \"relay\"", "mode = \"pool\"\n"), "19:9", "`group.inner` cannot be \"inner\": only a group with mode = \"relay\" has one, delete the line".into()),
        (("inner = \"inner\"", "inner = \"inner\"\ncheck = { successes = 1 }\n"), "20:9", "`group.check` cannot be { successes = 1 }: a replica is not up at its first success: write successes = 2 or more".into()),
        (("inner = \"inner\"", "inner = \"inner\"\ncheck = { interval = \"11s\" }\n"), "20:9", "`group.check` cannot be { interval = \"11s\" }: accounts of a lost replica wait for the checks: write an interval of 10s or less".into()),
        (("inner = \"inner\"", "inner = \"inner\"\nslow_start = \"1m\"\n"), "20:14", "`group.slow_start` cannot be \"1m\": replicas would not agree whose an account is: delete the line".into()),
        (("mode = \"relay\"", "mode = \"hash\"\n"), "18:8", "`group.mode` cannot be \"hash\"".into()),
        (("send_proxy = true", ""), "9:8", "`backend.send_proxy` is missing: it is a replica, which has to be told the addresses of clients".into()),
        (("proxy_protocol_from = [\"10.0.0.0/8\"]", ""), "5:8", "`listener.proxy_protocol_from` is missing: replicas come by this listener".into()),
        (("replica = \"imapool-0\"", "replica = \"mail\"\n"), "21:11", "`routing.replica` cannot be \"mail\": no backend of this name is in a group with mode = \"relay\"".into()),
        (("default = \"mail\"", "default = \"replicas\"\n"), "22:11", format!("`routing.default` cannot be \"replicas\": {circle}")),
        (("default = \"mail\"", ""), "5:8", format!("`routing.default` is missing: the first backend is a replica, and {circle}")),
        (("listeners = [\"outer\"]", ""), "24:6", format!("`route.to` cannot be \"replicas\": {circle}")),
        (("listeners = [\"outer\"]", "listeners = [\"outer\", \"inner\"]\n"), "25:6", format!("`route.to` cannot be \"replicas\": {circle}")),
        (("to = \"replicas\"", "to = \"imapool-0\"\nusers = [\"a\"]\n[[route]]\nlisteners = [\"inner\"]\nto = \"imapool-0\"\n"), "29:6", format!("`route.to` cannot be \"imapool-0\": {circle}")),
    ] {
        let said = wrong(&replicas(&[change]));
        assert!(said.lines().any(|line| line.starts_with(&format!("f:{place}: {wanted}"))), "{change:?}: {said}");
    }
}

#[test]
fn those_who_share_nothing_divide_the_limits() {
    let pool = |replicas| Config::parse(&format!("{MINIMAL}[pool]\nreplicas = {replicas}\n"), "f").unwrap().pool;
    let parts = |replicas, limit| pool(replicas).part_of(limit);
    assert_eq!([parts(1, 4), parts(2, 4), parts(3, 4), parts(5, 4), parts(1000, 0)], [4, 2, 2, 1, 1]);
    assert!(Config::parse(&format!("{MINIMAL}[pool]\nreplicas = 0\n"), "f").is_err());
}
