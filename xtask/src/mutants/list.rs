//! The mutations: each is a mistake that somebody could make. Only texts; nothing is run here.

use super::Mutation;

macro_rules! mutations {
    ($($file:literal { $($breaks:literal: $from:literal => $to:literal;)* })*) => {
        /// All of them.
        pub(super) const MUTATIONS: &[Mutation] =
            &[$($(Mutation { file: $file, from: $from, to: $to, breaks: $breaks },)*)*];
    };
}

mutations! {
    "abi/nat.rs" {
        "a closed flow's port is free at once": "live_s, NAT_CLOSING_S + 1," => "live_s, 0,";
        "a beginning lasts as long as a flow":
            "if udp || idle_s < SYN_TIMEOUT_S { idle_s } else { SYN_TIMEOUT_S }" => "idle_s";
        "UDP's flows are beginnings that end early": "if udp || idle_s < SYN_TIMEOUT_S {" => "if idle_s < SYN_TIMEOUT_S {";
        "a row that is being filled is free": "[0, u32::MAX, live_s," => "[0, 0, live_s,";
        "another CPU's next second counts as 136 years": "if age > i32::MAX as u32 { 0 } else { age }" => "age";
        "a reply carries the priority of a tag": "(tags.first() as u64 & 0xfff) << 36" => "(tags.first() as u64) << 36";
    }
    "abi/mark.rs" {
        "every flow is sampled": "if place < SYN_MARKS { Some(place) } else { None }" => "Some(place % SYN_MARKS)";
        "a SYN to another backend came again": "Self(backend_row as u64 | (hash" => "Self(1 + 0 * backend_row as u64 | (hash";
    }
    "datapath/refuse.rs" {
        "a reset acknowledges nothing of the SYN": "let length = u32::from(data) + 1 + " => "let length = u32::from(data) + ";
        "a reset forgets the data of a SYN": "let length = u32::from(data) + 1 + " => "let length = 1 + 0 * u32::from(data) + ";
        "a reset forgets the FIN of a SYN": "+ 1 + u32::from(parsed.tcp_flags & FIN);" => "+ 1 + u32::from(parsed.tcp_flags & FIN & 0);";
        "a reset comes from the client's port": "Ports { src: flow.dst_port, dst: flow.src_port }"
            => "Ports { src: flow.src_port, dst: flow.dst_port }";
        "every vip refuses": "vip.unserved.load() == VipRow::REFUSED" => "vip.unserved.load() <= VipRow::REFUSED";
        "a tenant's limit is answered with a reset": "asked && trail.refusal == Reason::NoBackend &&" => "asked &&";
        "an ICMP error is answered with another": "&& parsed.content == Content::Segment;" => ";";
        "whatever is no SYN is reset": "if refused && parsed.is_syn() {" => "if refused && parsed.tcp_flags != 0 {";
        "resets have no limit": "if !allowed(&parsed.flow.src, Answer::Refusal, tables) {" => "if false {";
        "a reset is sent on": "    turn_round(packet)\n}" => "    Some(())\n}";
    }
    "datapath/signal.rs" {
        "every packet is a SYN": "    if parsed.is_syn() {\n        tables.count_signal(Signal::Syn" => "    if true {\n        tables.count_signal(Signal::Syn";
        "what a packet before left says that a SYN came again": "trail.choice == Choice::Remembered && trail.moves" => "trail.moves";
        "every SYN of a remembered flow came again": "&& trail.moves.repeated() {" => "{";
        "a SYN that is sampled leaves no mark": "    word.store(mark.0);\n" => "";
        "every SYN that is sampled came again": "let again = word.load() == mark.0;" => "let again = word.load() != 1;";
        "a remembered SYN is sampled too": "trail.choice == Choice::Slot && came_again" => "came_again";
        "the reset of a connection counts as a refusal": "RST | ACK && parsed.sequence == 0 {" => "RST | ACK {";
        "a packet that is too big counts as unreachable": "Content::Error && parsed.unreachable {" => "Content::Error {";
    }
    "datapath/nat.rs" {
        "UDP without a checksum gets one": "if checksum.raw() != 0 {" => "if true {";
        "a UDP checksum may become 0": "if sum.raw() == 0 { Be16::from_raw(0xffff) } else { sum }" => "sum";
        "a reply's port is not checked": "row.address() == parsed.flow.src && port == parsed.flow.src_port"
            => "row.address() == parsed.flow.src";
        "a reply's address is not checked": "row.address() == parsed.flow.src && port == parsed.flow.src_port"
            => "port == parsed.flow.src_port";
        "the quoted header's checksum is not counted":
            "change = change.replace(inner_before, inner_after);" => "let _ = (inner_before, inner_after);";
        "an ICMP error takes a port": "if !parsed.teaches() {\n        return Err(Halt::drop(Reason::IcmpQuote));"
            => "if false {\n        return Err(Halt::drop(Reason::IcmpQuote));";
        "two clients of one port share a row": "        | (row.client[1].load() ^ client[1])\n" => "";
        "two vips' flows share a row": "        | (row.vip[1].load() ^ vip[1])\n" => "";
        "two ports of a client share a row": "u64::from(row.ports.load() as u32 ^ pair)" => "0 * u64::from(pair)";
        "a free row is taken for a flow": "differs == 0 && word.is_flow()" => "differs == 0";
        "another backend's flow is taken for this one's": "word.backend() == search.backend && is_flow(" => "is_flow(";
        "a live flow's port is given away": "age_s >= self.rest_s[word.state_bits()] ||" => "true ||";
        "a dead backend's ports stay taken": "(word.is_flow() && !alive(word.backend(), tables))" => "false";
        "a port rests for nobody": "if age_s > NAT_REST_S { RESTED } else { FREE }" => "FREE";
        "a flood keeps what it took": "if word.yields() {" => "if false {";
        "the youngest beginning yields": "YIELDS + u64::from(age_s)" => "FREE - 1 - u64::from(age_s)";
        "a port that another flow just took is taken again":
            "if search.rank(old, tables) < search.best_rank || !search" => "if !search";
        "a lost claim counts as won": "|| !search.claim(row, old, tables)" => "|| (search.claim(row, old, tables) && false)";
        "a new flow begins as a live one": "search.control(NatState::Opening, old)" => "search.control(NatState::Live, old)";
        "a flow that goes on stays a beginning": "        Opening => Live,\n" => "        Opening => Opening,\n";
        "the backend's answer ends a beginning": "        Opening if !from_client => Opening,\n" => "";
        "a closed flow cannot begin again": "        _ if begins => Opening,\n" => "";
        "a SYN that comes again makes a flow a beginning": "        Live if begins => Live,\n" => "";
        "one side's FIN ends the flow": "        _ if parsed.closes() => own," => "        _ if parsed.closes() => Closing,";
        "the second FIN ends nothing": "        _ if parsed.closes() && state == other => Closing,\n" => "";
        "a reset ends a flow at once": "        _ if parsed.resets() => Reset," => "        _ if parsed.resets() => Closing,";
        "a reset makes more of a closed flow": "        Opening | Closing if parsed.resets() => Closing,\n" => "";
        "data does not take a forged end back": "        Closing | Reset if parsed.has_data => Live,\n" => "";
        "the last acknowledgement revives a flow": "Closing | Reset if parsed.has_data => Live," => "Closing | Reset => Live,";
        "a FIN after the end opens a half": "        Closing | Reset if parsed.closes() => state,\n" => "";
        "the way back stays the first one": "if (due || moved(row, parsed, &back, tables))" => "if false";
        "the way back keeps the device": "        | u64::from(out.ifindex() ^ tables.ingress_ifindex());" => ";";
        "the way back keeps the node's MAC": "        | row.own_mac.load() ^ back.src.0\n" => "";
        "the way back keeps the device's old row": "if (due || moved(" => "if (moved(";
        "a reply larger than the client's side is sent": "if parsed.ip_length > out.mtu() {" => "if false {";
        "a reply's last hop is forwarded": "    if hops_left(packet, parsed)? <= 1 {" => "    if false {";
    }
    "datapath/wire/checksum.rs" {
        "the fold forgets the upper half": "let mut sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);"
            => "let mut sum = self.0 & 0xffff_ffff;";
        "a replaced unit is added instead of taken away": "self.add(!old).add(new)" => "self.add(old).add(new)";
        "an address counts for its last word only": "if old.is_v4() {" => "if true {";
    }
    "datapath/wire/ipv4.rs" {
        "the TTL stays": "self.set_ttl(self.ttl.wrapping_sub(1));" => "self.set_ttl(self.ttl);";
        "a first fragment is none": "self.fragment.host() & (MF | OFFSET) != 0"
            => "self.fragment.host() & OFFSET != 0";
        "the checksum misses a changed TOS": "let old = u16::from_ne_bytes([self.version_ihl, self.tos]);"
            => "let old = u16::from_ne_bytes([self.version_ihl, tos]);";
    }
    "abi/slot.rs" {
        "current and previous are swapped": "    pub const fn current(self) -> u16 {\n        self.0 as u16"
            => "    pub const fn current(self) -> u16 {\n        (self.0 >> 16) as u16";
        "the deadline is compared the wrong way round": "1 if now_s < self.deadline_s()"
            => "1 if now_s >= self.deadline_s()";
        "a change while moving forgets the first backend":
            "Self::moving(current, self.previous(), self.deadline_s())"
            => "Self::moving(current, self.current(), self.deadline_s())";
        "a change while moving begins a new window":
            "Self::moving(current, self.previous(), self.deadline_s())"
            => "Self::moving(current, self.previous(), now_s + window_s)";
        "a change after the previous backend's death has no window":
            "Self::pinned(self.current()).transition(current, now_s, window_s, alive)"
            => "Self::pinned(current)";
        "a change has no window": "Self::moving(current, self.current(), deadline_s)" => "Self::stable(current)";
        "a slot is stable as its backend dies": "Phase::Stable if self.current() == 0 =>" => "Phase::Stable =>";
        "a change in a window's last second is within it": "self.phase(now_s.saturating_add(WINDOW_SLACK_S))"
            => "self.phase(now_s)";
        "a window that is over is written": "self.0 >> 62 != 1 || now_s < self.deadline_s()" => "true";
    }
    "abi/counter.rs" {
        "the meter never runs dry": "let allowed = refilled >= PACKET;" => "let allowed = true;";
    }
    "datapath/connection.rs" {
        "a failed insert is ignored": "    if previous != 0 {\n        trail.choice = Choice::Previous;" => "    if false {\n        trail.choice = Choice::Previous;";
        "older connections go to the new backend": "let old = previous != 0 && !newcomer;"
            => "let old = previous != 0 && newcomer;";
        "new connections are not remembered": "(previous != 0 && (old || parsed.is_syn()))"
            => "(previous != 0 && old)";
        "older connections are not remembered": "(previous != 0 && (old || parsed.is_syn()))"
            => "(previous != 0 && parsed.is_syn())";
        "a dead previous backend is sent to":
            "if moving && alive(slot.previous(), tables) { slot.previous() }" => "if moving { slot.previous() }";
        "the window has no end": "let moving = slot.phase(now_s) == Phase::Moving;"
            => "let moving = slot.phase(now_s) != Phase::Stable;";
        "hearsay is remembered": "let remember = parsed.teaches()\n" => "let remember = true\n";
        "tracking always tracks nothing in a stable slot": "(slot.is_stable() && !policy.always())"
            => "slot.is_stable()";
    }
    "datapath/flow_table.rs" {
        "a dead backend's entry is a hit": "if !control(way.entry.backend(), tables).alive() {" => "if false {";
        "the SYN's window is ignored": "<= SYN_WINDOW" => "<= u32::MAX";
        "a SYN never times out": "&& trace.age_s(flow.now_s) < flow.policy.syn_s()" => "";
        "probation never ends": "EntryState::Probation if age_s < PROBATION_S =>" => "EntryState::Probation =>";
        "a close is never taken back": "EntryState::Closing if !parsed.has_data && !parsed.is_syn() =>"
            => "EntryState::Closing =>";
        "a flood pushes confirmed connections out": "if worth < Worth::Keep as u64 && rank < least {"
            => "if rank < least {";
        "a new connection dies with the old one's entry": "    refresh(older, flow, parsed, tables)\n}"
            => "    row\n}";
        "a draining backend gets new connections": "&& !control(row, tables).takes_new()\n" => "&& false\n";
        "any entry of the bucket is the flow's": "way.entry.is_flow() && way.entry.same_flow(wanted)"
            => "way.entry.is_flow() && wanted == wanted";
    }
    "datapath/parse.rs" {
        "IPv4's length is not checked": "if !parsed.reaches(packet, u32::from(parsed.l3) + u32::from(total)) {"
            => "if false {";
        "a TCP header may end beyond the packet": "|| header_length > left" => "";
        "a UDP length may lie": "|| length > left" => "";
        "a fragment has the protocol of the packet before it": "parsed.flow.protocol = next;" => "";
        "fragments are taken for whole": "if header.is_fragment() {" => "if false {";
        "extension headers may end beyond the packet": "if skipped > payload {" => "if false {";
        "an ICMP error may quote another's packet": "if src != parsed.flow.dst {" => "if false {";
        "a group address is taken for ours": "if to_group {" => "if false {";
    }
    "datapath/vip.rs" {
        "a key that leads to another vip's row is believed": "same.then_some(vip)" => "(same || true).then_some(vip)";
        "a note counts for every key with its index": "in_row(trail.vip_row, key, tables)"
            => "in_row(trail.vip_row, key, tables).or(tables.vip(trail.vip_row).filter(|vip| vip.key.load() != 0))";
        "where a key led is not noted": "hint.store(row.into());" => "let _ = hint;";
        "a withdrawn row is found": "vip.key.load() == VipRow" => "vip.key.load() | VipRow::FOUND == VipRow";
        "fragments to a vip pass": "Content::Unusable if mark.is_address() =>" => "Content::Unusable if false =>";
    }
    "datapath/forward.rs" {
        "a tunnel's overhead is ignored":
            "u32::from(parsed.ip_length) + u32::from(overhead) > u32::from(way.mtu)"
            => "u32::from(parsed.ip_length) > u32::from(way.mtu)";
        "the MTU that is told ignores the overhead": "way.mtu.saturating_sub(overhead)" => "way.mtu";
        "the last hop is forwarded": "if hops_left(packet, parsed)? <= 1 {" => "if hops_left(packet, parsed)? < 1 {";
        "the hop limit stays": ".hop_limit -= 1;" => ".hop_limit -= 0;";
        "DSCP and ECN are not copied outwards": "tos: class," => "tos: 0,";
        "a dead backend is sent to": "if !control.alive() {" => "if false {";
        "every backend is on the same device": "if ifindex == tables.ingress_ifindex() {" => "if true {";
    }
    "datapath/link.rs" {
        "the inner VLAN tag is the outer one": "Be16::new(self.tags.second())" => "Be16::new(self.tags.first())";
        "one VLAN tag has no room": "1 => ETHERNET + VLAN_TAG," => "1 => ETHERNET,";
        "an answer goes back without its tag": "VLAN_TAG => Tags::one(tci(ETHERNET)?).with_unusual(ad)," => "VLAN_TAG => Tags::NONE,";
        "an answer's outer tag is always of the usual kind": "_ if self.tags.is_ad() => TYPE_QINQ," => "2 => TYPE_QINQ,";
    }
    "datapath/icmp.rs" {
        "groups are answered": "!group && tables.with_icmp_meter(" => "tables.with_icmp_meter(";
        "pings use up what tells the MTU": "tables.with_icmp_meter(of, |" => "tables.with_icmp_meter(Answer::Signpost, |";
        "errors are answered with errors": "if !df || parsed.content != Content::Segment {" => "if !df {";
        "an MTU under the floor is told": "let mtu = if mtu < floor { floor } else { mtu };" => "";
        "the answer's checksum misses its pseudo header": "pseudo.join(icmp_header(error))" => "icmp_header(error)";
    }
    "datapath/select.rs" {
        "vips of one address share the entry of a client": "source_hash(parsed, tables) ^ of_vip" => "source_hash(parsed, tables) ^ of_vip & 0";
    }
    "datapath/decap.rs" {
        "anybody may tunnel": "if !tables.decap_peer(&outer.flow.src) {" => "if false {";
        "any destination comes out": "if !tables.decap_vip(&inner.dst) {" => "if false {";
        "a congestion mark that cannot be carried is lost": "if inner.ecn == NOT_ECT {" => "if false {";
        "the inner packet may be longer than the outer": "|| total > room" => "";
        "a tunnel in a tunnel is opened": "total < length || total > room || tunnel" => "total < length || total > room";
    }
}
