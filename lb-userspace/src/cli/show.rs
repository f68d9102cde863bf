//! `lb show`: what people want there to be, now or at a point in the past.

use lb_control::projection::field;
use lb_control::vip::VipSettings;

use super::object::{query, when};
use super::text::several;
use super::{Done, Session};
use crate::address;
use crate::api::client::encoded;
use crate::api::views::past::{BackendIntentView, InventoryView, VipIntentView};
use crate::problem::{Code, Problem};
use crate::suggest;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only this: `vip NAME`, `backend VIP/NAME` or `tenant NAME`.
    #[arg(num_args = 0..=2, value_names = ["KIND", "NAME"])]
    object: Vec<String>,
    /// As it was then: a revision, a time (UTC) such as 2026-11-26T09:30:00Z, or a distance such as `10m ago`.
    #[arg(long, value_name = "TIME|REV")]
    at: Option<String>,
}

pub(super) async fn run(session: &mut Session<'_>, args: Args) -> Done {
    let words: Vec<&str> = args.object.iter().map(String::as_str).collect();
    let path = query("/v1/views/inventory", &[("at", args.at.as_deref().map(encoded))]);
    let mut view: InventoryView = session.client.read(&path).await?;
    match words[..] {
        [] => {}
        ["vip", name] => only_vip(&mut view, name)?,
        ["backend", target] => {
            let (vip, name) = address::backend(target)?;
            only_vip(&mut view, &vip)?;
            only_backend(&mut view.vips[0], &name)?;
        }
        ["tenant", name] => only_tenant(&mut view, name)?,
        _ => {
            let text =
                format!("`{}` is none of `vip NAME`, `backend VIP/NAME`, `tenant NAME`", words.join(" "));
            return Err(Problem::new(Code::BadObject, text));
        }
    }
    if session.out.json {
        session.out.value(&view)?;
        return Ok(None);
    }
    people(session, &view, matches!(words[..], [] | ["tenant", _]), args.at.is_some());
    Ok(None)
}

fn only_vip(view: &mut InventoryView, name: &str) -> Result<(), Problem> {
    if !view.vips.iter().any(|vip| vip.name == name) {
        let hint = suggest::hint(name, view.vips.iter().map(|vip| vip.name.as_str()));
        let text = format!("there is no vip `{name}` at revision {}{hint}", view.revision);
        let help = format!("`lb history vip {name}` tells when there was one.");
        return Err(Problem::new(Code::UnknownVip, text).with_help(help));
    }
    view.vips.retain(|vip| vip.name == name);
    Ok(())
}

fn only_backend(vip: &mut VipIntentView, name: &str) -> Result<(), Problem> {
    if !vip.backends.iter().any(|backend| backend.name == name) {
        let hint = suggest::hint(name, vip.backends.iter().map(|backend| backend.name.as_str()));
        let text = format!("vip `{}` has no backend `{name}` then{hint}", vip.name);
        let help = format!("`lb history backend {}/{name}` tells when it had one.", vip.name);
        return Err(Problem::new(Code::UnknownBackend, text).with_help(help));
    }
    vip.backends.retain(|backend| backend.name == name);
    Ok(())
}

fn only_tenant(view: &mut InventoryView, name: &str) -> Result<(), Problem> {
    if !view.tenants.iter().any(|tenant| tenant == name) {
        let hint = suggest::hint(name, view.tenants.iter().map(String::as_str));
        let text = format!("there is no tenant `{name}` at revision {}{hint}", view.revision);
        return Err(Problem::new(Code::UnknownTenant, text));
    }
    view.tenants.retain(|tenant| tenant == name);
    view.limits.retain(|tenant, _| tenant == name);
    view.vips.retain(|vip| vip.tenant == name);
    Ok(())
}

fn people(session: &mut Session<'_>, view: &InventoryView, whole: bool, past: bool) {
    let since = match &view.changed_at {
        Some(at) => format!("as it has been since {} UTC", when(at)),
        None => "before the first change".to_owned(),
    };
    let asked = if past { format!(", seen at {} UTC", when(&view.as_of)) } else { String::new() };
    session.out.heading(&format!("revision {}, {since}{asked}", view.revision));
    if whole {
        let bypass = if view.bypass { "; the emergency bypass is ON" } else { "" };
        let vips = several(view.vips.len(), "vip");
        session.out.line(&format!("  tenants {}; {vips}{bypass}", view.tenants.join(", ")));
    }
    for (tenant, limits) in &view.limits {
        let limits = limits.iter().map(|(limit, value)| format!("{limit} {value}"));
        session.out.line(&format!("  tenant {tenant}: {}", limits.collect::<Vec<_>>().join(", ")));
    }
    for vip in &view.vips {
        session.out.line("");
        self::vip(session, vip);
    }
}

fn vip(session: &mut Session<'_>, vip: &VipIntentView) {
    session.out.heading(&format!("vip {}  {}", vip.name, vip.serves));
    session.out.line(&format!("  tenant {}; {}", vip.tenant, settings(vip)));
    if vip.backends.is_empty() {
        session.out.line("  no backends");
        return;
    }
    let row = |backend: &BackendIntentView| {
        vec![
            format!("{}/{}", backend.vip, backend.name),
            backend.address.to_string(),
            backend.port.to_string(),
            if backend.backup { format!("{}, backup", backend.intent) } else { backend.intent.to_string() },
            field::breaker_order(backend.tripped),
            backend.weight.to_string(),
            format!("revision {}, {} UTC", backend.revision, when(&backend.changed_at)),
        ]
    };
    let headings = ["backend", "address", "port", "intent", "breaker", "weight", "so since"];
    session.out.table(&headings, vip.backends.iter().map(row).collect());
}

/// The mode, and what else is not as it would be by default.
fn settings(vip: &VipIntentView) -> String {
    let fields = field::settings(&vip.settings);
    let defaults = address::served(&vip.serves).ok().map(|served| {
        field::settings(&VipSettings::defaults(served.protocol, served.port, vip.settings.mode))
    });
    let differs = |(name, value): &&(String, String)| {
        let default = defaults.iter().flatten().find(|(own, _)| own == name);
        name == "mode" || default.is_none_or(|(_, default)| default != value)
    };
    let told = fields.iter().filter(differs).map(|(name, value)| format!("{name} {value}"));
    told.collect::<Vec<_>>().join(", ")
}
