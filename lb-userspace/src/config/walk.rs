//! Walks a parsed file along the schema: every fault at once, each with its span, and where each field stands.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;

use serde_json::{Map, Value};
use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::schema::{FILE, Key, Kind, Table};
use crate::problem::Code;
use crate::suggest;

/// A fault of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// What kind.
    pub(super) code: Code,
    /// What is wrong, one sentence without a full stop.
    pub(super) message: String,
    /// Where, bytes of the text.
    pub(super) span: Range<usize>,
}

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Walked {
    /// The file as JSON, complete only if there are no faults.
    pub(super) value: Value,
    /// Where the value of each field stands, by its path, such as `vip[2].backend[0].weight`.
    pub(super) spans: BTreeMap<String, Range<usize>>,
    /// What is wrong.
    pub(super) faults: Vec<Fault>,
}

/// Reads `text` along the schema.
pub(super) fn walk(text: &str) -> Walked {
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut walker = Walker::default();
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        let message = error.message().trim_end().replace('\n', ", ");
        walker.faults.push(Fault { code: Code::ConfigSyntax, message, span });
    }
    walker.faults.sort_by_key(|fault| fault.span.start);
    // What was parsed around a syntax error is guesswork: its shape would be reported wrongly.
    if walker.faults.is_empty() {
        let value = walker.table(&FILE, "", table.get_ref(), table.span());
        walker.faults.sort_by_key(|fault| fault.span.start);
        return Walked { value, spans: walker.spans, faults: walker.faults };
    }
    Walked { value: Value::Null, spans: walker.spans, faults: walker.faults }
}

#[derive(Default)]
struct Walker {
    spans: BTreeMap<String, Range<usize>>,
    faults: Vec<Fault>,
}

impl Walker {
    fn fault(&mut self, code: Code, span: Range<usize>, message: String) -> Value {
        self.faults.push(Fault { code, message, span });
        Value::Null
    }

    fn table(&mut self, schema: &Table, path: &str, table: &DeTable<'_>, span: Range<usize>) -> Value {
        let mut object = Map::new();
        self.spans.insert(path.to_owned(), span.clone());
        for (name, value) in table {
            let Some(key) = schema.keys.iter().find(|key| key.name == name.get_ref().as_ref()) else {
                self.unknown(schema, name.get_ref(), name.span());
                continue;
            };
            let path = if path.is_empty() { key.name.to_owned() } else { format!("{path}.{}", key.name) };
            object.insert(key.name.to_owned(), self.value(key, &path, value));
        }
        for key in schema.keys.iter().filter(|key| key.required && !object.contains_key(key.name)) {
            let message = format!("{} needs `{}`", schema.what, key.name);
            self.fault(Code::ConfigValue, span.clone(), message);
        }
        Value::Object(object)
    }

    fn unknown(&mut self, schema: &Table, name: &str, span: Range<usize>) {
        let names = || schema.keys.iter().map(|key| key.name);
        let known: Vec<&str> = names().collect();
        let hint = match suggest::hint(name, names()) {
            hint if hint.is_empty() => format!("; its keys are {}", known.join(", ")),
            hint => hint,
        };
        self.fault(Code::ConfigKey, span, format!("{} has no key `{name}`{hint}", schema.what));
    }

    fn value(&mut self, key: &Key, path: &str, value: &Spanned<DeValue<'_>>) -> Value {
        let span = value.span();
        self.spans.insert(path.to_owned(), span.clone());
        match (&key.kind, value.get_ref()) {
            (Kind::Text, DeValue::String(text)) => Value::String(text.to_string()),
            (Kind::Flag, DeValue::Boolean(flag)) => Value::Bool(*flag),
            (Kind::Table(schema), DeValue::Table(table)) => self.table(schema, path, table, span),
            (Kind::List(schema), DeValue::Array(items)) => {
                let item = |(index, item): (usize, &Spanned<DeValue<'_>>)| {
                    self.item(schema, key.name, &format!("{path}[{index}]"), item)
                };
                Value::Array(items.iter().enumerate().map(item).collect())
            }
            (Kind::Address, DeValue::String(text)) => match text.parse::<IpAddr>() {
                Ok(address) => Value::String(address.to_string()),
                Err(_) => self.bad_address(key.name, text, span),
            },
            (Kind::Integer(max), DeValue::Integer(number)) => self.number(key, (*max).into(), number, span),
            (Kind::Large(max), DeValue::Integer(number)) => self.number(key, *max, number, span),
            (Kind::OneOf(words), DeValue::String(text)) if words.contains(&text.as_ref()) => {
                Value::String(text.to_string())
            }
            (Kind::OneOf(words), DeValue::String(text)) => {
                let hint = suggest::hint(text, words.iter().copied());
                let message =
                    format!("`{}` must be one of {}, not `{text}`{hint}", key.name, words.join(", "));
                self.fault(Code::ConfigValue, span, message)
            }
            (kind, other) => {
                let message = format!("`{}` must be {}, not {}", key.name, wanted(kind), other.type_str());
                self.fault(Code::ConfigValue, span, message)
            }
        }
    }

    fn number(&mut self, key: &Key, max: u64, number: &DeInteger<'_>, span: Range<usize>) -> Value {
        match u64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) if number <= max => Value::from(number),
            _ => {
                let message = format!("`{}` must be from 0 to {max}, not {}", key.name, number.as_str());
                self.fault(Code::ConfigValue, span, message)
            }
        }
    }

    fn item(&mut self, schema: &Table, key: &str, path: &str, item: &Spanned<DeValue<'_>>) -> Value {
        match item.get_ref() {
            DeValue::Table(table) => self.table(schema, path, table, item.span()),
            other => {
                let message = format!("an item of `{key}` must be a table, not {}", other.type_str());
                self.fault(Code::ConfigValue, item.span(), message)
            }
        }
    }

    fn bad_address(&mut self, key: &str, text: &str, span: Range<usize>) -> Value {
        let hint = if text.contains('/') || text.parse::<std::net::SocketAddr>().is_ok() {
            "; port and protocol have keys"
        } else {
            ""
        };
        let message = format!("`{key}` must be an IPv4 or IPv6 address, not `{text}`{hint}");
        self.fault(Code::ConfigValue, span, message)
    }
}

/// What a kind wants, for people.
fn wanted(kind: &Kind) -> &'static str {
    match kind {
        Kind::Text | Kind::Address | Kind::OneOf(_) => "text in quotes",
        Kind::Integer(_) | Kind::Large(_) => "a whole number",
        Kind::Flag => "true or false",
        Kind::Table(_) => "a table",
        Kind::List(_) => "an array of tables",
    }
}
