//! Probes by a vip's path against a backend that is a smoltcp host at the other end of the wire: what it gets are whole frames,
//! and it answers to the probe address as a backend does, past the node.

use std::collections::BTreeMap;
use std::sync::{OnceLock, Weak};
use std::time::Duration;

use lb_common::abi::egress::Tags;
use lb_control::health::Outcome;
use lb_control::probe::{Probe, ProbeKind, Via};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr,
    HardwareAddress, Icmpv6Packet, Icmpv6Repr, IpCidr, IpProtocol, Ipv6Packet, Ipv6Repr, NdiscRepr,
};

use super::*;
use crate::probe::plan::{Answer, Plan};
use crate::probe::tls::Roots;

const ID: BackendId = BackendId(7);
const NODE: [u8; 6] = [2, 0, 0, 0, 0, 1];
const BACKEND: [u8; 6] = [2, 0, 0, 0, 0, 3];
const DEVICE: u32 = 4;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A backend that has a vip, or lacks it, and serves HTTP there, or does not.
struct Backend {
    station: OnceLock<Weak<Station>>,
    host: Mutex<Host>,
    /// What it answers; `None`: it refuses connections.
    says: Option<&'static str>,
}

struct Host {
    interface: Interface,
    sockets: SocketSet<'static>,
    listener: SocketHandle,
    device: Cable,
    /// Whether its program ever saw a connection.
    seen: bool,
}

/// The backend's end of the wire.
#[derive(Default)]
struct Cable {
    comes: Option<Vec<u8>>,
    leaves: Vec<Vec<u8>>,
}

struct Comes(Vec<u8>);
struct Leaves<'a>(&'a mut Vec<Vec<u8>>);

impl Device for Cable {
    type RxToken<'a> = Comes;
    type TxToken<'a> = Leaves<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Comes, Leaves<'_>)> {
        Some((Comes(self.comes.take()?), Leaves(&mut self.leaves)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Leaves<'_>> {
        Some(Leaves(&mut self.leaves))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        (capabilities.medium, capabilities.max_transmission_unit) = (Medium::Ip, 1_500);
        // What comes is looked at; what leaves is as of a backend on the same machine.
        capabilities.checksum.tcp = Checksum::Rx;
        capabilities
    }
}

impl RxToken for Comes {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

impl TxToken for Leaves<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut packet = vec![0; length];
        let filled = fill(&mut packet);
        self.0.push(packet);
        filled
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Backend")
    }
}

impl Backend {
    fn new(has: IpAddr, says: Option<&'static str>) -> Self {
        let mut device = Cable::default();
        let mut interface = Interface::new(Config::new(HardwareAddress::Ip), &mut device, Instant::ZERO);
        interface.update_ip_addrs(|own| {
            own.push(IpCidr::new(has.into(), if has.is_ipv4() { 24 } else { 64 })).unwrap();
        });
        let _ = match has {
            IpAddr::V4(v4) => interface.routes_mut().add_default_ipv4_route(v4).map(drop),
            IpAddr::V6(v6) => interface.routes_mut().add_default_ipv6_route(v6).map(drop),
        };
        let buffer = || SocketBuffer::new(vec![0; 8_192]);
        let mut socket = Socket::new(buffer(), buffer());
        if says.is_some() {
            socket.listen(80).unwrap();
        }
        let mut sockets = SocketSet::new(Vec::new());
        let listener = sockets.add(socket);
        let host = Mutex::new(Host { interface, sockets, listener, device, seen: false });
        Self { station: OnceLock::new(), host, says }
    }

    /// Whether its program ever saw a connection, and what its socket is at.
    fn program(&self) -> (bool, State) {
        let host = self.host.lock().unwrap();
        (host.seen, host.sockets.get::<Socket<'_>>(host.listener).state())
    }

    /// Takes a packet in; what it sends, its program's answer too.
    fn take(&self, packet: &[u8]) -> Vec<Vec<u8>> {
        let host = &mut *self.host.lock().unwrap();
        let Host { interface, sockets, listener, device, seen } = host;
        device.comes = Some(packet.to_vec());
        interface.poll_ingress_single(Instant::ZERO, device, sockets);
        let socket = sockets.get_mut::<Socket<'_>>(*listener);
        *seen |= !matches!(socket.state(), State::Listen | State::SynReceived | State::Closed);
        if socket.can_recv() && socket.recv(|bytes| (bytes.len(), bytes.ends_with(b"\r\n\r\n"))).unwrap() {
            socket.send_slice(self.says.unwrap_or_default().as_bytes()).unwrap();
            socket.close();
        }
        while interface.poll_egress(Instant::ZERO, device, sockets) != smoltcp::iface::PollResult::None {}
        std::mem::take(&mut device.leaves)
    }
}

impl Air for Backend {
    fn send(&self, ifindex: u32, frame: &[u8]) -> io::Result<()> {
        assert_eq!((ifindex, &frame[..6], &frame[6..12]), (DEVICE, &BACKEND[..], &NODE[..]));
        let Some(station) = self.station.get().and_then(Weak::upgrade) else { return Ok(()) };
        for packet in self.take(&frame[14..]) {
            let ethertype: [u8; 2] = if packet[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] };
            let answer = [&NODE[..], &BACKEND, &ethertype, &packet].concat();
            if let Some(arrived) = arrival::of(&answer, &station.addresses) {
                station.deliver(arrived.port, arrived.from, arrived.inbound);
            }
        }
        Ok(())
    }
}

fn addresses() -> Addresses {
    Addresses::new(&[ip("10.0.0.9"), ip("fd00::9")]).unwrap()
}

fn way(next_hop_mac: Option<Mac>) -> Way {
    let source_mac = Mac::from_octets(NODE);
    let (tags, source) = (Tags::NONE, ip("10.0.0.1"));
    Way { next_hop_mac, ifindex: DEVICE, mtu: 1_500, source_mac, tags, source }
}

struct Stand {
    station: Arc<Station>,
    backend: Arc<Backend>,
    ways: watch::Sender<Ways>,
}

impl Stand {
    /// A backend that has the address `has`.
    fn new(has: &str, says: Option<&'static str>) -> Self {
        let backend = Arc::new(Backend::new(ip(has), says));
        let known = BTreeMap::from([(ID, Ok(way(Some(Mac::from_octets(BACKEND)))))]);
        let (ways, follow) = watch::channel(Ways::from(known));
        let station = Arc::new(Station::new(addresses(), backend.clone(), follow));
        backend.station.set(Arc::downgrade(&station)).unwrap();
        Self { station, backend, ways }
    }

    async fn ask(&self, vip: &str, probe: &Probe) -> io::Result<Answer> {
        let to = (ip(vip), 80).into();
        let road = Road::new(&self.station, to, ID, ip("10.0.0.3"), Mode::L2).unwrap();
        Plan::new(probe, &Roots::default()).unwrap().attempt_by(&road).await
    }
}

fn probe(kind: ProbeKind) -> Probe {
    Probe { via: Via::Vip, timeout_ms: 100, ..Probe::of_kind(kind) }
}

const WELL: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nwell";
const VIPS: [&str; 2] = ["203.0.113.1", "2001:db8::1"];

#[tokio::test]
async fn http_is_asked_at_the_vip_and_its_answer_judged() {
    for vip in VIPS {
        let stand = Stand::new(vip, Some(WELL));
        let body = Probe { body: Some("we.l".to_owned()), ..probe(ProbeKind::Http) };
        assert_eq!(stand.ask(vip, &body).await.unwrap(), Answer::success(), "{vip}");
        assert!(stand.station.waiting().is_empty(), "its port is given back");
        let stand =
            Stand::new(vip, Some("HTTP/1.1 503 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"));
        assert_eq!(stand.ask(vip, &body).await.unwrap().detail, "status 503");
    }
}

#[tokio::test]
async fn tcp_is_granted_or_refused_and_the_program_never_sees_it() {
    for vip in VIPS {
        let stand = Stand::new(vip, Some(WELL));
        assert_eq!(stand.ask(vip, &probe(ProbeKind::Tcp)).await.unwrap(), Answer::success(), "{vip}");
        let (seen, state) = stand.backend.program();
        assert!(!seen && state == State::Listen, "reset before it was established: {state}");
        let closed = Stand::new(vip, None);
        assert_eq!(closed.ask(vip, &probe(ProbeKind::Tcp)).await.unwrap().outcome, Outcome::Refused);
    }
}

#[tokio::test]
async fn who_lacks_the_vip_is_silent() {
    for (vip, other) in [(VIPS[0], "203.0.113.2"), (VIPS[1], "2001:db8::2")] {
        let stand = Stand::new(other, Some(WELL));
        let answer = stand.ask(vip, &probe(ProbeKind::Http)).await.unwrap();
        assert_eq!((answer.outcome, &*answer.detail), (Outcome::Timeout, "no answer in 100 ms"));
        assert!(stand.station.waiting().is_empty());
    }
}

#[tokio::test]
async fn without_a_way_an_attempt_waits_and_says_why_it_ended() {
    let stand = Stand::new(VIPS[0], Some(WELL));
    stand.ways.send_replace(Ways::from(BTreeMap::from([(ID, Err("no route".to_owned()))])));
    let answer = stand.ask(VIPS[0], &probe(ProbeKind::Tcp)).await.unwrap();
    assert_eq!((answer.outcome, &*answer.detail), (Outcome::Unreachable, "no way to it: no route"));
    stand.ways.send_replace(Ways::from(BTreeMap::from([(ID, Ok(way(None)))])));
    let patient = Probe { timeout_ms: 20_000, interval_ms: 30_000, ..probe(ProbeKind::Tcp) };
    let come = async {
        tokio::task::yield_now().await;
        let known = BTreeMap::from([(ID, Ok(way(Some(Mac::from_octets(BACKEND)))))]);
        stand.ways.send_replace(Ways::from(known));
    };
    let (answer, ()) = tokio::join!(stand.ask(VIPS[0], &patient), come);
    assert_eq!(answer.unwrap(), Answer::success());
}

#[tokio::test]
async fn an_icmp_error_about_what_was_sent_ends_the_wait() {
    let stand = Stand::new("203.0.113.2", None);
    let to = (ip(VIPS[0]), 53).into();
    let road = Road::new(&stand.station, to, ID, ip("10.0.0.3"), Mode::L2).unwrap();
    let asked = async { road.line().await.exchange(b"ping").await };
    let error = async {
        let port = loop {
            tokio::task::yield_now().await;
            if let Some(port) = stand.station.waiting().keys().next() {
                break *port;
            }
        };
        // A header of ours and the first 8 bytes of its UDP datagram, in "port unreachable" of a router.
        let mut quoted = vec![0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 9, 203, 0, 113, 1];
        quoted.extend(port.to_be_bytes());
        quoted.extend([0, 53, 0, 12, 0, 0]);
        let mut packet = vec![0x45, 0, 0, 56, 0, 0, 0, 0, 64, 1, 0, 0, 10, 0, 0, 254, 10, 0, 0, 9];
        packet.extend([3, 3, 0, 0, 0, 0, 0, 0]);
        packet.extend(quoted);
        let frame = [&NODE[..], &BACKEND, &[0x08, 0x00], &packet].concat();
        let arrived = arrival::of(&frame, &addresses()).unwrap();
        stand.station.deliver(arrived.port, arrived.from, arrived.inbound);
    };
    let (answer, ()) = tokio::join!(tokio::time::timeout(Duration::from_secs(20), asked), error);
    assert_eq!(answer.unwrap().unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn only_the_vip_answers_for_it() {
    let stand = Stand::new("203.0.113.2", None);
    let mut berth = Berth::take(&stand.station, ip(VIPS[0])).unwrap();
    for from in ["203.0.113.9", VIPS[0]] {
        stand.station.deliver(berth.port, ip(from), Inbound::Packet(from.into()));
    }
    let Ok(Inbound::Packet(first)) = berth.inbound.try_recv() else { panic!("nothing came") };
    assert_eq!(first, VIPS[0].as_bytes());
    // One that does not take its packets in time holds up nobody, and no more than so many.
    for _ in 0..2 * BERTH_PACKETS {
        stand.station.deliver(berth.port, ip(VIPS[0]), Inbound::Packet(Vec::new()));
    }
    assert_eq!(berth.inbound.len(), BERTH_PACKETS);
}

#[test]
fn what_is_for_others_is_nobodys() {
    let packet = datagram::echo_request(ip("203.0.113.1"), ip("10.0.0.8"), 4_711, *b"switches");
    let to_other = [&NODE[..], &BACKEND, &[0x08, 0x00], &packet].concat();
    assert!(arrival::of(&to_other, &addresses()).is_none());
    for length in 0..to_other.len() {
        assert!(arrival::of(&to_other[..length], &addresses()).is_none());
    }
}

#[test]
fn one_of_each_family_that_a_host_can_have() {
    assert!(Addresses::new(&[ip("10.0.0.9"), ip("10.0.0.8")]).is_err());
    for unfit in ["0.0.0.0", "127.0.0.1", "224.0.0.1", "169.254.0.1", "::", "fe80::1", "ff02::1"] {
        assert!(Addresses::new(&[ip(unfit)]).is_err(), "{unfit}");
    }
    let held = Addresses { v6: Some(std::net::Ipv6Addr::LOCALHOST), v4: None };
    let refused = held.check(&lb_control::state::State::default()).unwrap_err();
    assert!(refused.to_string().contains("on `lo`"), "{refused}");
}

#[test]
fn who_asks_for_a_probe_address_by_arp_is_told() {
    let asked = |target: &str| {
        let repr = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            source_hardware_addr: EthernetAddress(BACKEND),
            source_protocol_addr: "10.0.0.3".parse().unwrap(),
            target_hardware_addr: EthernetAddress([0; 6]),
            target_protocol_addr: target.parse().unwrap(),
        };
        let ethertype = EthernetProtocol::Arp;
        let (src_addr, dst_addr) = (EthernetAddress(BACKEND), EthernetAddress::BROADCAST);
        let header = EthernetRepr { src_addr, dst_addr, ethertype };
        let mut frame = vec![0; 14 + repr.buffer_len()];
        header.emit(&mut EthernetFrame::new_unchecked(&mut frame[..]));
        repr.emit(&mut ArpPacket::new_unchecked(&mut frame[14..]));
        neighbour::answer(&frame, &addresses(), NODE)
    };
    let answer = asked("10.0.0.9").unwrap();
    assert_eq!((&answer[..6], &answer[6..12]), (&BACKEND[..], &NODE[..]));
    let told = ArpRepr::parse(&ArpPacket::new_checked(&answer[14..]).unwrap()).unwrap();
    let wanted = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: EthernetAddress(NODE),
        source_protocol_addr: "10.0.0.9".parse().unwrap(),
        target_hardware_addr: EthernetAddress(BACKEND),
        target_protocol_addr: "10.0.0.3".parse().unwrap(),
    };
    assert_eq!(told, wanted);
    assert_eq!(asked("10.0.0.8"), None);
}

#[test]
fn who_asks_for_a_probe_address_by_neighbour_discovery_is_told() {
    let asked = |source: &str, target: &str| {
        let (src_addr, target_addr) = (source.parse().unwrap(), target.parse().unwrap());
        let group = neighbour::group(ip(target)).unwrap();
        let repr = Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr, lladdr: None });
        let payload_len = repr.buffer_len();
        let next_header = IpProtocol::Icmpv6;
        let header = Ipv6Repr { src_addr, dst_addr: group, next_header, payload_len, hop_limit: 255 };
        let mut frame = vec![0; 14 + 40 + payload_len];
        let ethernet = EthernetRepr {
            src_addr: EthernetAddress(BACKEND),
            dst_addr: EthernetAddress([0x33, 0x33, 0xff, 0, 0, 9]),
            ethertype: EthernetProtocol::Ipv6,
        };
        ethernet.emit(&mut EthernetFrame::new_unchecked(&mut frame[..]));
        header.emit(&mut Ipv6Packet::new_unchecked(&mut frame[14..]));
        let caps = smoltcp::phy::ChecksumCapabilities::default();
        repr.emit(&src_addr, &group, &mut Icmpv6Packet::new_unchecked(&mut frame[54..]), &caps);
        neighbour::answer(&frame, &addresses(), NODE)
    };
    for (source, to, to_mac) in [("fd00::3", "fd00::3", BACKEND), ("::", "ff02::1", [0x33, 0x33, 0, 0, 0, 1])]
    {
        let answer = asked(source, "fd00::9").unwrap();
        assert_eq!((&answer[..6], &answer[6..12]), (&to_mac[..], &NODE[..]));
        let packet = Ipv6Packet::new_checked(&answer[14..]).unwrap();
        assert_eq!((IpAddr::from(packet.dst_addr()), packet.hop_limit()), (ip(to), 255));
        let message = Icmpv6Packet::new_checked(packet.payload()).unwrap();
        let caps = smoltcp::phy::ChecksumCapabilities::default();
        let told = Icmpv6Repr::parse(&packet.src_addr(), &packet.dst_addr(), &message, &caps).unwrap();
        let Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert { target_addr, lladdr, .. }) = told else {
            panic!("{told:?}")
        };
        let own: smoltcp::wire::RawHardwareAddress = EthernetAddress(NODE).into();
        assert_eq!((IpAddr::from(target_addr), lladdr), (ip("fd00::9"), Some(own)));
    }
    assert_eq!(asked("fd00::3", "fd00::8"), None);
    assert_eq!(neighbour::group(ip("2001:db8::12:3456")), Some("ff02::1:ff12:3456".parse().unwrap()));
}
