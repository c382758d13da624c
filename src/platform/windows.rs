//! What Windows has.

mod access;
pub(crate) mod files;
pub(crate) mod local;
mod log_files;
pub mod manager;
pub mod paths;
pub(crate) mod ports;
pub mod service;
pub mod signals;
pub(crate) mod tcp;
pub mod told;

use super::Has;
pub(crate) use super::elsewhere::facts;

/// What may be configured here.
pub(crate) const HAS: Has = Has { unix_sockets: false, reuse_port: false, source_port_range: false };

/// There is no such limit.
pub fn raise_descriptor_limit() {}

/// Sockets: as many as there is memory for.
pub(crate) fn descriptor_limit() -> usize {
    usize::MAX / 4
}

/// Whether standard error is shown in colours: a console has to be told, and those before Windows 10 cannot be.
#[must_use]
pub fn shows_colours() -> bool {
    std::io::IsTerminal::is_terminal(&std::io::stderr()) && ratatui::crossterm::ansi_support::supports_ansi()
}

/// What this host is called, as others find it. COMPUTERNAME has only the first 15 letters.
pub(crate) fn host_name() -> Option<String> {
    const PARAMETERS: &str = r"SYSTEM\CurrentControlSet\Services\Tcpip\Parameters";
    let key = windows_registry::LOCAL_MACHINE.open(PARAMETERS);
    let name = key.and_then(|key| key.get_string("Hostname")).ok().filter(|name| !name.is_empty());
    name.or_else(|| std::env::var("COMPUTERNAME").ok()).map(|name| name.to_lowercase())
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_host_has_a_name() {
        let name = super::host_name().unwrap();
        let short = std::env::var("COMPUTERNAME").unwrap().to_lowercase();
        assert!(name.starts_with(&short), "{name}, {short}");
    }
}
