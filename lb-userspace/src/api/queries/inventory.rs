//! What there is, or was, as people want it: pure intent, without what was observed. The cheapest answer of all.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use lb_control::backend::Backend;
use lb_control::projection::Projection;
use lb_control::projection::inventory::Inventory;
use lb_control::tenant::TenantLimits;
use lb_control::vip::Vip;

use super::super::params::Params;
use super::super::views::past::{BackendIntentView, InventoryView, VipIntentView};
use super::super::{Node, SCHEMA};
use super::answer::basis_at;
use crate::problem::{Code, Problem};
use crate::projection::moment::rfc3339;
use crate::suggest;

pub(in crate::api) async fn inventory(
    State(node): State<Arc<Node>>,
    headers: HeaderMap,
    mut params: Params,
) -> Result<Response, Problem> {
    let name = params.text("vip");
    let basis = basis_at(&node, &mut params).await?;
    params.end()?;
    if let Some(unchanged) = basis.unchanged(&headers) {
        return Ok(unchanged);
    }
    let inventory = basis.inventory(&node).await?;
    let vips = match name {
        Some(name) => vec![one_vip(&inventory, &name)?],
        None => vips(&inventory),
    };
    Ok(basis.pure(&InventoryView {
        schema: SCHEMA.to_owned(),
        revision: basis.revision,
        as_of: basis.as_of(),
        lag_ms: basis.lag_ms,
        changed_at: (inventory.revision() > 0).then(|| rfc3339(inventory.at_ms())),
        bypass: inventory.bypass,
        tenants: inventory.tenants.keys().map(|name| name.to_string()).collect(),
        limits: limits(&inventory),
        vips,
    }))
}

fn one_vip(inventory: &Inventory, name: &str) -> Result<VipIntentView, Problem> {
    let unknown = || {
        let hint = suggest::hint(name, inventory.vips.keys().map(|name| &**name));
        Problem::new(Code::UnknownVip, format!("vip `{name}` does not exist{hint}")).at("vip")
    };
    inventory.vips.get(name).map(|found| vip(name, found)).ok_or_else(unknown)
}

/// All vips as people want them.
pub(super) fn vips(inventory: &Inventory) -> Vec<VipIntentView> {
    inventory.vips.iter().map(|(name, found)| vip(name, found)).collect()
}

fn vip(name: &str, vip: &Vip) -> VipIntentView {
    VipIntentView {
        name: name.to_owned(),
        tenant: vip.tenant.clone(),
        serves: vip.served.to_string(),
        settings: vip.settings.clone(),
        backends: vip.backends.iter().map(|(own, found)| backend(name, own, found)).collect(),
        revision: vip.revision,
        changed_at: rfc3339(vip.changed_ms),
    }
}

fn backend(vip: &str, name: &str, backend: &Backend) -> BackendIntentView {
    BackendIntentView {
        name: name.to_owned(),
        vip: vip.to_owned(),
        address: backend.address,
        port: backend.port,
        weight: backend.weight,
        intent: backend.intent,
        backup: backend.backup,
        tripped: backend.breaker.tripped,
        revision: backend.revision,
        changed_at: rfc3339(backend.changed_ms),
    }
}

/// The limits of the tenants that have any, by name.
fn limits(inventory: &Inventory) -> BTreeMap<String, TenantLimits> {
    let limited = inventory.tenants.iter().filter(|(_, tenant)| !tenant.limits.is_empty());
    limited.map(|(name, tenant)| (name.to_string(), tenant.limits)).collect()
}
