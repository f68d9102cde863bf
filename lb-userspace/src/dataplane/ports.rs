//! Makes a device known to the packet path before its first packet: the way out by which answers and NAT's replies
//! go back. The plan finds it in the maps and keeps it.

use lb_common::abi::egress::Tags;
use lb_control::code::Code;
use lb_control::plan::{EgressContent, Op};

use super::DeviceState;
use super::fault::{Fault, Result};
use super::maps;
use super::store::Store;

/// What [`register`] added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Registered {
    ifindex: u32,
    row: u16,
}

/// Gives a device an untagged way out and a port, unless it has one; what was added.
pub(super) fn register(store: &Store, state: &DeviceState) -> Result<Option<Registered>> {
    let ifindex = state.ifindex;
    if store.calls.ports()?.iter().any(|(port, _)| *port == ifindex) {
        return Ok(None);
    }
    // The last free row: the plan takes the first, so that both never mean the same one.
    let free = store.egresses.iter().rposition(|row| row.device.load() == 0);
    let row = free.ok_or_else(|| Fault::new(Code::EgressRowsFull, Code::EgressRowsFull.short()))? as u16;
    let (mtu, source_mac) = (state.device.mtu, state.device.mac);
    let content = EgressContent { ifindex, mtu, source_mac, tags: Tags::NONE };
    maps::apply(
        store,
        &[Op::WriteEgress { row, content }, Op::SetPort { ifindex, egress: row }],
        maps::NO_CLOCK,
    )?;
    Ok(Some(Registered { ifindex, row }))
}

/// Takes back what was added for a device that could not be attached.
pub(super) fn unregister(store: &Store, added: Registered) -> Result<()> {
    let Registered { ifindex, row } = added;
    maps::apply(store, &[Op::RemovePort { ifindex }, Op::Barrier, Op::FreeEgress { row }], maps::NO_CLOCK)
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::memory;
    use lb_common::addr::Mac;
    use lb_control::plan::Device;

    fn state(ifindex: u32) -> DeviceState {
        let device = Device { mtu: 1500, mac: Mac::from_octets([2, 0, 0, 0, 0, 7]) };
        DeviceState { name: "eth0".into(), ifindex, up: true, device }
    }

    #[test]
    fn a_device_is_registered_once() {
        let (store, memory) = memory::store(&memory::small());
        let added = register(&store, &state(7)).unwrap().unwrap();
        assert_eq!(added, Registered { ifindex: 7, row: 255 });
        let actual = maps::read(&store, None).unwrap();
        assert_eq!((actual.ports[&7], actual.egresses[&255]), (255, state(7).device.egress(7)));
        assert_eq!(register(&store, &state(7)).unwrap(), None);
        assert_eq!(register(&store, &state(8)).unwrap().unwrap().row, 254);
        unregister(&store, added).unwrap();
        let actual = maps::read(&store, None).unwrap();
        assert!(actual.ports.keys().eq([&8]) && actual.egresses.keys().eq([&254]));
        assert!(memory::lock(&memory).devices.keys().eq([&254]));
    }

    #[test]
    fn without_a_free_row_nothing_is_written() {
        let (store, _) = memory::store(&memory::small());
        store.egresses.iter().for_each(|row| row.device.store(1));
        assert_eq!(register(&store, &state(7)).unwrap_err().code, Code::EgressRowsFull);
        assert!(store.calls.ports().unwrap().is_empty());
    }
}
