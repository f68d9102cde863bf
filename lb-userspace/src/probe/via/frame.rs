//! The frame around a probe's packet: what the packet path makes of a client's packet to that backend, by the packet path's own
//! headers. A test holds both against each other.

use std::net::IpAddr;

use lb_common::addr::{Addr, Mac};
use lb_common::datapath::forward::{outer_v4, outer_v6};
use lb_common::datapath::host::HostFrame;
use lb_common::datapath::link::Link;
use lb_common::datapath::packet::Packet;
use lb_common::datapath::wire::transport::{IPIP, IPV6_IN_IP};
use lb_common::limits::{IPV4_OVERHEAD, IPV6_OVERHEAD};
use lb_control::plan::Way;

/// The frame of an IP packet to a backend. `tunnel`: the backend's own address, if the packet goes inside another one;
/// `spread`: what routers between may choose among equal ways by. `None`: it is no IP packet, or too long for its headers.
pub(super) fn of(
    packet: &[u8],
    way: &Way,
    next_hop: Mac,
    tunnel: Option<IpAddr>,
    spread: u16,
) -> Option<Vec<u8>> {
    let link = Link { dst: next_hop, src: way.source_mac, tags: way.tags };
    let v4 = packet.first()? >> 4 == 4;
    let length = u16::try_from(packet.len()).ok()?;
    let protocol = if v4 { IPIP } else { IPV6_IN_IP };
    let source = Addr::from(way.source);
    let mut frame = HostFrame::new(packet);
    match tunnel {
        None => link.reframe(&mut frame, 0, 0)?,
        Some(to @ IpAddr::V4(_)) => {
            link.reframe(&mut frame, 0, IPV4_OVERHEAD)?;
            // Its length counts itself.
            length.checked_add(IPV4_OVERHEAD)?;
            *frame.at_mut(link.length())? = outer_v4(&source, &Addr::from(to), 0, protocol, length);
        }
        Some(to @ IpAddr::V6(_)) => {
            link.reframe(&mut frame, 0, IPV6_OVERHEAD)?;
            let hash = u64::from(spread) << 44;
            *frame.at_mut(link.length())? = outer_v6(&source, &Addr::from(to), 0, protocol, length, hash);
        }
    }
    link.write(&mut frame, tunnel.map_or(v4, |to| to.is_ipv4()))?;
    Some(frame.bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use lb_common::abi::backend::{BackendRow, Control, Mode, NextHop};
    use lb_common::abi::egress::{EgressRow, Tags};
    use lb_common::abi::source::SourceRow;
    use lb_common::abi::vip::VipRow;
    use lb_common::be::Be16;
    use lb_common::datapath::forward::forward;
    use lb_common::datapath::host::HostTables;
    use lb_common::datapath::parse::{Parsed, parse};
    use lb_common::datapath::pipeline::Trail;
    use lb_common::datapath::wire::ipv4::Ipv4;
    use lb_common::hash::HashKey;

    use super::*;
    use crate::probe::via::datagram::echo_request;

    const NEXT_HOP: Mac = Mac::from_octets([2, 0, 0, 0, 0, 9]);
    /// Where routers spread by it: of the flow's hash there, of the port here.
    const LABEL: usize = 3;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn way(source: IpAddr, tags: Tags) -> Way {
        Way {
            next_hop_mac: Some(NEXT_HOP),
            ifindex: 7,
            mtu: 1_500,
            source_mac: Mac::from_octets([2, 0, 0, 0, 0, 1]),
            tags,
            source,
        }
    }

    /// What the packet path makes of the packet as a client's, which has a hop more before it.
    fn forwarded(mut packet: Vec<u8>, way: &Way, mode: Mode, backend: IpAddr) -> Vec<u8> {
        let v4 = packet[0] >> 4 == 4;
        if v4 {
            let header: &mut Ipv4 = bytemuck::from_bytes_mut(&mut packet[..20]);
            header.set_ttl(header.ttl + 1);
        } else {
            packet[7] += 1;
        }
        let mut tables = HostTables::new(HashKey([1, 2]), 1, 1);
        let control = Control::new(Control::ALIVE, mode, 1, 0, Be16::new(0));
        let row = BackendRow::default();
        row.control.store(control.0);
        row.next_hop.store(NextHop::new(NEXT_HOP, 1).0);
        row.addr.iter().zip(Addr::from(backend).words()).for_each(|(word, value)| word.store(value));
        tables.backends[1] = row;
        let egress = EgressRow::default();
        egress.source_mac.store(way.source_mac.0);
        egress.device.store(EgressRow::device_word(way.ifindex, way.mtu));
        egress.tags.store(way.tags.0);
        tables.egresses[1] = egress;
        let source = SourceRow::default();
        source.addr.iter().zip(Addr::from(way.source).words()).for_each(|(word, value)| word.store(value));
        tables.sources[1] = source;
        let ethertype: [u8; 2] = if v4 { [0x08, 0x00] } else { [0x86, 0xdd] };
        let mut frame = HostFrame::new(&[&[2; 6][..], &[4; 6], &ethertype, &packet].concat());
        let mut parsed = Parsed::default();
        parsed.begin(frame.linear());
        parse(&frame, &mut parsed).unwrap();
        forward(&mut frame, &parsed, &VipRow::default(), 1, &tables, &mut Trail::default()).unwrap();
        frame.bytes().to_vec()
    }

    #[test]
    fn a_probe_is_framed_as_the_packet_path_frames_a_client() {
        let (mut seen, own) = (0, [("10.0.0.9", "203.0.113.1"), ("fd00::9", "2001:db8::1")]);
        for (from, vip) in own {
            let packet = echo_request(ip(from), ip(vip), 4_711, *b"switches");
            for (source, backend) in [("10.0.0.1", "10.0.0.3"), ("fd00::1", "fd00::3")] {
                for (tags, l3) in [(Tags::NONE, 14), (Tags::one(7), 18), (Tags::two(100, 9), 22)] {
                    let way = way(ip(source), tags);
                    for (mode, tunnel) in [(Mode::L2, None), (Mode::Ipip, Some(ip(backend)))] {
                        let mut ours = of(&packet, &way, NEXT_HOP, tunnel, 4_711).unwrap();
                        let mut theirs = forwarded(packet.clone(), &way, mode, ip(backend));
                        if tunnel.is_some_and(|to| to.is_ipv6()) {
                            ours[l3 + 1..=l3 + LABEL].fill(0);
                            theirs[l3 + 1..=l3 + LABEL].fill(0);
                        }
                        assert_eq!(ours, theirs, "{from} {source} {tags:?} {mode:?}");
                        seen += 1;
                    }
                }
            }
        }
        assert_eq!(seen, 24);
        assert_eq!(of(&[], &way(ip("10.0.0.1"), Tags::NONE), NEXT_HOP, None, 0), None);
    }
}
