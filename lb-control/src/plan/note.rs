//! What an operation does to the rows of [`Actual`]: for who carried it out, and need not read all of them back to know
//! what they hold now.
//!
//! Slots are none of it: they are the map itself, and others change them too.

use super::actual::Actual;
use super::op::Op;

impl<S> Actual<S> {
    /// Takes in what an operation that was carried out did. What fits no row changes nothing.
    pub fn note(&mut self, op: &Op) {
        match op {
            Op::SetBypass { on } => self.bypass = *on,
            Op::WriteSource { number, address } => drop(self.sources.insert(*number, *address)),
            Op::WriteEgress { row, content } => drop(self.egresses.insert(*row, *content)),
            Op::SetPort { ifindex, egress } => drop(self.ports.insert(*ifindex, *egress)),
            Op::RemovePort { ifindex } => drop(self.ports.remove(ifindex)),
            Op::WriteBackend { row, content } => {
                self.backends.insert(*row, *content);
                self.pools.insert((content.control.vip_row(), *row));
            }
            Op::SetNextHop { row, next_hop } => {
                if let Some(content) = self.backends.get_mut(row) {
                    content.next_hop = *next_hop;
                }
            }
            Op::SetControl { row, control } => {
                if let Some(content) = self.backends.get_mut(row) {
                    content.control = *control;
                }
            }
            Op::SetTrial { row, trial_cps } => {
                if let Some(content) = self.backends.get_mut(row) {
                    content.trial_cps = *trial_cps;
                }
            }
            Op::SetBackendTenant { row, tenant } => {
                if let Some(content) = self.backends.get_mut(row) {
                    content.tenant = *tenant;
                }
            }
            Op::WriteTenant { row, content } => drop(self.tenants.insert(*row, *content)),
            Op::SetTenantLimits { row, limits } => {
                if let Some(content) = self.tenants.get_mut(row) {
                    content.limits = *limits;
                }
            }
            Op::FreeTenant { row } => drop(self.tenants.remove(row)),
            Op::WriteVip { row, content } => drop(self.vips.insert(*row, *content)),
            Op::SetVipPolicy { row, policy } => {
                if let Some(content) = self.vips.get_mut(row) {
                    content.policy = *policy;
                }
            }
            Op::SetVipRefusal { row, refuses } => {
                if let Some(content) = self.vips.get_mut(row) {
                    content.refuses = *refuses;
                }
            }
            Op::SetVipTable { row, extent } => {
                if let Some(content) = self.vips.get_mut(row) {
                    content.extent = *extent;
                }
            }
            Op::SetVipKey { key, entry } => drop(self.keys.insert(*key, *entry)),
            Op::RemoveVipKey { key } => drop(self.keys.remove(key)),
            Op::WriteSlots { .. } | Op::ChangeSlots { .. } | Op::WithdrawVip { .. } | Op::Barrier => {}
            Op::FreeVip { row } => drop(self.vips.remove(row)),
            Op::FreeBackend { row } => {
                let gone = self.backends.remove(row);
                gone.map(|content| self.pools.remove(&(content.control.vip_row(), *row)));
            }
            Op::FreeEgress { row } => drop(self.egresses.remove(row)),
            Op::FreeSource { number } => drop(self.sources.remove(number)),
        }
    }
}
