//! What the table says of a key is what the parser does.

use std::ops::RangeInclusive;

use bytesize::ByteSize;

use super::*;

/// What the parser says of a value of this key, if it refuses it.
fn said(key: &Key, value: &str) -> Option<String> {
    let name = format!("`{}.{}` ", key.section, key.name);
    let error = with_key(key.section, key.name, value).err()?;
    error.problems().iter().map(|problem| problem.what.clone()).find(|fault| fault.starts_with(&name))
}

/// Values at the ends of what a key may be; values just beyond, each with what is to be said of it.
fn ends(shape: &Shape) -> (Vec<String>, Vec<(String, String)>) {
    let numbers = |range: &RangeInclusive<usize>, advice: String| {
        let (least, most) = (*range.start() as i128, *range.end() as i128);
        let beyond = [least - 1, most + 1].map(|number| (number.to_string(), advice.clone()));
        (vec![least.to_string(), most.to_string()], Vec::from(beyond))
    };
    let whole = |range: &RangeInclusive<usize>| {
        numbers(range, format!("write a number from {} to {}", range.start(), range.end()))
    };
    match shape {
        Shape::Integer(range) => whole(range),
        Shape::Share(range) => {
            let (mut good, mut bad) = whole(range);
            good.extend(["\"1%\"", "\"100%\""].map(str::to_owned));
            let advice = "write a number, or a part such as \"25%\", from 1% to 100%";
            bad.extend(["\"0%\"", "\"101%\""].map(|part| (part.to_owned(), advice.to_owned())));
            (good, bad)
        }
        Shape::Size(range) => {
            let [least, most] = [range.start(), range.end()].map(|size| ByteSize::b(*size as u64));
            numbers(range, format!("write a size from {least} to {most}"))
        }
        Shape::Duration(range) => {
            let [least, most] = [range.start(), range.end()].map(Duration::as_nanos);
            let mut bad = vec![(format!("\"{}ns\"", most + 1), "too long, at most 365days".to_owned())];
            if least > 0 {
                bad.push((format!("\"{}ns\"", least - 1), "too short, at least 1ms".to_owned()));
            }
            ([least, most].map(|end| format!("\"{end}ns\"")).into(), bad)
        }
        Shape::OneOf(words) => {
            let quoted: Vec<_> = words.iter().filter(|word| word.is_string()).map(ToString::to_string).collect();
            let advice = format!("write one of {}", quoted.join(", "));
            (words.iter().map(ToString::to_string).collect(), vec![("\"maybe\"".to_owned(), advice)])
        }
        Shape::OrNone(shape) => {
            let (mut good, bad) = ends(shape);
            good.push("\"\"".to_owned());
            (good, bad)
        }
        Shape::Flag => (vec!["false".to_owned(), "true".to_owned()], Vec::new()),
        Shape::DurationOrNever => (vec!["\"never\"".to_owned(), "\"0s\"".to_owned()], Vec::new()),
        Shape::Text | Shape::List | Shape::Ports | Shape::Table(_) => Default::default(),
    }
}

#[test]
fn defaults_and_ends_are_taken_and_what_is_beyond_is_refused_by_name_and_range() {
    for key in KEYS.iter() {
        let (section, name) = (key.section, key.name);
        let (good, bad) = ends(&key.shape);
        for value in good {
            assert_eq!(said(key, &value), None, "{value}");
        }
        for (value, advice) in bad {
            assert_eq!(said(key, &value), Some(format!("`{section}.{name}` cannot be {value}: {advice}")));
        }
        let in_toml = |default: &&serde_json::Value| !default.is_null() && !default.is_object();
        let Some(default) = key.default.as_ref().filter(in_toml) else { continue };
        let told = serde_json::to_value(with_key(section, name, &default.to_string()).unwrap()).unwrap();
        let table = told.get(section).unwrap_or_else(|| &told[format!("{section}s")][0]);
        assert_eq!(table[name], *default, "{section}.{name}");
    }
}
