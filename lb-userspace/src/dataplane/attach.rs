//! Puts the program on devices, by BPF links that are pinned, so that they outlive the process.
//!
//! Natively if that is possible; in the kernel's stack only if it was asked for, or with a loud reason. Never in
//! place of another program unasked.

use std::os::fd::{AsFd, OwnedFd};

use aya::programs::{ProgramInfo, loaded_programs};
use lb_common::addr::Mac;
use lb_control::code::Code;
use lb_control::plan::Device;
use rtnetlink::packet_core::NLM_F_ACK;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage, LinkXdp};

use super::fault::{Fault, Result};
use super::pins::{PinnedLink, Pins, file_name};
use super::{AttachMode, Attached, AttachedMode, DeviceState, features, sys};
use crate::netlink::{Link, Netlink};

/// `XDP_FLAGS_SKB_MODE` and `XDP_FLAGS_DRV_MODE`.
const GENERIC: u32 = 1 << 1;
const NATIVE: u32 = 1 << 2;
/// How much alike two names must be to suggest one for the other (Jaro-Winkler, 0 to 1).
const ALIKE: f64 = 0.7;

/// What is attached, and where its links are pinned.
pub(super) struct Site<'a> {
    pub(super) pins: &'a Pins,
    pub(super) program: &'a OwnedFd,
    pub(super) program_id: u32,
}

impl Site<'_> {
    /// Attaches the program to a device.
    pub(super) fn attach(&self, name: &str, mode: AttachMode, replace: bool) -> Result<Attached> {
        let links = links()?;
        let link = find(&links, name)?;
        check(link)?;
        if let Some(attached) = self.already(link, &links)? {
            return as_wished(attached, mode);
        }
        if let Some((program, native)) = link.xdp {
            make_way(link, program, native, replace)?;
        }
        self.forget_vanished(&link.name)?;
        let (fd, mode, why) = self.link(link, mode)?;
        // Not pinned, the link ends with its descriptor: nothing is left behind.
        sys::pin(fd.as_fd(), &self.pins.link(link.ifindex, &link.name, mode))
            .map_err(|error| Fault::os(format!("pin the link to `{name}`"), &error))?;
        let mut attached = attached(link, mode, why, &links);
        attached.warnings.extend(unseen(link));
        Ok(attached)
    }

    /// The device as it is attached, if it is; with the present program in its link.
    fn already(&self, link: &Link, links: &[Link]) -> Result<Option<Attached>> {
        let pinned = self.pins.links()?.into_iter().find(|pinned| pinned.ifindex == link.ifindex);
        let Some(pinned) = pinned else { return Ok(None) };
        let (fd, state) = pinned.open()?;
        if state.ifindex != link.ifindex {
            // Its device vanished, and this one got its number.
            self.pins.remove(&pinned.path)?;
            return Ok(None);
        }
        if state.program != self.program_id {
            sys::relink(fd.as_fd(), self.program.as_fd())
                .map_err(|error| Fault::os(format!("swap the program of `{}`", link.name), &error))?;
        }
        Ok(Some(attached(link, pinned.mode, "it was attached already".into(), links)))
    }

    /// Removes the pins of vanished devices of this name.
    fn forget_vanished(&self, name: &str) -> Result<()> {
        for pinned in self.pins.links()? {
            if pinned.name == file_name(name) && pinned.open()?.1.ifindex == 0 {
                self.pins.remove(&pinned.path)?;
            }
        }
        Ok(())
    }

    /// Makes the link, natively first.
    fn link(&self, link: &Link, mode: AttachMode) -> Result<(OwnedFd, AttachedMode, String)> {
        let make = |flags| sys::link(self.program.as_fd(), link.ifindex, flags);
        let generic = |why: String| match make(GENERIC) {
            Ok(fd) => Ok((fd, AttachedMode::Generic, why)),
            Err(error) => Err(Fault::os(format!("attach to `{}`", link.name), &error)),
        };
        if mode == AttachMode::Generic {
            return generic("generic mode was asked for".into());
        }
        match make(NATIVE) {
            Ok(fd) => Ok((fd, AttachedMode::Native, "the driver runs it".into())),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES | libc::EBUSY)) => {
                Err(Fault::os(format!("attach to `{}`", link.name), &error))
            }
            Err(error) if mode == AttachMode::Auto => {
                generic(format!("the driver of `{}` refused to run it ({error})", link.name))
            }
            Err(error) => Err(Fault::new(
                Code::NoNativeXdp,
                format!("the driver of `{}` refused it: {error}", link.name),
            )),
        }
    }
}

/// What is attached stays as it is; a wish for the other mode is refused, not passed over.
fn as_wished(attached: Attached, wished: AttachMode) -> Result<Attached> {
    let (is, other) = match attached.mode {
        AttachedMode::Native => ("native", AttachMode::Generic),
        AttachedMode::Generic => ("generic", AttachMode::Native),
    };
    if wished != other {
        return Ok(attached);
    }
    let text = format!("`{}` is attached already, in mode {is}", attached.name);
    Err(Fault::new(Code::DeviceTaken, text)
        .with_advice("Detach it with `lb detach` first: the mode of what is attached cannot change."))
}

/// Detaches the program from a device, by its name now or, if it has vanished, by the one it had.
pub(super) fn detach(pins: &Pins, name: &str) -> Result<()> {
    let links = links()?;
    let ifindex = links.iter().find(|link| link.name == name).map(|link| link.ifindex);
    let found = pins.links()?.into_iter().find(|pinned| match ifindex {
        Some(ifindex) => pinned.ifindex == ifindex,
        None => {
            let vanished = links.iter().all(|link| link.ifindex != pinned.ifindex);
            vanished && pinned.name == file_name(name)
        }
    });
    let Some(pinned) = found else {
        find(&links, name)?;
        return Err(Fault::new(Code::NotAttached, format!("`{name}` is not attached")));
    };
    match sys::unlink(pinned.open()?.0.as_fd()) {
        // The device is gone, and the link with it.
        Err(error) if error.raw_os_error() != Some(libc::ENOLINK) => {
            Err(Fault::os(format!("detach from `{name}`"), &error))
        }
        _ => pins.remove(&pinned.path),
    }
}

/// The devices that the program is attached to.
pub(super) fn attached_of(pins: &Pins) -> Result<Vec<Attached>> {
    let links = links()?;
    pins.links()?.into_iter().map(|pinned| one(pinned, &links)).collect()
}

/// A pinned link as it is now.
fn one(pinned: PinnedLink, links: &[Link]) -> Result<Attached> {
    let (_, state) = pinned.open()?;
    let PinnedLink { ifindex, mode, name, .. } = pinned;
    let device = links.iter().find(|link| link.ifindex == ifindex && state.ifindex == ifindex);
    Ok(match device {
        Some(link) => attached(link, mode, "as it was attached".into(), links),
        None => Attached {
            warnings: vec![format!("`{name}` has vanished; it is attached again when it is back")],
            name,
            ifindex,
            device: None,
            mode,
            why: "the device has vanished".into(),
        },
    })
}

/// What a device is, for the plan.
pub(super) fn device(name: &str) -> Result<DeviceState> {
    let links = links()?;
    let link = find(&links, name)?;
    check(link)?;
    Ok(DeviceState { name: link.name.clone(), ifindex: link.ifindex, up: link.up, device: plan_device(link) })
}

fn plan_device(link: &Link) -> Device {
    Device { mtu: u16::try_from(link.mtu).unwrap_or(u16::MAX), mac: Mac::from_octets(link.mac) }
}

fn links() -> Result<Vec<Link>> {
    Netlink::new()
        .and_then(|mut netlink| netlink.links())
        .map_err(|error| Fault::os("list the devices", &error))
}

/// The device of a name.
fn find<'l>(links: &'l [Link], name: &str) -> Result<&'l Link> {
    if let Some(link) = links.iter().find(|link| link.name == name) {
        return Ok(link);
    }
    let alike = |link: &&Link| strsim::jaro_winkler(name, &link.name);
    let close = links.iter().filter(|link| alike(link) >= ALIKE).max_by(|a, b| alike(a).total_cmp(&alike(b)));
    let hint = match close {
        Some(link) => format!("; did you mean `{}`?", link.name),
        None => {
            let names: Vec<&str> =
                links.iter().filter(|link| link.ethernet).map(|link| &*link.name).collect();
            match names.is_empty() {
                true => "; there is no Ethernet device here at all".into(),
                false => format!("; the Ethernet devices here are {}", names.join(", ")),
            }
        }
    };
    Err(Fault::new(Code::NoDevice, format!("there is no device `{name}`{hint}")))
}

/// Whether the balancer can work on a device at all.
fn check(link: &Link) -> Result<()> {
    let unfit = |why: &str| Err(Fault::new(Code::DeviceUnfit, format!("`{}` {why}", link.name)));
    if !link.ethernet {
        return unfit("does not carry Ethernet frames");
    }
    if link.vlan.is_some() {
        return unfit("is a VLAN of another device").map_err(|fault: Fault| {
            fault.with_advice("Attach to the device below it: tags are handled there.")
        });
    }
    // The program of a bond runs in its ports' drivers, and names the port as the device that a packet came in by.
    if link.kind == "bond" {
        return unfit("is a bond, whose packets come in by its ports").map_err(|fault: Fault| {
            fault.with_advice("Attach to each of its ports (`ip link show master BOND` lists them).")
        });
    }
    Ok(())
}

/// Removes a foreign program, if that was asked for.
fn make_way(link: &Link, program: u32, native: bool, replace: bool) -> Result<()> {
    let name = program_name(program);
    if !replace {
        let what = format!("the XDP program {name} (id {program}) has `{}`", link.name);
        return Err(Fault::new(Code::DeviceTaken, what));
    }
    let fault = |error| Fault::os(format!("remove the XDP program {name} from `{}`", link.name), &error);
    for foreign in aya::programs::loaded_links().filter_map(std::result::Result::ok) {
        if foreign.program_id() != program {
            continue;
        }
        let fd = sys::link_of_id(foreign.id()).map_err(fault)?;
        if sys::link_state(fd.as_fd()).is_ok_and(|state| state.ifindex == link.ifindex) {
            return sys::unlink(fd.as_fd()).map_err(fault);
        }
    }
    let mut message = LinkMessage::default();
    message.header.index = link.ifindex;
    let flags = if native { NATIVE } else { GENERIC };
    // Descriptor -1 takes the program off (linux/if_link.h, IFLA_XDP_FD).
    message.attributes.push(LinkAttribute::Xdp(vec![LinkXdp::Fd(-1), LinkXdp::Flags(flags)]));
    let mut netlink = Netlink::new().map_err(fault)?;
    netlink.ask(RouteNetlinkMessage::SetLink(message), NLM_F_ACK).map(drop).map_err(fault)
}

fn program_name(id: u32) -> String {
    let named = |info: &ProgramInfo| info.name_as_str().map(|name| format!("`{name}`"));
    let found = loaded_programs().filter_map(std::result::Result::ok).find(|info| info.id() == id);
    found.as_ref().and_then(named).unwrap_or_else(|| "without a name".into())
}

fn attached(link: &Link, mode: AttachedMode, why: String, links: &[Link]) -> Attached {
    let warnings = warnings(link, mode, links);
    let (name, ifindex) = (link.name.clone(), link.ifindex);
    Attached { name, ifindex, device: Some(plan_device(link)), mode, why, warnings }
}

/// What may be wrong at the other end of a device, which cannot be seen from here: said once, when it is attached.
fn unseen(link: &Link) -> Option<String> {
    let name = &link.name;
    (link.kind == "veth").then(|| {
        format!(
            "`{name}` is a veth: its other end must leave no checksums unfinished, or TCP breaks \
             (`ethtool -K PEER tx off`, in the namespace of that end)"
        )
    })
}

/// What may go wrong on a device, each with what to do.
fn warnings(link: &Link, mode: AttachedMode, links: &[Link]) -> Vec<String> {
    let name = &link.name;
    let mut warnings = Vec::new();
    let mut warn = |warning: String| warnings.push(warning);
    if mode == AttachedMode::Generic {
        warn(format!("`{name}` is attached in generic mode: every packet costs an allocation first"));
    }
    if !link.up {
        warn(format!("`{name}` is down: `ip link set {name} up`"));
    }
    if mode == AttachedMode::Native && features::takes_redirected(link.ifindex).is_ok_and(|takes| !takes) {
        let how = if link.kind == "veth" {
            ": at its other end, run an XDP program or turn GRO off and on (`ethtool -K PEER gro off`, then `gro on`)"
        } else {
            " by its driver: packets can enter by it, but not leave by it"
        };
        warn(format!("frames that are redirected to `{name}` are lost{how}"));
    }
    if let Some(master) = links.iter().find(|other| Some(other.ifindex) == link.master) {
        warn(format!("`{name}` is a port of `{}`: packets to it are seen here first", master.name));
    }
    let offloads = sys::offloads(name).unwrap_or_default();
    let vlans = links.iter().any(|other| other.vlan.is_some() && other.lower == Some(link.ifindex));
    if offloads.rx_vlan && vlans {
        warn(format!("`{name}` takes VLAN tags off before XDP sees them: `ethtool -K {name} rxvlan off`"));
    }
    if offloads.lro {
        warn(format!(
            "`{name}` merges segments (LRO), which cannot be forwarded: `ethtool -K {name} lro off`"
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str) -> Link {
        Link { name: name.into(), ifindex: 7, up: true, ethernet: true, mtu: 1500, ..Link::default() }
    }

    #[test]
    fn a_name_that_is_not_there_gets_a_hint() {
        let links = [link("eth0"), link("wan1")];
        assert!(find(&links, "eht0").unwrap_err().message.contains("did you mean `eth0`"));
        assert!(find(&links, "zz").unwrap_err().message.contains("eth0, wan1"));
        assert_eq!(find(&links, "wan1").unwrap().name, "wan1");
    }

    #[test]
    fn devices_without_frames_are_refused() {
        assert!(check(&link("eth0")).is_ok());
        assert_eq!(check(&Link { ethernet: false, ..link("lo") }).unwrap_err().code, Code::DeviceUnfit);
        let vlan = Link { vlan: Some((7, false)), ..link("eth0.7") };
        assert!(check(&vlan).unwrap_err().what_to_do.contains("below"));
        let bond = check(&Link { kind: "bond".into(), ..link("bond0") }).unwrap_err();
        assert_eq!(bond.code, Code::DeviceUnfit);
        assert!(bond.what_to_do.contains("each of its ports"));
        // What is attached to instead, with the bond known above it.
        assert!(check(&Link { master: Some(9), ..link("eth1") }).is_ok());
    }

    #[test]
    fn trouble_ahead_is_said() {
        // No device has this number: the kernel has no say.
        let link = |name| Link { ifindex: u32::MAX >> 1, ..link(name) };
        let said = |link: &Link, mode| warnings(link, mode, &[]).join("\n");
        assert!(unseen(&Link { kind: "veth".into(), ..link("v") }).unwrap().contains("tx off"));
        assert!(said(&Link { up: false, ..link("e") }, AttachedMode::Native).contains("ip link set e up"));
        assert!(said(&link("e"), AttachedMode::Generic).contains("generic"));
        assert_eq!(said(&link("e"), AttachedMode::Native), "");
    }
}
