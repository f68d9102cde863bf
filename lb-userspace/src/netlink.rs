//! One question to the kernel's route netlink and its answers, without waiting for anybody but the kernel; and links
//! as the rest of the crate wants to see them.
//!
//! Always of the network namespace that the calling thread is in: `/sys/class/net` is of the one that mounted it.

use std::io::{Error, ErrorKind, Result};

use rtnetlink::packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp,
    VlanProtocol, XdpAttached,
};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// A netlink socket for questions.
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens one in this thread's network namespace.
    ///
    /// # Errors
    /// As the kernel says.
    pub(crate) fn new() -> Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Asks, with `flags` of `NLM_F_*` besides `NLM_F_REQUEST`, and waits for the whole answer.
    ///
    /// # Errors
    /// The kernel's answer, if it is an error.
    pub(crate) fn ask(
        &mut self,
        question: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(question));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut answers = Vec::new();
        while !self.receive(&mut answers, flags)? {}
        Ok(answers)
    }

    /// Reads one datagram of answers; `true` if it ends them.
    fn receive(&mut self, answers: &mut Vec<RouteNetlinkMessage>, flags: u16) -> Result<bool> {
        let (datagram, _) = self.socket.recv_from_full()?;
        for message in messages(&datagram) {
            let message = message?;
            if message.header.sequence_number != self.sequence {
                continue;
            }
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(true),
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                NetlinkPayload::Error(_) => return Ok(true),
                NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                _ => {}
            }
        }
        Ok(flags == 0 && !answers.is_empty())
    }

    /// All links.
    ///
    /// # Errors
    /// As the kernel says.
    pub(crate) fn links(&mut self) -> Result<Vec<Link>> {
        let answers = self.ask(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP)?;
        Ok(answers.into_iter().filter_map(Link::of).collect())
    }
}

/// The messages of a datagram. One that this library cannot read ends them with an error.
pub(crate) fn messages(datagram: &[u8]) -> impl Iterator<Item = Result<NetlinkMessage<RouteNetlinkMessage>>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest);
        let length = message.as_ref().map_or(0, |message| message.header.length as usize);
        // Messages are aligned to 4 bytes (linux/netlink.h, NLMSG_ALIGNTO).
        let next = length.next_multiple_of(4);
        rest = if length == 0 { &[] } else { rest.get(next..).unwrap_or(&[]) };
        Some(message.map_err(|error| Error::new(ErrorKind::InvalidData, error.to_string())))
    })
}

/// A network device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) name: String,
    pub(crate) ifindex: u32,
    pub(crate) up: bool,
    /// Whether its frames have Ethernet headers.
    pub(crate) ethernet: bool,
    pub(crate) loopback: bool,
    /// Largest IP packet, bytes.
    pub(crate) mtu: u32,
    pub(crate) mac: [u8; 6],
    /// Such as `veth` or `bond`; empty for a plain device.
    pub(crate) kind: String,
    /// The device below (of a VLAN) or the other end (of a veth).
    pub(crate) lower: Option<u32>,
    /// The device that it is a port of (a bond or a bridge).
    pub(crate) master: Option<u32>,
    /// VLAN id, and whether its tag is an 802.1ad one.
    pub(crate) vlan: Option<(u16, bool)>,
    /// Id of the XDP program and whether it runs in the driver.
    pub(crate) xdp: Option<(u32, bool)>,
}

impl Link {
    fn of(answer: RouteNetlinkMessage) -> Option<Self> {
        let RouteNetlinkMessage::NewLink(message) = answer else { return None };
        let flags = message.header.flags;
        let mut link = Self {
            ifindex: message.header.index,
            up: flags.contains(LinkFlags::Up),
            loopback: flags.contains(LinkFlags::Loopback),
            ethernet: message.header.link_layer_type == LinkLayerType::Ether,
            ..Self::default()
        };
        message.attributes.iter().for_each(|attribute| link.take(attribute));
        Some(link)
    }

    fn take(&mut self, attribute: &LinkAttribute) {
        match attribute {
            LinkAttribute::IfName(name) => self.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => self.mtu = *mtu,
            LinkAttribute::Address(octets) => {
                self.mac = octets.as_slice().try_into().unwrap_or_default();
            }
            LinkAttribute::Link(lower) => self.lower = Some(*lower),
            LinkAttribute::Controller(master) => self.master = Some(*master),
            LinkAttribute::LinkInfo(parts) => parts.iter().for_each(|part| self.take_kind(part)),
            LinkAttribute::Xdp(parts) => self.xdp = xdp(parts),
            _ => {}
        }
    }

    fn take_kind(&mut self, part: &LinkInfo) {
        match part {
            LinkInfo::Kind(kind) => self.kind = kind_name(kind),
            LinkInfo::Data(InfoData::Vlan(settings)) => {
                let id = settings.iter().find_map(|one| match one {
                    InfoVlan::Id(id) => Some(*id),
                    _ => None,
                });
                let outer = settings.contains(&InfoVlan::Protocol(VlanProtocol::Ieee8021Ad));
                self.vlan = id.map(|id| (id, outer));
            }
            _ => {}
        }
    }
}

fn kind_name(kind: &InfoKind) -> String {
    kind.to_string()
}

/// The program that is on a device; of several, the driver's.
fn xdp(parts: &[LinkXdp]) -> Option<(u32, bool)> {
    let mut native = false;
    let mut id = None;
    for part in parts {
        match part {
            LinkXdp::Attached(how) => native = !matches!(how, XdpAttached::SocketBuffer | XdpAttached::None),
            LinkXdp::ProgId(program) => id = id.or(Some(*program)),
            LinkXdp::DrvProgId(program) => id = Some(*program),
            _ => {}
        }
    }
    id.filter(|id| *id != 0).map(|id| (id, native))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_device_is_found() {
        let links = Netlink::new().unwrap().links().unwrap();
        let lo = links.iter().find(|link| link.name == "lo").unwrap();
        assert!(lo.loopback && !lo.ethernet && lo.ifindex == 1 && lo.xdp.is_none());
    }

    #[test]
    fn half_a_message_is_an_error_and_the_last() {
        let answers: Vec<_> = messages(&[40, 0, 0, 0, 16, 0, 0, 0]).collect();
        assert!(answers.len() == 1 && answers[0].is_err());
        assert_eq!(messages(&[]).count(), 0);
    }
}
