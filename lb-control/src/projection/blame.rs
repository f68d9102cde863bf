//! The last change of each field of an object, and the record that made it.
//!
//! A node keeps one of these for every field of every vip and backend, so it is laid out for size: names and values,
//! short nearly all, stand within it, and an object's fields side by side.

use std::sync::Arc;

use compact_str::CompactString;

use super::field::{self, Field};

/// Name of the field that says who made an object.
pub const MADE: &str = "made";

/// The fields of one object, in the order of their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(Vec<(CompactString, Blame)>);

/// The last change of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blame {
    /// What it is; `None`: it was unset, and is as it is by default.
    pub value: Option<CompactString>,
    /// What it was before; `None`: it was not set, or the object was new.
    pub was: Option<CompactString>,
    /// What changed it.
    pub by: Arc<Act>,
}

/// What a record says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    /// Revision after it.
    pub revision: u64,
    /// When, milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Who.
    pub actor: String,
    /// What was asked, as [`crate::command::Command::kind`].
    pub command: String,
    /// The command's id.
    pub command_id: String,
    /// Why.
    pub reason: Option<String>,
}

impl Fields {
    /// Those of a new object.
    pub(super) fn made(fields: Vec<Field>, by: &Arc<Act>) -> Self {
        let of = |name: &str, value: &str| {
            let blame = Blame { value: Some(value.into()), was: None, by: by.clone() };
            (CompactString::from(name), blame)
        };
        let mut all = Vec::with_capacity(fields.len() + 1);
        all.push(of(MADE, ""));
        all.extend(fields.iter().map(|(name, value)| of(name, value)));
        all.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        Self(all)
    }

    /// The last change of a field.
    pub fn get(&self, name: &str) -> Option<&Blame> {
        self.place(name).ok().map(|at| &self.0[at].1)
    }

    /// All of them, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Blame)> {
        self.0.iter().map(|(name, blame)| (name.as_str(), blame))
    }

    /// A field's new value; one that stays as it was is not touched.
    pub(super) fn set(&mut self, name: &str, value: Option<&str>, by: &Arc<Act>) {
        let of = |was| Blame { value: value.map(Into::into), was, by: by.clone() };
        match self.place(name) {
            Ok(at) => {
                let own = &mut self.0[at].1;
                if own.value.as_deref() != value {
                    *own = of(own.value.take());
                }
            }
            Err(at) => self.0.insert(at, (name.into(), of(None))),
        }
    }

    /// New settings, all of them; one that is not among them any more is unset.
    pub(super) fn set_all(&mut self, new: Vec<Field>, by: &Arc<Act>) {
        let stays = |name: &str| {
            name == MADE || field::OF_IDENTITY.contains(&name) || new.iter().any(|(own, _)| own == name)
        };
        let gone: Vec<_> = self.0.iter().map(|(name, _)| name.clone()).filter(|name| !stays(name)).collect();
        gone.iter().for_each(|name| self.set(name, None, by));
        new.iter().for_each(|(name, value)| self.set(name, Some(value), by));
    }

    fn place(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(own, _)| own.as_str().cmp(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::projection::audit::Audit;
    use crate::projection::object::Object;
    use crate::projection::testing::{log_of, rebuilt};

    /// A setting that goes back to its default has no value any more, and whoever did that is blamed.
    #[test]
    fn what_was_unset_is_blamed_on_who_unset_it() {
        let log = log_of(&[
            r#"{"kind":"vip_add","name":"web","address":"203.0.113.1","port":80,
                "probe":{"kind":"http","path":"/health","retries":2}}"#,
            r#"{"kind":"vip_set","name":"web","probe":{"path":"","retries":0}}"#,
            r#"{"kind":"vip_set","name":"web","probe":{"path":"/"}}"#,
        ]);
        let blamed = |revision: u64, field: &str| {
            let audit = rebuilt::<Audit>(&log, revision);
            let fields = audit.blame(&Object::Vip("web".into())).unwrap();
            let blame = fields.get(field).unwrap().clone();
            (blame.value, blame.was, blame.by.revision)
        };
        let text = |text: &str| Some(CompactString::from(text));
        assert_eq!(blamed(1, "probe.path"), (text("/health"), None, 1));
        assert_eq!(blamed(2, "probe.path"), (None, text("/health"), 2));
        assert_eq!(blamed(3, "probe.path"), (text("/"), None, 3));
        assert_eq!(blamed(3, "probe.retries"), (text("0"), text("2"), 2));
        assert_eq!(blamed(3, "serves"), (text("203.0.113.1:80/tcp"), None, 1));
    }
}
