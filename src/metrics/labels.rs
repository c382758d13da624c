//! The values a label may have. Every label but `backend` is one of these closed sets, so the number of time series
//! is known when the process starts and no account, address or mailbox can ever become one.

/// A closed set of label values, each with a place in an array of metrics.
pub trait Label: Copy + 'static {
    /// The label's name in the exposition.
    const NAME: &'static str;
    /// Every value, in the order of [`Label::index`].
    const ALL: &'static [Self];
    /// The value as it is written in the exposition, and fit for a log field.
    fn as_str(self) -> &'static str;
    /// The place of this value in [`Label::ALL`].
    fn index(self) -> usize;
}

/// Declares one closed set: the enum, its texts, and its [`Label`] implementation.
macro_rules! labels {
    ($(#[$meta:meta])* $name:ident($label:literal) { $($(#[$variant_meta:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_meta])* $variant,)+
        }

        impl Label for $name {
            const NAME: &'static str = $label;
            const ALL: &'static [$name] = &[$($name::$variant,)+];

            fn as_str(self) -> &'static str {
                match self {
                    $($name::$variant => $text,)+
                }
            }

            fn index(self) -> usize {
                self as usize
            }
        }
    };
}

labels! {
    /// Where octets go.
    Direction("direction") {
        /// To imapool.
        Received = "received",
        /// From imapool.
        Sent = "sent",
    }
}

labels! {
    /// How a client session ended.
    SessionClose("close") {
        /// The client sent LOGOUT.
        Logout = "logout",
        /// The client closed without LOGOUT.
        ClientClosed = "client_closed",
        /// The client reset the connection.
        ClientReset = "client_reset",
        /// No byte came from the client for `limits.idle_timeout`.
        IdleTimeout = "idle_timeout",
        /// The client did not log in within `limits.login_timeout`.
        LoginTimeout = "login_timeout",
        /// The PROXY header or the TLS handshake failed.
        HandshakeFailed = "handshake_failed",
        /// imapool is stopping.
        Drain = "drain",
        /// An administrator closed it, or drained its backend.
        Operator = "operator",
        /// There were too many sessions, in all or of one client address.
        Limit = "limit",
        /// It had not logged in, and gave way to the next: `limits.unauthenticated`, or `limits.sessions`.
        GaveWay = "gave_way",
        /// The client broke the protocol beyond repair.
        ProtocolError = "protocol_error",
        /// The upstream connection was lost together with state that cannot be restored.
        UpstreamLost = "upstream_lost",
        /// The client did not take what it had asked for within `limits.write_timeout`.
        WriteTimeout = "write_timeout",
        /// Anything else.
        Error = "error",
    }
}

labels! {
    /// What became of a LOGIN or AUTHENTICATE command.
    LoginResult("result") {
        /// Accepted: the backend had accepted this very credential within `auth.cache_ttl`.
        Cached = "cached",
        /// Accepted: by the backend, now.
        Verified = "verified",
        /// Refused by the backend.
        Refused = "refused",
        /// Turned away because of earlier failures: the backend was not asked.
        Throttled = "throttled",
        /// The backend could not be asked.
        Unavailable = "unavailable",
        /// A limit was reached on the way.
        Limit = "limit",
        /// The command, or the SASL message, could not be understood.
        Malformed = "malformed",
        /// Not allowed on this connection (LOGINDISABLED, RFC 9051 section 6.2.3) or with this mechanism.
        Disabled = "disabled",
    }
}

labels! {
    /// Whether a backend was found for a session that logs in.
    RouteResult("result") {
        /// It was.
        Routed = "routed",
        /// No route leads anywhere for its name.
        Refused = "refused",
        /// It cannot be said now.
        Unavailable = "unavailable",
    }
}

labels! {
    /// What a check of a backend has shown.
    CheckResult("result") {
        /// It is there.
        Well = "ok",
        /// It is not.
        Failed = "failed",
    }
}

labels! {
    /// What became of a client's command.
    CommandResult("result") {
        /// Answered OK.
        Ok = "ok",
        /// Answered NO, by the backend or by imapool.
        No = "no",
        /// Answered BAD.
        Bad = "bad",
        /// Its connection was lost, and it was not run again.
        Lost = "lost",
    }
}

labels! {
    /// Whether sessions get connections to a backend, as an administrator wishes.
    ServiceState("service") {
        /// They do.
        Running = "running",
        /// They wait.
        Paused = "paused",
        /// They wait, and what was open ends.
        Drained = "drained",
    }
}

labels! {
    /// Whether a shared mailbox has a connection.
    HubState("state") {
        /// It has.
        Connected = "connected",
        /// It has given it up, lost it, or waits for one.
        Parked = "parked",
    }
}

labels! {
    /// What was found when a mailbox was selected anew under its sessions.
    ResumeResult("result") {
        /// Nothing had changed.
        Same = "same",
        /// What had changed could be told.
        Changed = "changed",
        /// It could not: the sessions were ended.
        Lost = "lost",
    }
}

labels! {
    /// What a command of a shared mailbox waited for.
    WaitCause("cause") {
        /// For a connection, and for the mailbox to be selected on it.
        Connection = "connection",
        /// For other commands on the connection.
        Command = "command",
    }
}

labels! {
    /// Which way a login went, for its duration.
    LoginPath("path") {
        /// Answered from memory.
        Cached = "cached",
        /// The backend accepted it.
        Verified = "verified",
        /// The backend refused it. The answer's deliberate delay is part of the time.
        Refused = "refused",
        /// No answer about the credential could be had.
        Failed = "failed",
    }
}

labels! {
    /// What became of an attempt to open an upstream connection.
    DialResult("result") {
        /// Connected, secured where that is configured, and greeted.
        Ok = "ok",
        /// The host's name has no address.
        Resolve = "resolve",
        /// Connection refused.
        Refused = "refused",
        /// No route to the host or the network.
        Unreachable = "unreachable",
        /// A step took too long.
        Timeout = "timeout",
        /// No ephemeral port was free.
        NoPorts = "no_ports",
        /// No file descriptor was free.
        NoDescriptors = "no_descriptors",
        /// The TLS handshake failed, or the certificate is not the right one.
        Tls = "tls",
        /// The greeting was BYE, or no IMAP greeting.
        Greeting = "greeting",
        /// The backend broke the protocol.
        Protocol = "protocol",
        /// The backend closed the connection before it was ready.
        Closed = "closed",
        /// Any other error of the operating system.
        Io = "io",
        /// Not tried: as many were opened as may be for now.
        Gate = "gate",
        /// Not tried: the backend failed too often just now.
        Breaker = "breaker",
    }
}

labels! {
    /// Why an upstream connection was retired or destroyed.
    RetireReason("reason") {
        /// At rest for `pool.idle_timeout`.
        Idle = "idle",
        /// Older than `pool.max_lifetime`.
        Lifetime = "lifetime",
        /// The one at rest longest had to make room for another account.
        Evicted = "evicted",
        /// It carries state that cannot be undone and nobody else can use.
        Sticky = "sticky",
        /// It could not be brought back to a clean state.
        Unclean = "unclean",
        /// The reply of a vanished client was longer than `pool.drain_bytes` or `pool.drain_timeout` allow.
        DrainBudget = "drain_budget",
        /// The backend closed it, with or without BYE.
        ServerClosed = "server_closed",
        /// The backend broke the protocol.
        ProtocolError = "protocol_error",
        /// The backend refused this account's credential since.
        Credential = "credential",
        /// It did not answer the NOOP before it was to be handed out.
        FailedCheck = "failed_check",
        /// A connection dialed to verify the credential again took its place.
        Replaced = "replaced",
        /// imapool is stopping.
        Shutdown = "shutdown",
        /// A reload changed what it was opened by.
        Reload = "reload",
        /// An administrator retired it, or drained its backend.
        Operator = "operator",
        /// It was opened for a check by a test account, which is over.
        Checked = "checked",
        /// Its account goes to another backend.
        Moved = "moved",
        /// An error of the operating system.
        Error = "error",
        /// The backend was silent for `reply_timeout`.
        Timeout = "timeout",
    }
}

labels! {
    /// What an upstream connection is doing.
    ConnectionState("state") {
        /// Authenticated and at rest in its account's pool.
        Idle = "idle",
        /// Authenticated and checked out.
        Active = "active",
        /// Not authenticated, kept to verify the next credential on.
        Spare = "spare",
        /// Being opened.
        Connecting = "connecting",
        /// To a replica, with one session that goes through.
        Relayed = "relayed",
    }
}

labels! {
    /// What became of a session's wish for an upstream connection.
    CheckoutResult("result") {
        /// A connection at rest was handed out.
        Reused = "reused",
        /// The session joined a connection other sessions are using.
        Joined = "joined",
        /// A connection was opened for it.
        Dialed = "dialed",
        /// None came free within `pool.checkout_timeout`.
        Timeout = "timeout",
        /// The backend could not be reached.
        Unavailable = "unavailable",
        /// A limit (connections, ports, file descriptors, the backend's own) left none.
        Limit = "limit",
        /// The backend refused the credential.
        Refused = "refused",
        /// A further connection may not be opened for now, as too many were opened of late.
        Delayed = "delayed",
    }
}

labels! {
    /// Why a connection was not opened at once.
    DelayReason("reason") {
        /// Its account has opened as many as it may for now.
        Account = "account",
        /// Those that its account opened of late were of no use.
        BackOff = "back_off",
        /// As many have been opened to the backend as may be for now.
        Backend = "backend",
    }
}

labels! {
    /// An IMAP command, as far as it is told apart in `imapool_command_seconds`. `UID FETCH` counts as FETCH, and so
    /// on.
    CommandLabel("command") {
        /// RFC 9051 section 6.3.12
        Append = "append",
        /// RFC 9051 section 6.1.1
        Capability = "capability",
        /// RFC 3501 section 6.4.1
        Check = "check",
        /// RFC 9051 section 6.4.1
        Close = "close",
        /// RFC 9051 section 6.4.7
        Copy = "copy",
        /// RFC 9051 section 6.3.4
        Create = "create",
        /// RFC 9051 section 6.3.5
        Delete = "delete",
        /// RFC 9051 section 6.3.1
        Enable = "enable",
        /// RFC 9051 section 6.3.3
        Examine = "examine",
        /// RFC 9051 section 6.4.3
        Expunge = "expunge",
        /// RFC 9051 section 6.4.5
        Fetch = "fetch",
        /// RFC 4314 section 3.3
        GetAcl = "getacl",
        /// RFC 5464 section 4.2
        GetMetadata = "getmetadata",
        /// RFC 9208 section 4.1.2
        GetQuota = "getquota",
        /// RFC 9208 section 4.1.3
        GetQuotaRoot = "getquotaroot",
        /// RFC 2971
        Id = "id",
        /// RFC 9051 section 6.3.13. Its time is the client's choice.
        Idle = "idle",
        /// RFC 9051 section 6.3.9
        List = "list",
        /// RFC 9051 section 6.1.3
        Logout = "logout",
        /// RFC 3501 section 6.3.9
        Lsub = "lsub",
        /// RFC 9051 section 6.4.8
        Move = "move",
        /// RFC 4314 section 3.5
        MyRights = "myrights",
        /// RFC 9051 section 6.3.10
        Namespace = "namespace",
        /// RFC 9051 section 6.1.2
        Noop = "noop",
        /// RFC 9051 section 6.3.6
        Rename = "rename",
        /// RFC 9051 section 6.4.4
        Search = "search",
        /// RFC 9051 section 6.3.2
        Select = "select",
        /// RFC 5464 section 4.3
        SetMetadata = "setmetadata",
        /// RFC 5256
        Sort = "sort",
        /// RFC 9051 section 6.3.11
        Status = "status",
        /// RFC 9051 section 6.4.6
        Store = "store",
        /// RFC 9051 section 6.3.7
        Subscribe = "subscribe",
        /// RFC 5256
        Thread = "thread",
        /// RFC 9051 section 6.4.2
        Unselect = "unselect",
        /// RFC 9051 section 6.3.8
        Unsubscribe = "unsubscribe",
        /// Every other command.
        Other = "other",
    }
}

impl CommandLabel {
    /// The label of a command's name (for `UID FETCH`: of `FETCH`) in any case, as the client wrote it.
    ///
    /// Walks the list: call it once for a command, or map an enum of commands instead.
    pub fn from_verb(verb: &[u8]) -> CommandLabel {
        let known = Self::ALL.iter().copied().find(|label| label.as_str().as_bytes().eq_ignore_ascii_case(verb));
        known.unwrap_or(CommandLabel::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An index that is not the place in `ALL` would count under another label.
    fn assert_indexed<L: Label>() {
        for (place, label) in L::ALL.iter().enumerate() {
            assert_eq!(label.index(), place, "{}={}", L::NAME, label.as_str());
        }
    }

    #[test]
    fn every_value_has_its_own_place() {
        assert_indexed::<SessionClose>();
        assert_indexed::<LoginResult>();
        assert_indexed::<LoginPath>();
        assert_indexed::<RouteResult>();
        assert_indexed::<DialResult>();
        assert_indexed::<RetireReason>();
        assert_indexed::<ConnectionState>();
        assert_indexed::<CheckoutResult>();
        assert_indexed::<DelayReason>();
        assert_indexed::<CommandLabel>();
        assert_indexed::<CommandResult>();
        assert_indexed::<ServiceState>();
    }

    #[test]
    fn verbs_are_found_in_any_case_and_unknown_ones_are_other() {
        assert_eq!(CommandLabel::from_verb(b"FeTcH"), CommandLabel::Fetch);
        assert_eq!(CommandLabel::from_verb(b"GETQUOTAROOT"), CommandLabel::GetQuotaRoot);
        assert_eq!(CommandLabel::from_verb(b"FETCHX"), CommandLabel::Other);
        assert_eq!(CommandLabel::from_verb(b""), CommandLabel::Other);
        assert_eq!(CommandLabel::from_verb(b"\xff"), CommandLabel::Other);
    }
}
