//! From nginx with its mail module: nginx.conf, or what `nginx -T` prints. Pure.

use super::draft::{Backend, Draft, Fate, Listener, Service, tls_mode};
use super::{ImportError, Imported, Source};
use crate::config::TlsMode;

/// Blocks in blocks: more of them is no configuration.
const DEEPEST: usize = 32;

/// `name argument… ;` or `name argument… { … }`.
#[derive(Debug, Default)]
struct Directive {
    line: usize,
    name: String,
    arguments: Vec<String>,
    /// What is between its braces; empty without any.
    block: Vec<Directive>,
}

impl Directive {
    fn argument(&self) -> &str {
        self.arguments.first().map_or("", String::as_str)
    }

    fn is_on(&self) -> bool {
        self.argument() == "on"
    }
}

enum Token {
    Word(String),
    End,
    Open,
    Close,
}

/// With their lines. A quoted word may have anything in it.
fn tokens(conf: &str) -> Result<Vec<(usize, Token)>, ImportError> {
    let (mut tokens, mut line) = (Vec::new(), 1);
    let mut characters = conf.chars().peekable();
    while let Some(first) = characters.next() {
        match first {
            '\n' => line += 1,
            it if it.is_whitespace() => {}
            '#' => while characters.next_if(|it| *it != '\n').is_some() {},
            ';' => tokens.push((line, Token::End)),
            '{' => tokens.push((line, Token::Open)),
            '}' => tokens.push((line, Token::Close)),
            quote @ ('"' | '\'') => {
                let (begun, mut word) = (line, String::new());
                loop {
                    match characters.next() {
                        None => return Err(ImportError::Syntax { line: begun, what: "the quote does not end" }),
                        Some('\\') => word.extend(characters.next()),
                        Some(it) if it == quote => break,
                        Some(it) => {
                            line += usize::from(it == '\n');
                            word.push(it);
                        }
                    }
                }
                tokens.push((begun, Token::Word(word)));
            }
            it => {
                let mut word = String::from(it);
                // `${name}` is a part of a word.
                while let Some(it) = characters.next_if(|it| !it.is_whitespace() && !";{}".contains(*it)) {
                    word.push(it);
                    if it == '$' && characters.peek() == Some(&'{') {
                        while let Some(it) = characters.next_if(|it| *it != '}' && *it != '\n') {
                            word.push(it);
                        }
                        word.extend(characters.next_if_eq(&'}'));
                    }
                }
                tokens.push((line, Token::Word(word)));
            }
        }
    }
    Ok(tokens)
}

fn read(conf: &str) -> Result<Vec<Directive>, ImportError> {
    // The blocks that are open, each in the one before it; the first is the file.
    let mut open = vec![Directive::default()];
    let mut next = Directive::default();
    for (line, token) in tokens(conf)? {
        let wrong = |what| Err(ImportError::Syntax { line, what });
        match token {
            Token::Word(word) if next.name.is_empty() => next = Directive { line, name: word, ..Directive::default() },
            Token::Word(word) => next.arguments.push(word),
            Token::End | Token::Open if next.name.is_empty() => return wrong("a name is missing here"),
            Token::Open if open.len() > DEEPEST => return wrong("so many blocks in each other are not read"),
            Token::Open => open.push(std::mem::take(&mut next)),
            Token::Close if !next.name.is_empty() => return wrong("a semicolon is missing before it"),
            Token::End | Token::Close => {
                let ended = if matches!(token, Token::End) { Some(std::mem::take(&mut next)) } else { open.pop() };
                match (open.last_mut(), ended) {
                    (Some(outer), Some(ended)) => outer.block.push(ended),
                    _ => return wrong("this } ends nothing"),
                }
            }
        }
    }
    if let Some(unfinished) = open.drain(1..).next_back().or((!next.name.is_empty()).then_some(next)) {
        return Err(ImportError::Syntax { line: unfinished.line, what: "this does not end" });
    }
    Ok(open.swap_remove(0).block)
}

/// Makes a draft of the servers in `mail { … }`.
pub(super) fn import(source: &Source<'_>) -> Result<Imported, ImportError> {
    let directives = read(source.conf)?;
    let mut draft = Draft::default();
    let mut found = false;
    for directive in &directives {
        match directive.name.as_str() {
            "mail" => {
                found = true;
                mail(&mut draft, &directive.block)?;
            }
            "include" => draft.tell(directive.line, "include", &fate(directive)),
            name => draft.tell(directive.line, name, &Fate::Done("no part of the mail proxy")),
        }
    }
    if !found || draft.listeners.is_empty() {
        return Err(ImportError::Nothing("no server for IMAP in a block mail { … }: import what `nginx -T` prints"));
    }
    let line = directives.iter().find(|it| it.name == "mail").map_or(1, |it| it.line);
    let unnamed = Backend::new("192.0.2.1", 143, TlsMode::None);
    if let Some(backend) = unnamed.filter(|_| draft.backends.is_empty()) {
        draft.backend(backend);
        draft.lose(
            line,
            "auth_http",
            "nginx dials whatever address the service names (Auth-Server); imapool only what has a [[backend]] here: \
             write one for each, in place of 192.0.2.1:143",
        );
    }
    Ok(draft.finish(source.name, source.map))
}

fn mail(draft: &mut Draft, block: &[Directive]) -> Result<(), ImportError> {
    for directive in block.iter().filter(|it| it.name != "server") {
        draft.tell(directive.line, &directive.name, &fate(directive));
    }
    tell_of_several(draft, block);
    for server in block.iter().filter(|it| it.name == "server") {
        let listens: Vec<_> = server.block.iter().filter(|it| it.name == "listen").collect();
        let protocol = server.block.iter().find(|it| it.name == "protocol").map(Directive::argument);
        // As nginx: by the port, where nothing else says it.
        let is_imap = |listen: &Directive| match protocol {
            Some(protocol) => protocol == "imap",
            None => matches!(port_of(listen.argument()), "143" | "993"),
        };
        if !listens.iter().any(|listen| is_imap(listen)) {
            let what = format!("server ({})", protocol.unwrap_or("no IMAP"));
            draft.lose(server.line, &what, "imapool speaks IMAP alone; leave this one to nginx");
            continue;
        }
        for directive in server.block.iter().filter(|it| !["listen", "protocol"].contains(&it.name.as_str())) {
            draft.tell(directive.line, &directive.name, &fate(directive));
        }
        tell_of_several(draft, &server.block);
        // The innermost counts.
        let last = |name: &str| {
            let of = |block: &[Directive]| block.iter().rposition(|it| it.name == name);
            of(&server.block).map(|at| &server.block[at]).or_else(|| of(block).map(|at| &block[at]))
        };
        let first = draft.listeners.len();
        for listen in listens.into_iter().filter(|listen| is_imap(listen)) {
            let listener = listener(draft, listen, &last)?;
            draft.listeners.push(listener);
        }
        let addresses = draft.listeners[first..].iter().map(|listener| listener.address.clone()).collect();
        service(draft, server, addresses, &last);
    }
    Ok(())
}

/// What follows the last colon.
fn port_of(address: &str) -> &str {
    address.rsplit(':').next().unwrap_or(address)
}

fn listener<'d>(
    draft: &mut Draft,
    listen: &Directive,
    last: &impl Fn(&str) -> Option<&'d Directive>,
) -> Result<Listener, ImportError> {
    let given = listen.argument();
    let address = match given.rsplit_once(':') {
        _ if given.starts_with("unix:") => given.to_owned(),
        None => format!("0.0.0.0:{given}"),
        Some(("*", port)) => format!("0.0.0.0:{port}"),
        Some(("localhost", port)) => format!("127.0.0.1:{port}"),
        Some(_) => given.to_owned(),
    };
    if !address.starts_with("unix:/") && address.parse::<std::net::SocketAddr>().is_err() {
        let (key, value) = ("listen".to_owned(), given.to_owned());
        return Err(ImportError::Value { line: listen.line, key, value, expected: "an IP address and a port" });
    }
    for option in listen.arguments.iter().skip(1) {
        match option.as_str() {
            "ssl" | "bind" | "ipv6only=on" => {}
            "proxy_protocol" => {
                let words = "write listener.proxy_protocol_from: the load balancers' networks";
                draft.lose(listen.line, "listen … proxy_protocol", words);
            }
            "ipv6only=off" => draft.lose(listen.line, "listen … ipv6only=off", "add a listener for 0.0.0.0"),
            option if option.starts_with("so_keepalive") => {
                draft.tell(listen.line, "listen … so_keepalive", &Fate::Done("always on"));
            }
            _ => draft.lose(listen.line, "listen", "an option of it has no counterpart"),
        }
    }
    let implicit = listen.arguments.iter().any(|it| it == "ssl") || last("ssl").is_some_and(Directive::is_on);
    let starttls = last("starttls").map_or("off", Directive::argument);
    let tls = tls_mode(implicit, starttls != "off");
    let file = |name: &str| last(name).map(|it| it.argument().to_owned());
    let certificate = file("ssl_certificate").zip(file("ssl_certificate_key"));
    if tls != TlsMode::None && certificate.is_none() {
        draft.lose(listen.line, "listen", "without ssl_certificate and ssl_certificate_key there is no TLS here");
    }
    let client_ca_file = client_authority(draft, last);
    let plaintext = tls != TlsMode::Implicit && (certificate.is_some() || tls == TlsMode::None) && starttls != "only";
    Ok(Listener { address, tls, certificate, client_ca_file, plaintext })
}

/// Whom clients' certificates have to be signed by, where each has to show one. nginx takes those in either file.
fn client_authority<'d>(draft: &mut Draft, last: &impl Fn(&str) -> Option<&'d Directive>) -> Option<String> {
    let wanted = last("ssl_verify_client").filter(|it| it.is_on())?;
    let (told, trusted) = (last("ssl_client_certificate"), last("ssl_trusted_certificate"));
    if let (Some(_), Some(trusted)) = (told, trusted) {
        let words = "its authorities sign clients' certificates, too: put them into the file of client_ca_file";
        draft.lose(trusted.line, &trusted.name, words);
    }
    let file = told.or(trusted).map(|it| it.argument().to_owned());
    if file.is_none() {
        draft.lose(wanted.line, &wanted.name, "no authority is named: write it in listener.client_ca_file");
    }
    file
}

/// Asked by the listeners of this server.
fn service<'d>(
    draft: &mut Draft,
    server: &Directive,
    listeners: Vec<String>,
    last: &impl Fn(&str) -> Option<&'d Directive>,
) {
    let Some(asked) = last("auth_http") else {
        return draft.lose(server.line, "server", "without auth_http, nobody says where its users belong");
    };
    let given = asked.argument();
    let url = if given.contains("://") { given.to_owned() } else { format!("http://{given}") };
    if !url.starts_with("http://") || url.contains('$') {
        let words = "only a service by http:// can be asked; write a [[route]] with its address";
        return draft.lose(asked.line, "auth_http", words);
    }
    let timeout = last("auth_http_timeout").map(Directive::argument);
    let timeout =
        timeout.map(|it| if it.ends_with(|last: char| last.is_ascii_digit()) { format!("{it}s") } else { it.into() });
    let service = Service { url, listeners, timeout, send_password: true };
    if service.may_have_secret() {
        let words = "its URL may have a secret: only the owner may read this file; give it to the user of imapool";
        draft.lose(asked.line, "auth_http", words);
    }
    draft.services.push(service);
}

/// What is there twice, and is taken over once: a second certificate, for instance.
fn tell_of_several(draft: &mut Draft, block: &[Directive]) {
    const ONCE: [&str; 7] = [
        "auth_http",
        "auth_http_timeout",
        "ssl_certificate",
        "ssl_certificate_key",
        "ssl_client_certificate",
        "ssl_trusted_certificate",
        "starttls",
    ];
    for (place, directive) in block.iter().enumerate() {
        let again = block[place + 1..].iter().any(|later| later.name == directive.name);
        if again && ONCE.contains(&directive.name.as_str()) {
            let words = "only the last one was taken over; further certificates go into listener.certificates";
            draft.lose(directive.line, &directive.name, words);
        }
    }
}

fn fate(directive: &Directive) -> Fate {
    use Fate::{Done, Lost, Taken};
    match directive.name.as_str() {
        "auth_http" | "auth_http_timeout" | "ssl_certificate" | "ssl_certificate_key" | "starttls" | "ssl" => Taken,
        "ssl_verify_client" if matches!(directive.argument(), "on" | "off") => Taken,
        "ssl_client_certificate" | "ssl_trusted_certificate" => Taken,
        "auth_http_header" => {
            Lost("it may be a secret: write it in route.headers, in a file that only imapool may read")
        }
        "auth_http_pass_client_cert" => Lost("the service is not told of certificates"),
        "ssl_verify_client" => Lost("with listener.client_ca_file, each client must show a certificate"),
        "imap_auth" => Done("what the server can check is offered"),
        "imap_capabilities" => Done("the server's own are offered"),
        "imap_client_buffer" => Done("limits.command_line and limits.literals"),
        "proxy_pass_error_message" if directive.is_on() => {
            Lost("a refusal is told in words of imapool's own or of the server's, see docs/routing.md")
        }
        "proxy_pass_error_message" => Done("a refusal does not tell which servers there are"),
        "proxy_protocol" if directive.is_on() => Lost("write send_proxy = true in each [[backend]]"),
        "proxy_timeout" => Done("limits.idle_timeout and backend.reply_timeout"),
        "timeout" => Done("limits.login_timeout"),
        "max_errors" => Done("auth.failure_delay"),
        "resolver" | "resolver_timeout" => Done("names are resolved by the system"),
        "server_name" => Done("the greeting has no name"),
        "ssl_protocols"
        | "ssl_ciphers"
        | "ssl_prefer_server_ciphers"
        | "ssl_dhparam"
        | "ssl_ecdh_curve"
        | "ssl_conf_command" => Done("TLS 1.2 and 1.3, with the cipher suites that are held to be secure"),
        "ssl_session_cache" | "ssl_session_timeout" | "ssl_session_tickets" | "ssl_session_ticket_key" => {
            Done("sessions of TLS are resumed by tickets")
        }
        "include" => Lost("what it names was not read; import what `nginx -T` prints"),
        "error_log" => Done("the log goes to standard error"),
        "xclient" | "proxy_smtp_auth" => Done("not for IMAP"),
        name if name.starts_with("pop3_") || name.starts_with("smtp_") => Done("not for IMAP"),
        _ => Lost("imapool does not know this directive"),
    }
}
