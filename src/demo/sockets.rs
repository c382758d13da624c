//! What the kernel says about ports: Linux only, `None` elsewhere.

use std::fs;

/// The kernel's `TCP_TIME_WAIT`, as /proc/net/tcp writes it.
const TIME_WAIT: &str = "06";
const LISTEN: &str = "0A";

/// Local ports that are taken by connections to one remote port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ports {
    /// By connections that are over, in TIME_WAIT.
    pub time_wait: usize,
    /// By connections in any other state.
    pub in_use: usize,
}

impl Ports {
    /// All of them.
    pub fn held(self) -> usize {
        self.time_wait + self.in_use
    }
}

/// The ports of this host which connections to this remote port hold.
pub fn towards(port: u16) -> Option<Ports> {
    let mut ports = Ports::default();
    // IPv6 may be switched off.
    for table in [fs::read_to_string("/proc/net/tcp").ok()?, fs::read_to_string("/proc/net/tcp6").unwrap_or_default()] {
        count(&table, port, &mut ports);
    }
    Some(ports)
}

/// `sl local_address rem_address st …`, addresses as `0100007F:1F90`.
fn count(table: &str, port: u16, ports: &mut Ports) {
    let wanted = format!("{port:04X}");
    for line in table.lines().skip(1) {
        let mut columns = line.split_ascii_whitespace().skip(2);
        let (Some(remote), Some(state)) = (columns.next(), columns.next()) else { continue };
        if remote.rsplit(':').next() != Some(&wanted) || state == LISTEN {
            continue;
        }
        let counter = if state == TIME_WAIT { &mut ports.time_wait } else { &mut ports.in_use };
        *counter += 1;
    }
}

/// How many ports the kernel may choose from for outgoing connections.
pub fn ephemeral() -> Option<u32> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let mut ends = text.split_ascii_whitespace().map(|n| n.parse::<u32>().ok());
    let (first, last) = (ends.next()??, ends.next()??);
    (last + 1).checked_sub(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_counted_by_remote_port_and_state() {
        let table = "  sl  local_address rem_address   st tx_queue\n\
                        0: 0100007F:1F90 00000000:0000 0A 0\n\
                        1: 0100007F:A000 0100007F:1F90 06 0\n\
                        2: 0100007F:A001 0100007F:1F90 01 0\n\
                        3: 0100007F:1F90 0100007F:A001 01 0\n\
                        4: broken\n";
        let mut ports = Ports::default();
        count(table, 0x1f90, &mut ports);
        assert_eq!(ports, Ports { time_wait: 1, in_use: 1 });
    }
}
