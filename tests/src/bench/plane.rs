//! A data plane of the bench's own: the shipped program with its maps, filled by the daemon's own operations.
//!
//! One vip, its slots shared by Maglev. Pinned in a directory of this process, which goes when it is dropped; nothing
//! is attached to a device here that was not asked for by name.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use aya::programs::{ProgramFd, ProgramInfo};
use lb_common::abi::backend::{Control, Mode, NextHop};
use lb_common::abi::egress::Tags;
use lb_common::abi::slot::Slot;
use lb_common::abi::tenant::Caps;
use lb_common::abi::vip::{Policy, Tracking, VipEntry};
use lb_common::addr::Mac;
use lb_common::be::Be16;
use lb_common::ids::{BackendId, TenantId, VipId};
use lb_common::limits::SLOTS_PER_VIP;
use lb_common::maglev::{Candidate, build};
use lb_control::plan::{
    BackendContent, Borrowers, EgressContent, Key, Op, RowLimits, Rows, TenantContent, VipContent,
};
use lb_userspace::dataplane::kernel::Kernel;
use lb_userspace::dataplane::{AttachMode, Dataplane, Options};

use crate::sweep::PinDir;

/// The vip's row, and the source address's number.
const VIP_ROW: u16 = 1;
const TENANT_ROW: u16 = 1;
const SOURCE: u8 = 0;
/// After how long without a packet a flow may be forgotten: the default of a TCP vip, seconds.
const IDLE_S: u16 = 900;
const TCP: u8 = 6;

/// One backend as the bench needs it.
#[derive(Clone, Copy, Debug)]
pub struct Destination {
    /// Its address.
    pub address: Ipv4Addr,
    /// MAC of the next hop on the way to it.
    pub mac: [u8; 6],
    /// Device of the node on the way to it.
    pub ifindex: u32,
    /// The node's MAC there.
    pub own_mac: [u8; 6],
}

/// The vip to serve.
#[derive(Clone, Copy, Debug)]
pub struct Served {
    /// Its address.
    pub address: Ipv4Addr,
    /// Its TCP port.
    pub port: u16,
}

/// A data plane; dropping it removes it from the kernel.
pub struct Plane {
    kernel: Kernel,
    table: Vec<u16>,
    dir: PinDir,
}

impl Plane {
    /// Makes one, serving `vip` from `backends` by `mode`.
    ///
    /// # Errors
    /// Without root, without the BPF object in this build, or when the kernel refuses it.
    pub fn open(vip: Served, backends: &[Destination], mode: Mode) -> Result<Self> {
        let dir = PinDir::claim()?;
        let options = Options { pin_dir: dir.path().to_owned(), ..Options::default() };
        let (kernel, _) = Kernel::open(&options).context("load the data plane")?;
        let plane = Self { kernel, table: shared(backends), dir };
        plane.apply(&plane.fill(vip, backends, mode))?;
        Ok(plane)
    }

    /// Where it is pinned.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The program that packets meet.
    ///
    /// # Errors
    /// When the kernel refuses to give it.
    pub fn program(&self) -> Result<ProgramFd> {
        let info = ProgramInfo::from_pin(self.dir.path().join("balance"));
        info.and_then(|info| info.fd()).context("open the balancer's program")
    }

    /// The secret key of its flow hash.
    ///
    /// # Errors
    /// When the kernel refuses to give it.
    pub fn hash_key(&self) -> Result<[u64; 2]> {
        let map =
            aya::maps::MapData::from_pin(self.dir.path().join("LB_CONFIG")).context("open LB_CONFIG")?;
        let config: aya::maps::Array<_, [u64; 4]> = aya::maps::Map::Array(map).try_into()?;
        let [_, _, first, second] = config.get(&0, 0)?;
        Ok([first, second])
    }

    /// Attaches it to a device of the calling thread's namespace.
    ///
    /// # Errors
    /// When there is no such device or it cannot be attached natively.
    pub fn attach(&self, device: &str) -> Result<()> {
        self.kernel.attach(device, AttachMode::Native, false).map(drop).context("attach the balancer")
    }

    /// Takes it off a device of the calling thread's namespace.
    ///
    /// # Errors
    /// When it is not attached there.
    pub fn detach(&self, device: &str) -> Result<()> {
        self.kernel.detach(device).context("detach the balancer")
    }

    /// How flows are remembered from now on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn track(&self, tracking: Tracking) -> Result<()> {
        self.apply(&[Op::SetVipPolicy { row: VIP_ROW, policy: policy(tracking) }])
    }

    /// Gives the vip's tenant limits of every kind, until the next [`Plane::track`]: rates that are used by a part and
    /// never up, so that a packet pays like any other.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn limit(&self) -> Result<()> {
        let caps = Caps::new(1_000_000, 100_000);
        let limits =
            RowLimits { rates: [20_000_000, 40_000_000_000, 20_000_000], burst_ns: 100_000_000, caps };
        self.apply(&[
            Op::WriteTenant { row: TENANT_ROW, content: TenantContent { id: TenantId(1), limits } },
            Op::SetVipPolicy { row: VIP_ROW, policy: policy(Tracking::Auto).with_tenant(TENANT_ROW) },
        ])
    }

    /// Makes every slot stable, or all of them moving, for longer than a bench takes, from the next backend.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn move_slots(&self, moving: bool) -> Result<()> {
        let backends = self.table.iter().max().copied().unwrap_or(0);
        let deadline_s = self.kernel.now_s() + 24 * 3600;
        let slot = |current: u16| match moving {
            true => Slot::moving(current, current % backends + 1, deadline_s),
            false => Slot::stable(current),
        };
        let values = self.table.iter().map(|current| slot(*current)).collect();
        self.apply(&[Op::WriteSlots { first: 0, values }])
    }

    /// How many flows it remembers.
    ///
    /// # Errors
    /// When the maps cannot be read.
    pub fn remembered(&self) -> Result<u64> {
        let report = self.kernel.sweep(Rows::default(), &Borrowers::new()).context("scan the flow table")?;
        Ok(report.flows.values().sum())
    }

    /// Names of all reasons that packets ended by.
    ///
    /// # Errors
    /// When the maps cannot be read.
    pub fn reasons(&self) -> Result<Vec<&'static str>> {
        let counters = self.kernel.counters().context("read the counters")?;
        Ok(counters.reasons.keys().map(|reason| reason.name()).collect())
    }

    fn apply(&self, ops: &[Op]) -> Result<()> {
        self.kernel.apply(ops).map(drop).map_err(|fault| anyhow!("{fault}"))
    }

    fn fill(&self, vip: Served, backends: &[Destination], mode: Mode) -> Vec<Op> {
        let address = IpAddr::from(vip.address);
        let key = Key { address, port: vip.port, protocol: TCP };
        let mut ops = vec![Op::WriteSource { number: SOURCE, address: Ipv4Addr::new(192, 0, 2, 1).into() }];
        for (index, backend) in backends.iter().enumerate() {
            let row = index as u16 + 1;
            let source_mac = Mac::from_octets(backend.own_mac);
            let content = EgressContent { ifindex: backend.ifindex, mtu: 1500, source_mac, tags: Tags::NONE };
            ops.push(Op::WriteEgress { row, content });
            let flags = Control::ALIVE | Control::NEW;
            let content = BackendContent {
                id: BackendId(row.into()),
                address: backend.address.into(),
                control: Control::new(flags, mode, SOURCE, VIP_ROW, Be16::new(0)),
                next_hop: NextHop::new(Mac::from_octets(backend.mac), row),
                trial_cps: 0,
                tenant: 0,
            };
            ops.push(Op::WriteBackend { row, content });
        }
        let values = self.table.iter().map(|row| Slot::stable(*row)).collect();
        ops.push(Op::WriteSlots { first: 0, values });
        let content = VipContent {
            id: VipId(1),
            tenant: TenantId(1),
            key,
            extent: (0, SLOTS_PER_VIP),
            policy: policy(Tracking::Auto),
            refuses: false,
        };
        ops.push(Op::WriteVip { row: VIP_ROW, content });
        ops.push(Op::SetVipKey { key, entry: VipEntry(VIP_ROW.into()) });
        ops.push(Op::SetVipKey { key: Key::mark(address), entry: VipEntry(VipEntry::ADDRESS) });
        ops
    }
}

fn policy(tracking: Tracking) -> Policy {
    Policy::new(tracking, false, false, IDLE_S)
}

fn shared(backends: &[Destination]) -> Vec<u16> {
    let mut table = vec![0; SLOTS_PER_VIP as usize];
    let named = |(index, backend): (usize, &Destination)| {
        Candidate::new(&backend.address.octets(), index as u16 + 1, 100)
    };
    build(&mut table, &mut backends.iter().enumerate().map(named).collect::<Vec<_>>());
    table
}
