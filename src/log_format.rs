//! How a line of the log is written. Whatever a value says, it stays one value of its field: text of strangers that is
//! written like a field of the line, or ends it, would deceive those who read logs, and the filters that ban by them.

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::shown::{Json, Plain, Quoted, is_bare};

/// For people: the message, and `name=value` for each field. Text is in quotes and escaped; only what is made of a few
/// harmless characters, such as numbers and addresses, may do without.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fields;

impl<'w> FormatFields<'w> for Fields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut line = Line::default();
        fields.record(&mut line);
        let space = if line.message.is_empty() || line.fields.is_empty() { "" } else { " " };
        write!(writer, "{}{space}{}", line.message, line.fields)
    }
}

/// The message and the fields of one event, as [`Fields`] has them.
#[derive(Debug, Default)]
pub(crate) struct Line {
    pub(crate) message: String,
    pub(crate) fields: String,
}

impl Line {
    fn field(&mut self, field: &Field, value: impl fmt::Display) {
        let space = if self.fields.is_empty() { "" } else { " " };
        let _ = write!(self.fields, "{space}{}={value}", field.name());
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            let _ = write!(self.message, "{}", Plain(value));
        } else {
            self.field(field, Quoted(value));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() != "message" && is_bare(&text) {
            self.field(field, text);
        } else {
            self.record_str(field, &text);
        }
    }
}

/// For machines: one JSON object a line, the fields beside time, level and target.
#[derive(Debug, Clone, Copy, Default)]
pub struct JsonLines;

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'s> LookupSpan<'s>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let (metadata, mut members) = (event.metadata(), Members::default());
        event.record(&mut members);
        write!(writer, "{{\"timestamp\":{},\"level\":\"{}\"{}", Json(&time), metadata.level(), members.0)?;
        writeln!(writer, ",\"target\":{}}}", Json(metadata.target()))
    }
}

/// Those of one event, each with a comma before it.
#[derive(Default)]
struct Members(String);

impl Members {
    fn member(&mut self, field: &Field, value: impl fmt::Display) {
        let _ = write!(self.0, ",{}:{value}", Json(field.name()));
    }
}

impl Visit for Members {
    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no other numbers.
        if value.is_finite() { self.member(field, value) } else { self.member(field, "null") }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.member(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.member(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.member(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.member(field, Json(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use proptest::prelude::*;
    use serde_json::Value;
    use tracing::info;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(octets);
            Ok(octets.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What `log` logs, as text and as JSON.
    fn logged(log: impl Fn()) -> (String, String) {
        let (text, json) = (Kept::default(), Kept::default());
        let (to_text, to_json) = (text.clone(), json.clone());
        let text_layer =
            tracing_subscriber::fmt::layer().fmt_fields(Fields).with_ansi(false).with_writer(move || to_text.clone());
        let json_layer = tracing_subscriber::fmt::layer()
            .event_format(JsonLines)
            .fmt_fields(Fields)
            .with_writer(move || to_json.clone());
        let log_to = tracing_subscriber::registry().with(text_layer).with(json_layer);
        tracing::subscriber::with_default(log_to, log);
        let kept = |kept: Kept| String::from_utf8(std::mem::take(&mut *kept.0.lock().unwrap())).unwrap();
        (kept(text), kept(json))
    }

    /// The names of the fields, as a reader finds them who knows of quotes and escapes; fails on what is no field.
    fn names(fields: &str) -> Vec<String> {
        let (mut names, mut rest) = (Vec::new(), fields);
        while !rest.is_empty() {
            let (name, value) = rest.split_once('=').unwrap();
            assert!(name.bytes().all(|octet| octet.is_ascii_lowercase() || octet == b'_'), "{fields}");
            names.push(name.to_owned());
            let end = match value.strip_prefix('"') {
                None => value.find(' ').unwrap_or(value.len()),
                Some(quoted) => {
                    let mut escaped = false;
                    let close = |(_, char): &(usize, char)| {
                        let closes = *char == '"' && !escaped;
                        escaped = *char == '\\' && !escaped;
                        closes
                    };
                    quoted.char_indices().find(close).unwrap().0 + 2
                }
            };
            rest = &value[end..];
            rest = rest.strip_prefix(' ').unwrap_or(rest);
        }
        names
    }

    fn one_field_each(user: &str) {
        // As a string, by Display, by Debug, and within an error: however somebody may come to log it.
        let error = io::Error::other(user.to_owned());
        let (text, json) = logged(|| info!(user, name = %user, shown = ?user, %error, count = 7, "login refused"));
        assert_eq!((text.lines().count(), json.lines().count()), (1, 1), "{text}{json}");
        let fields = text.trim_end_matches('\n').split_once("login refused ").unwrap().1;
        assert_eq!(names(fields), ["user", "name", "shown", "error", "count"], "{text}");
        assert_eq!(text.matches("client=").count(), 0, "{text}");
        let told: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(told.as_object().unwrap().len(), 9, "{json}");
        assert_eq!(told["count"], 7);
        assert!(user.chars().count() > crate::shown::MOST || told["user"] == user, "{json}");
        for line in [text, json] {
            assert!(
                line.trim_end_matches('\n')
                    .chars()
                    .all(|char| Plain(&char.to_string()).to_string().len() == char.len_utf8())
            );
        }
    }

    #[test]
    fn a_name_cannot_forge_a_field_or_a_line() {
        for user in [
            "u8",
            "x client=203.0.113.66",
            "x\" client=203.0.113.66 y=\"",
            "x\\\" client=203.0.113.66",
            "x\\",
            "client=203.0.113.66",
            "x\n2026-01-01T00:00:00Z  INFO imapool::auth: login refused client=203.0.113.66",
            "x\u{2028}y\u{85}z\u{9b}31m\u{202e}gpj.exe",
            "",
        ] {
            one_field_each(user);
        }
    }

    #[test]
    fn words_of_a_message_stay_on_their_line() {
        let (text, json) = logged(|| info!(number = 1.5, yes = true, "said: {}", "a \"b\"\n\u{1b}[31m"));
        assert!(text.ends_with("said: a \"b\"\\u{a}\\u{1b}[31m number=1.5 yes=true\n"), "{text}");
        let told: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(told["message"], "said: a \"b\"\n\u{1b}[31m");
        assert_eq!((&told["number"], &told["yes"]), (&Value::from(1.5), &Value::from(true)));
        assert_eq!((&told["level"], &told["target"]), (&Value::from("INFO"), &Value::from(module_path!())));
    }

    proptest! {
        #[test]
        fn any_name_is_one_field(user in any::<String>()) {
            one_field_each(&user);
        }
    }
}
