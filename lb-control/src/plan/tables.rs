//! Maglev tables, kept while nothing that makes them changes: building one is the costly part of planning.

use lb_common::ids::VipId;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Tables by vip, each with the hash of what it was built from.
#[derive(Clone, Debug, Default)]
pub struct TableCache {
    tables: BTreeMap<VipId, (u64, Arc<[u16]>)>,
}
