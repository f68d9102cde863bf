//! What the log says of the past: who changed what and why, what lies between two points, who set a field.
//!
//! What a record changed is what differs between the inventories around it, so that each line says what was before. The
//! number of records that a question may name, and the work for each, are bounded.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use lb_control::projection::Projection;
use lb_control::projection::difference::{Difference, difference};
use lb_control::projection::inventory::Inventory;
use lb_control::projection::object::Object;
use lb_control::projection::timeline::{Place, Wanted};
use lb_control::record::Record;

use super::super::params::Params;
use super::super::views::past::{
    ActView, ActorView, BlameView, CauseView, DiffView, EntryView, HistoryView, ObservationView, PointView,
};
use super::super::{Node, SCHEMA, blocking};
use super::answer::{basis, inventory_at, point, unread};
use super::lines::line;
use super::observed;
use crate::clock::unix_ms;
use crate::problem::{Code, Problem};
use crate::projection::Model;
use crate::projection::moment::{Moment, rfc3339};
use crate::suggest;

/// Records of one answer unless `limit` says otherwise.
const LIMIT: usize = 50;
/// The most that it can.
const LIMIT_MAX: usize = 1_000;
/// Records that an inventory is taken on by, rather than a nearer one of the past looked for.
const STRIDE: u64 = 1_024;
/// Steps of a chain of causes; a longer one is cut.
const CAUSES: usize = 16;

pub(in crate::api) async fn history(
    State(node): State<Arc<Node>>,
    headers: HeaderMap,
    mut params: Params,
) -> Result<Response, Problem> {
    let (object, actor) = (params.text("object"), params.text("actor"));
    let (since, until) = (params.text("since"), params.text("until"));
    let (before, why) = (params.parsed::<u64>("before")?, params.parsed("why")?.unwrap_or(false));
    let limit = params.parsed("limit")?.unwrap_or(LIMIT).clamp(1, LIMIT_MAX);
    let basis = basis(&node, &mut params).await?;
    params.end()?;
    let model = basis.model.clone();
    let object = object.map(|text| known(&model, &text)).transpose()?;
    if let Some(actor) = &actor
        && !model.audit.actors.contains_key(actor.as_str())
    {
        let hint = suggest::hint(actor, model.audit.actors.keys().map(|name| &**name));
        let text = format!("`{actor}` never changed anything{hint}");
        return Err(Problem::new(Code::BadRequest, text).at("actor"));
    }
    // What was observed comes without a revision: where it can stand beside the records, nothing says that it is the same.
    let pure = actor.is_some() || node.observations.is_none();
    if let Some(unchanged) = basis.unchanged(&headers).filter(|_| pure) {
        return Ok(unchanged);
    }
    let limits = (since_ms(&model, since.as_deref())?, since_ms(&model, until.as_deref())?);
    let up_to = before.map(|before| before.saturating_sub(1));
    let wanted = Wanted { object, actor, since_ms: limits.0, until_ms: limits.1, up_to };
    let found = blocking(move || {
        let (items, more) = entries(&node, &model, &wanted, limit, why)?;
        let observations = beside(&node, &model, &wanted, &items, more)?;
        Ok::<_, Problem>((items, more, observations))
    });
    let (items, more, observations) = found.await??;
    let before = items.first().filter(|_| more).map(|first| first.act.revision);
    let (schema, revision, as_of, lag_ms) = (SCHEMA.to_owned(), basis.revision, basis.as_of(), basis.lag_ms);
    let view = HistoryView { schema, revision, as_of, lag_ms, before, items, observations };
    Ok(if pure { basis.pure(&view) } else { basis.mixed(&view) })
}

/// What was observed in the time of the shown records. Nobody did it, so one who asks for an actor gets none.
fn beside(
    node: &Node,
    model: &Model,
    wanted: &Wanted,
    items: &[EntryView],
    more: bool,
) -> Result<Vec<ObservationView>, Problem> {
    if wanted.actor.is_some() {
        return Ok(Vec::new());
    }
    let at_ms = |entry: &EntryView| model.timeline.at_revision(entry.act.revision).map(|place| place.at_ms);
    let first = items.first().filter(|_| more).and_then(at_ms);
    let last = items.last().filter(|_| wanted.up_to.is_some()).and_then(at_ms);
    let from_ms = wanted.since_ms.unwrap_or(0).max(first.unwrap_or(0));
    let until_ms = wanted.until_ms.unwrap_or(u64::MAX).min(last.unwrap_or(u64::MAX));
    observed::within(node, model, wanted.object.as_ref(), (from_ms, until_ms))
}

/// A limit in time. That of a revision is its record's.
fn since_ms(model: &Model, text: Option<&str>) -> Result<Option<u64>, Problem> {
    let Some(text) = text else { return Ok(None) };
    Ok(Some(match Moment::parse(text, unix_ms())? {
        Moment::Time(at_ms) => at_ms,
        Moment::Revision(_) => point(model, text)?.1.unwrap_or(0),
    }))
}

/// An object that is there or was.
pub(super) fn known(model: &Model, text: &str) -> Result<Object, Problem> {
    let object: Object = text.parse().map_err(|error: lb_control::projection::object::NoObject| {
        Problem::new(Code::BadObject, format!("`{text}`: {error}"))
    })?;
    let present = matches!(&object, Object::Tenant(name) if model.inventory.tenants.contains_key(name));
    if object == Object::Bypass || present || model.timeline.knows(&object) {
        return Ok(object);
    }
    let code = match object {
        Object::Vip(_) => Code::UnknownVip,
        Object::Backend(..) => Code::UnknownBackend,
        _ => Code::UnknownTenant,
    };
    let alike = model.timeline.objects().filter(|other| other.kind() == object.kind());
    let names: Vec<String> = alike.map(Object::name).collect();
    let hint = suggest::hint(&object.name(), names.iter().map(String::as_str));
    Err(Problem::new(code, format!("the log knows no {object}{hint}")))
}

/// The wanted records with what they changed, oldest first, and whether there are more before them.
fn entries(
    node: &Node,
    model: &Model,
    wanted: &Wanted,
    limit: usize,
    why: bool,
) -> Result<(Vec<EntryView>, bool), Problem> {
    let (places, more) = model.timeline.find(wanted, limit);
    let mut walk = Walk { node, inventory: Inventory::default() };
    let mut entries = Vec::with_capacity(places.len());
    for place in places {
        let Some((record, differences)) = walk.step(place)? else { continue };
        let about = |difference: &Difference| match &wanted.object {
            Some(object @ (Object::Vip(_) | Object::Backend(..))) => object.holds(&difference.object),
            _ => true,
        };
        entries.push(EntryView {
            act: act(&record),
            lines: differences.into_iter().filter(about).map(line).collect(),
            causes: if why { causes(node, model, &record)? } else { Vec::new() },
        });
    }
    Ok((entries, more))
}

/// A walk through the log from record to record, with the inventory around each.
struct Walk<'a> {
    node: &'a Node,
    inventory: Inventory,
}

/// A record and what it changed.
type Step = (Arc<Record>, Vec<Difference>);

impl Walk<'_> {
    /// The record at a place, and what it changed.
    fn step(&mut self, place: Place) -> Result<Option<Step>, Problem> {
        let (projections, now) = (&self.node.projections, self.inventory.revision());
        if place.before.checked_sub(now).is_none_or(|gap| gap > STRIDE) {
            self.inventory = projections.inventory_at(place.before).map_err(unread)?;
        } else {
            projections.advance(&mut self.inventory, place.before).map_err(unread)?;
        }
        let Some(record) = record_at(self.node, place)? else { return Ok(None) };
        let before = self.inventory.clone();
        self.inventory.apply(&record);
        Ok(Some((record, difference(&before, &self.inventory))))
    }
}

fn record_at(node: &Node, place: Place) -> Result<Option<Arc<Record>>, Problem> {
    let records = node.log.read(place.before, 1).map_err(unread)?;
    Ok(records.into_iter().next().filter(|record| record.revision == place.revision))
}

/// What led to a record, back to a command that nothing led to, or to what the log does not hold.
fn causes(node: &Node, model: &Model, record: &Record) -> Result<Vec<CauseView>, Problem> {
    let (mut causes, mut next) = (Vec::new(), record.causation_id.clone());
    while let Some(id) = next.take().filter(|_| causes.len() < CAUSES) {
        let mut found = None;
        for place in model.timeline.of_command(&id) {
            found = found.or(record_at(node, place)?.filter(|record| record.command_id == id));
        }
        next = found.as_ref().and_then(|record| record.causation_id.clone());
        causes.push(CauseView { id, command: found.map(|record| act(&record)) });
    }
    Ok(causes)
}

/// Who, when and why, of a record.
pub(in crate::api) fn act(record: &Record) -> ActView {
    ActView {
        revision: record.revision,
        at: rfc3339(record.at_ms),
        actor: record.actor.clone(),
        command: record.command.clone(),
        command_id: record.command_id.clone(),
        correlation_id: record.correlation_id.clone(),
        causation_id: record.causation_id.clone(),
        reason: record.reason.clone(),
    }
}

pub(in crate::api) async fn diff(
    State(node): State<Arc<Node>>,
    headers: HeaderMap,
    mut params: Params,
) -> Result<Response, Problem> {
    let missing = || Problem::new(Code::BadRequest, "the query must say `from`").at("query");
    let from = params.text("from").ok_or_else(missing)?;
    let to = params.text("to").unwrap_or_else(|| "now".to_owned());
    let basis = basis(&node, &mut params).await?;
    params.end()?;
    let (from, to) = (point(&basis.model, &from)?.0, point(&basis.model, &to)?.0);
    if let Some(unchanged) = basis.unchanged(&headers) {
        return Ok(unchanged);
    }
    let (first, second) = (inventory_at(&node, from).await?, inventory_at(&node, to).await?);
    let point = |inventory: &Inventory| PointView {
        revision: inventory.revision(),
        at: (inventory.revision() > 0).then(|| rfc3339(inventory.at_ms())),
    };
    Ok(basis.pure(&DiffView {
        schema: SCHEMA.to_owned(),
        revision: to,
        as_of: basis.as_of(),
        lag_ms: basis.lag_ms,
        from: point(&first),
        to: point(&second),
        items: difference(&first, &second).into_iter().map(line).collect(),
    }))
}

pub(in crate::api) async fn blame(
    State(node): State<Arc<Node>>,
    headers: HeaderMap,
    mut params: Params,
) -> Result<Response, Problem> {
    let missing = || Problem::new(Code::BadRequest, "the query must say `object`").at("query");
    let object = params.text("object").ok_or_else(missing)?;
    let field = params.text("field");
    let basis = basis(&node, &mut params).await?;
    params.end()?;
    let object = known(&basis.model, &object)?;
    let Some(fields) = basis.model.audit.blame(&object) else {
        return Err(gone(&node, &basis.model, &object));
    };
    if let Some(field) = &field
        && fields.get(field).is_none()
    {
        let hint = suggest::hint(field, fields.iter().map(|(name, _)| name));
        return Err(Problem::new(Code::UnknownField, format!("{object} has no `{field}`{hint}")));
    }
    if let Some(unchanged) = basis.unchanged(&headers) {
        return Ok(unchanged);
    }
    let shown = fields.iter().filter(|(name, _)| field.as_deref().is_none_or(|field| field == *name));
    let view = |(name, blame): (&str, &lb_control::projection::blame::Blame)| BlameView {
        field: name.to_owned(),
        value: blame.value.as_deref().map(str::to_owned),
        was: blame.was.as_deref().map(str::to_owned),
        revision: blame.by.revision,
        at: rfc3339(blame.by.at_ms),
        actor: blame.by.actor.clone(),
        command: blame.by.command.clone(),
        command_id: blame.by.command_id.clone(),
        reason: blame.by.reason.clone(),
    };
    Ok(basis.pure(&basis.list(shown.map(view).collect())))
}

/// An object that was removed: by whom, and when.
fn gone(node: &Node, model: &Model, object: &Object) -> Problem {
    let code = match object {
        Object::Vip(_) => Code::UnknownVip,
        Object::Backend(..) => Code::UnknownBackend,
        _ => Code::UnknownTenant,
    };
    let wanted = Wanted { object: Some(object.clone()), ..Wanted::default() };
    let last = model.timeline.find(&wanted, 1).0.last().copied();
    let last = last.and_then(|place| record_at(node, place).ok().flatten());
    let Some(last) = last else { return Problem::new(code, format!("{object} does not exist")) };
    let text = format!(
        "{object} is no more: {} removed it at revision {}, {}",
        last.actor,
        last.revision,
        rfc3339(last.at_ms)
    );
    Problem::new(code, text).with_help(format!("`lb history {object}` tells its story."))
}

pub(in crate::api) async fn audit(
    State(node): State<Arc<Node>>,
    headers: HeaderMap,
    mut params: Params,
) -> Result<Response, Problem> {
    let basis = basis(&node, &mut params).await?;
    params.end()?;
    if let Some(unchanged) = basis.unchanged(&headers) {
        return Ok(unchanged);
    }
    let view = |(name, acts): (&Arc<str>, &lb_control::projection::audit::Acts)| ActorView {
        actor: name.to_string(),
        commands: acts.commands,
        events: acts.events,
        last_at: rfc3339(acts.last_ms),
        last_revision: acts.last_revision,
    };
    Ok(basis.pure(&basis.list(basis.model.audit.actors.iter().map(view).collect())))
}
