//! VLAN tags on a cable: what the two plugs put on and take off, between XDP and the kernel's own stack.
//!
//! Not VLAN sub-interfaces, which this must do without (kernels without 8021q): a classifier on each plug
//! pushes the tags onto every frame that leaves and takes them off every frame that comes in. So XDP on such
//! a device sees tagged frames and must send tagged ones, while the stack behind it sees none.
//!
//! Invariant: a frame that comes in without exactly these tags is dropped, so that a lost tag shows.

use std::os::fd::OwnedFd;

use anyhow::Result;

use crate::netns::{Hook, Namespace};

/// How a cable's frames are tagged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Tagging {
    /// No tag.
    #[default]
    Untagged,
    /// One 802.1Q tag with this VLAN id (1-4094).
    Vlan(u16),
    /// An 802.1ad tag around an 802.1Q tag.
    QinQ {
        /// VLAN id of the outer tag (1-4094).
        outer: u16,
        /// VLAN id of the inner tag (1-4094).
        inner: u16,
    },
}

/// One tag: its EtherType and VLAN id.
type Tag = (u16, u16);

const DOT1Q: u16 = 0x8100;
const DOT1AD: u16 = 0x88a8;

impl Tagging {
    /// What the device must carry beyond `mtu`: one tag is free, each further one takes 4 bytes.
    pub(crate) fn device_mtu(self, mtu: u32) -> u32 {
        match self {
            Self::Untagged | Self::Vlan(_) => mtu,
            Self::QinQ { .. } => mtu + 4,
        }
    }

    /// What routes over such a device must say, where its own MTU is not that of its packets.
    pub(crate) fn route_mtu(self, mtu: u32) -> Option<u32> {
        (self.device_mtu(mtu) != mtu).then_some(mtu)
    }

    /// Makes `device` tag what it sends and untag what it receives, while the links are open.
    pub(crate) fn attach(self, namespace: &Namespace, device: &str) -> Result<Vec<OwnedFd>> {
        let tags = self.tags();
        if tags.is_empty() {
            return Ok(Vec::new());
        }
        Ok(vec![
            namespace.attach_program(device, Hook::Egress, &push(&tags))?,
            namespace.attach_program(device, Hook::Ingress, &pop(&tags))?,
        ])
    }

    /// The tags, outermost first.
    fn tags(self) -> Vec<Tag> {
        match self {
            Self::Untagged => Vec::new(),
            Self::Vlan(id) => vec![(DOT1Q, id)],
            Self::QinQ { outer, inner } => vec![(DOT1AD, outer), (DOT1Q, inner)],
        }
    }
}

/// One eBPF instruction in the kernel's encoding: 8 bits of code, 4 and 4 of registers, 16 of offset, 32 of
/// immediate value.
const fn instruction(code: u8, to: u8, from: u8, offset: u16, value: u32) -> u64 {
    code as u64 | (to as u64) << 8 | (from as u64) << 12 | (offset as u64) << 16 | (value as u64) << 32
}

const fn load_value(to: u8, value: u32) -> u64 {
    instruction(0xb7, to, 0, 0, value)
}

const fn copy(to: u8, from: u8) -> u64 {
    instruction(0xbf, to, from, 0, 0)
}

/// Reads a field of `struct __sk_buff` (register 6 holds it) at `offset` bytes.
const fn load_field(to: u8, offset: u16) -> u64 {
    instruction(0x61, to, 6, offset, 0)
}

const fn call(function: u32) -> u64 {
    instruction(0x85, 0, 0, 0, function)
}

const fn and(to: u8, value: u32) -> u64 {
    instruction(0x57, to, 0, 0, value)
}

const fn skip_unless_equal(register: u8, value: u32, count: u16) -> u64 {
    instruction(0x55, register, 0, count, value)
}

const EXIT: u64 = instruction(0x95, 0, 0, 0, 0);
const VLAN_PUSH: u32 = 18;
const VLAN_POP: u32 = 19;
/// Go on with what else is attached: -1.
const TCX_NEXT: u32 = u32::MAX;
const TCX_DROP: u32 = 2;

/// Pushes `tags`, the innermost first.
fn push(tags: &[Tag]) -> Vec<u64> {
    let mut program = vec![copy(6, 1)];
    for (ether_type, id) in tags.iter().rev() {
        program.extend([
            copy(1, 6),
            load_value(2, ether_type.to_be().into()),
            load_value(3, (*id).into()),
            call(VLAN_PUSH),
        ]);
    }
    program.extend([load_value(0, TCX_NEXT), EXIT]);
    program
}

/// Takes `tags` off, the outermost first; drops a frame that has others or none.
fn pop(tags: &[Tag]) -> Vec<u64> {
    // Offsets in struct __sk_buff; the kernel has taken the outermost tag out of the frame by then.
    const PRESENT: u16 = 20;
    const TCI: u16 = 24;
    const PROTOCOL: u16 = 28;
    /// Instructions for one tag.
    const STEP: usize = 9;
    let mut program = vec![copy(6, 1)];
    for (index, (ether_type, id)) in tags.iter().enumerate() {
        // From the first instruction of this step to the one that drops: the rest of the steps and the pass.
        let to_drop = (tags.len() - index) * STEP + 2;
        let drop_from = |done: usize| u16::try_from(to_drop - done).unwrap_or(u16::MAX);
        program.extend([
            load_field(2, PRESENT),
            skip_unless_equal(2, 1, drop_from(2)),
            load_field(2, PROTOCOL),
            skip_unless_equal(2, ether_type.to_be().into(), drop_from(4)),
            load_field(2, TCI),
            and(2, 0xfff),
            skip_unless_equal(2, (*id).into(), drop_from(7)),
            copy(1, 6),
            call(VLAN_POP),
        ]);
    }
    program.extend([load_value(0, TCX_NEXT), EXIT, load_value(0, TCX_DROP), EXIT]);
    program
}
