//! The messages an account begins with.

/// The `n`-th message of a mailbox: plain text, every fourth one with an HTML alternative. Subject and body name
/// account and mailbox.
pub(super) fn message(user: &str, mailbox: &str, n: usize) -> Vec<u8> {
    // A user's name may hold anything; a header field must stay one line.
    let user: String = user.chars().filter(|c| !c.is_control()).collect();
    let day = n % 28 + 1;
    let head = format!(
        "Date: {day} Feb 2024 09:{:02}:00 +0000\r\n\
         From: \"Sender {n}\" <sender{n}@example.org>\r\n\
         To: <{user}@example.com>\r\n\
         Subject: [{user}] {mailbox} message {n}\r\n\
         Message-ID: <{n}.{mailbox}.{user}@example.org>\r\n\
         MIME-Version: 1.0\r\n",
        n % 60
    );
    let body = format!("This is message {n} in {mailbox} of {user}.\r\n");
    if !n.is_multiple_of(4) {
        return format!("{head}Content-Type: text/plain; charset=utf-8\r\n\r\n{body}").into_bytes();
    }
    format!(
        "{head}Content-Type: multipart/alternative; boundary=\"=-demo-{n}\"\r\n\r\n\
         --=-demo-{n}\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n{body}\r\n\
         --=-demo-{n}\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<p>{}</p>\r\n\r\n\
         --=-demo-{n}--\r\n",
        body.trim_end()
    )
    .into_bytes()
}
