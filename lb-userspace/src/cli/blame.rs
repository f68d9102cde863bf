//! `lb blame`: who set a field last, when and why.

use super::object::{named, query, when};
use super::{Done, Session};
use crate::api::client::encoded;
use crate::api::views::ListView;
use crate::api::views::past::BlameView;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// `vip NAME`, `backend VIP/NAME`, `tenant NAME` or `bypass`, then the field; without a field: each.
    #[arg(num_args = 1..=3, required = true, value_names = ["KIND", "NAME", "FIELD"])]
    words: Vec<String>,
}

pub(super) async fn run(session: &mut Session<'_>, args: Args) -> Done {
    let bypass = args.words.first().is_some_and(|word| word == "bypass");
    let (object, field) = args.words.split_at(args.words.len().min(if bypass { 1 } else { 2 }));
    let field = field.first().map(|field| encoded(&field.replace('-', "_")));
    let path = query("/v1/views/blame", &[("object", Some(named(object)?)), ("field", field)]);
    let list: ListView<BlameView> = session.client.read(&path).await?;
    if session.out.json {
        session.out.value(&list)?;
        return Ok(None);
    }
    let row = |blame: &BlameView| {
        let value = blame.value.as_deref().unwrap_or("none");
        let value = match &blame.was {
            Some(was) => format!("{value} (was {was})"),
            None => value.to_owned(),
        };
        vec![
            blame.field.clone(),
            value,
            blame.revision.to_string(),
            when(&blame.at),
            blame.actor.clone(),
            blame.command.clone(),
            blame.reason.clone().unwrap_or_default(),
        ]
    };
    let headings = ["field", "value", "rev", "when (UTC)", "who", "by", "why"];
    session.out.table(&headings, list.items.iter().map(row).collect());
    Ok(None)
}
