//! Differences in words: what became of an object, shortly where all of it is new or gone, field by field where not.

use lb_control::projection::difference::{Difference, FieldDifference, What};
use lb_control::projection::object::Object;

use super::super::views::past::{FieldView, LineView};

/// Settings of a vip that are worth a word when it is made; the others have their defaults or are seen by `lb show`.
const TOLD: [&str; 3] = ["serves", "mode", "tenant"];

/// A difference as it is answered.
pub(super) fn line(difference: Difference) -> LineView {
    let text = text(&difference);
    let change = match difference.what {
        What::Made => "made",
        What::Changed => "changed",
        What::Replaced => "replaced",
        What::Removed => "removed",
    };
    let field = |field: FieldDifference| FieldView { name: field.name, from: field.from, to: field.to };
    LineView {
        change: change.to_owned(),
        object: difference.object.to_string(),
        fields: difference.fields.into_iter().map(field).collect(),
        text,
    }
}

fn text(difference: &Difference) -> String {
    let fields = difference.fields.iter();
    match difference.what {
        What::Replaced if difference.fields.is_empty() => "by another one of the same values".to_owned(),
        What::Changed | What::Replaced => {
            let shift = |field: &FieldDifference| {
                let side = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
                format!("{} {} -> {}", field.name, side(&field.from), side(&field.to))
            };
            fields.map(shift).collect::<Vec<_>>().join(", ")
        }
        What::Made => whole(&difference.object, fields.map(|field| (&field.name, &field.to))),
        What::Removed => whole(&difference.object, fields.map(|field| (&field.name, &field.from))),
    }
}

/// What a new or removed object is, or was.
fn whole<'a>(object: &Object, fields: impl Iterator<Item = (&'a String, &'a Option<String>)>) -> String {
    let of_vip = matches!(object, Object::Vip(_));
    let told = |(name, value): (&String, &Option<String>)| {
        let value = value.as_deref()?;
        match name.as_str() {
            "serves" | "address" | "intent" => Some(value.to_owned()),
            name if !of_vip || TOLD.contains(&name) => Some(format!("{name} {value}")),
            _ => None,
        }
    };
    fields.filter_map(told).collect::<Vec<_>>().join(" ")
}
