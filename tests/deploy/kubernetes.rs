//! The manifests for Kubernetes.

use std::collections::BTreeSet;
use std::process::Command;

use imapool::config::{Config, ListenAddr};

use crate::support::{find, read, repository, succeed};

/// The oldest version that has all that they use (preStop.sleep).
const VERSION: &str = "1.30";

#[test]
fn the_manifests_are_valid() {
    // Against the API's own schemas; the operator's ServiceMonitor is not among them.
    let Some(validate) = find("kubernetes-validate") else { return };
    for manifest in ["deployment", "service", "disruption", "autoscaler", "network"] {
        let file = repository(&format!("deploy/kubernetes/{manifest}.yaml"));
        let text = succeed(Command::new(&validate).args(["--strict", "-k", VERSION]).arg(file));
        assert!(text.contains("passed"), "{text}");
    }
}

#[test]
fn the_kustomization_names_every_manifest() {
    let kustomization = read("deploy/kubernetes/kustomization.yaml");
    let named: BTreeSet<_> = kustomization
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- "))
        .filter(|name| name.ends_with(".yaml"))
        .map(str::to_owned)
        .collect();
    let entries = std::fs::read_dir(repository("deploy/kubernetes")).unwrap();
    let there: BTreeSet<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".yaml") && name != "kustomization.yaml")
        .collect();
    assert_eq!(named, there);
}

#[test]
fn the_configuration_is_right_and_its_ports_are_those_of_the_pod() {
    let config = Config::parse(&read("deploy/kubernetes/imapool.toml"), "imapool.toml").unwrap();
    let deployment = read("deploy/kubernetes/deployment.yaml");
    for listener in &config.listeners {
        let ListenAddr::Tcp(address) = listener.address else { panic!("a pod listens on TCP") };
        let port = format!("{{ name: {}, containerPort: {} }}", listener.name, address.port());
        assert!(deployment.contains(&port), "{port}");
        assert!(address.ip().is_unspecified(), "{address} is not reached from outside of the pod");
    }
    assert!(deployment.contains("{ name: admin, containerPort: 9143 }"));
    let grace = deployment.lines().find_map(|line| line.trim().strip_prefix("terminationGracePeriodSeconds: "));
    let grace: u64 = grace.unwrap().parse().unwrap();
    assert!(grace >= config.limits.drain_timeout.as_secs() + 5 + 5, "{grace} s are too few to drain");
}

/// The variant in which each account has one pool: as many replicas as the configuration names, by the names that a
/// StatefulSet gives them.
#[test]
fn the_replicas_are_those_of_the_set() {
    let folder = "deploy/kubernetes-replicas";
    let config = Config::parse(&read(&format!("{folder}/imapool.toml")), "imapool.toml").unwrap();
    let set = read(&format!("{folder}/statefulset.yaml"));
    let members: Vec<_> = config.backends.iter().filter(|backend| backend.group.is_some()).collect();
    assert!(set.contains(&format!("\n  replicas: {}\n", members.len())));
    let ports: Vec<_> = config.listeners.iter().map(|listener| (&listener.name, &listener.address)).collect();
    for (name, address) in ports {
        let ListenAddr::Tcp(address) = address else { panic!("a pod listens on TCP") };
        assert!(set.contains(&format!("{{ name: {name}, containerPort: {} }}", address.port())), "{name}");
    }
    let service = read(&format!("{folder}/replicas.yaml"));
    for (place, member) in members.iter().enumerate() {
        assert_eq!(member.name, format!("imapool-{place}"));
        assert_eq!(member.address(), format!("imapool-{place}.imapool-replicas:2143"));
    }
    assert!(service.contains("name: imapool-replicas\n") && set.contains("serviceName: imapool-replicas\n"));
    // Beyond what makes it a set, it is the Deployment.
    let deployment = read("deploy/kubernetes/deployment.yaml");
    let template = |text: &str| {
        let template = text.split_once("\n  template:\n").unwrap().1.to_owned();
        template.replace("            - { name: inner, containerPort: 2143 }\n", "")
    };
    assert_eq!(template(&set), template(&deployment));
    let Some(validate) = find("kubernetes-validate") else { return };
    for manifest in ["statefulset", "replicas"] {
        let file = repository(&format!("{folder}/{manifest}.yaml"));
        let text = succeed(Command::new(&validate).args(["--strict", "-k", VERSION]).arg(file));
        assert!(text.contains("passed"), "{text}");
    }
}
