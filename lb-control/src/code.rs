//! Every stable code of an error, in one list: its number, what it means and what to do.
//!
//! `lb explain LBnnnn` and the operator's manual print from here. A code, once released, keeps its meaning; a code
//! that is no longer used stays in the list. Ranges: 1000 commands (the caller's fault), 2000 the plan (tables that
//! are full), 3000 files and requests, 4000 the environment (kernel, rights, devices), 5000 the daemon.

use serde::{Serialize, Serializer};
use std::fmt;

macro_rules! codes {
    ($($id:ident $number:literal $short:literal $advice:literal;)*) => {
        /// A stable code. Shown and serialised as `LB1001`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $(#[doc = $short] $id = $number,)*
        }

        impl Code {
            /// Every code, in the order of the list.
            pub const ALL: &[Self] = &[$(Self::$id),*];

            /// What it means, in a few words.
            pub const fn short(self) -> &'static str {
                match self { $(Self::$id => $short,)* }
            }
            /// What to do about it.
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$id => $advice,)* }
            }
        }
    };
}

codes! {
    UnknownTenant 1001 "there is no such tenant"
        "`lb tenant list` shows the tenants; `lb tenant add NAME` makes one.";
    UnknownVip 1002 "there is no such vip"
        "`lb vip list` shows the vips; `lb vip add` makes one.";
    UnknownBackend 1003 "the vip has no such backend"
        "`lb backend list VIP` shows its backends; `lb backend add VIP/NAME ADDRESS` makes one.";
    DuplicateTenant 1004 "a tenant of that name exists"
        "Choose another name, or use the tenant that is there.";
    DuplicateVip 1005 "a vip of that name exists"
        "Choose another name, or change the vip that is there with `lb vip set`.";
    DuplicateBackend 1006 "the vip has a backend of that name"
        "Choose another name, or change the backend that is there with `lb backend`.";
    DuplicateBackendAddress 1007 "the vip has a backend at that address and port"
        "A backend stands in a pool once: give it a higher weight to send it more.";
    VipAddressTaken 1008 "another vip serves that address, port and protocol"
        "Choose another address or port, or remove the vip that holds it.";
    VipAddressOfOtherTenant 1009 "another tenant serves that address with an overlapping port"
        "A vip on all ports (port 0) and vips on single ports of one address must belong to one tenant.";
    BadName 1010 "a name must match [a-z0-9][a-z0-9-]{0,62}"
        "Use lower-case letters, digits and dashes, at most 63, and begin with a letter or digit.";
    BadVipAddress 1011 "the address cannot be a vip's"
        "A vip needs a unicast address that is neither unspecified, loopback nor link-local.";
    BadBackendAddress 1012 "the address cannot be a backend's"
        "A backend needs a unicast address that is neither unspecified, loopback nor link-local.";
    BackendIsVip 1013 "the backend's address is a vip's: packets would loop"
        "Give the backend's own address; the vip's address belongs on the backend's loopback device.";
    FamilyMismatch 1014 "vip and backend are of different address families"
        "Modes l2 and nat need one family. Use mode ipip, which carries either family in the other.";
    BackendPortInDirectReturn 1015 "the backend's port differs from the vip's, but the mode does not rewrite ports"
        "Leave the port out, or use mode nat.";
    BackendPortZero 1016 "port 0 of a backend needs a vip on all ports"
        "Leave the port out to use the vip's, or name the port that the backend listens on.";
    TrackingConflict 1017 "mode nat remembers every flow: tracking cannot be set otherwise"
        "Leave `tracking` out, or set it to \"always\".";
    BadTableSize 1018 "the table size must be a prime from 251 to 131071"
        "Leave it out for 65537, or take the prime that the message names.";
    TableSizeLive 1019 "the table size of a vip that has backends cannot change: flows would move"
        "Add a second vip with the new size and move the clients, or remove the backends first.";
    ModeLive 1020 "the mode of a vip that has backends cannot change: flows would break"
        "Add a second vip with the new mode and move the clients, or remove the backends first.";
    VipIdentity 1021 "address, port, protocol and tenant of a vip cannot change"
        "Remove the vip and add it anew, or add a second one under another name.";
    BackendIdentity 1022 "address and port of a backend cannot change"
        "Add the new address under another name, drain the old backend, then remove it.";
    WindowRange 1023 "the window must be from 1 to 86400 seconds"
        "Leave it out for 900 s (TCP) or 30 s (UDP).";
    IdleRange 1024 "the idle time must be from 1 to 65535 seconds"
        "Leave it out for 900 s (TCP) or 60 s (UDP).";
    ProbeRange 1025 "a setting of the probe is out of range"
        "interval_ms 50 to 3600000, timeout_ms 10 to 60000, rise and fall 1 to 100, retries 0 to 10.";
    ProbePort 1026 "the probe has no port to try"
        "Set `probe.port`, or `probe.kind` to \"none\": the backend serves all ports.";
    StatelessTcp 1027 "udp_stateless is for UDP vips"
        "Leave it out: a TCP flow is always kept.";
    TenantNotEmpty 1028 "the tenant has vips"
        "Remove its vips first.";
    DefaultTenant 1029 "the tenant `default` always exists"
        "Leave it: vips that name no tenant belong to it.";
    Disruption 1030 "the change would end or turn away traffic"
        "Look at `lb plan`; say --allow-disruption if it is meant. Draining backends one by one needs it not.";
    Capacity 1031 "a table is full"
        "Remove what is no longer needed, or start anew with a larger --max-… for it.";
    WeightRange 1032 "the weight must be from 0 to 65535"
        "0 takes no new flows; weights count relative to the other backends of the vip.";
    NothingToSet 1033 "the command names no setting"
        "Name at least one setting to change.";
    KeyReused 1034 "the idempotency key came with another command before"
        "A key stands for one command: leave it out, or make a new one for each (`lb` does so by itself).";
    Stale 1035 "what the command touches has changed since"
        "Look at it again, then send the command with the revision that the message names, or without one.";
    AppliedUnread 1095 "the command was applied before, but its record cannot be read"
        "It is in force: do not send it with another key. `lb history` says what became of it; `lb log verify` whether the journal is damaged.";
    BreakerRange 1050 "a setting of the breaker is out of range, or contradicts another"
        "docs/guide/config.md lists the settings with their ranges; `lb vip show` shows those of a vip.";
    BackupFixed 1051 "whether a backend is a backup cannot change"
        "Add it under another name as what it shall be, drain this one, then remove it.";
    ProbeTimeout 1060 "the probe's timeout is not shorter than its interval"
        "Raise `interval_ms` or lower `timeout_ms`: a probe ends before the next begins.";
    ProbeForeign 1061 "the setting belongs to another kind of probe"
        "path, host, status and body are for http and https; sni and verify for https and tls; send and expect for udp; via for all but none.";
    ProbePath 1062 "the path of the probe is not of its form"
        "Begin it with `/`, and write what is neither a letter, a digit nor a mark of ASCII as %XX.";
    ProbeHost 1063 "a name in the probe is not of its form"
        "`host` is a name or address, with a port if need be; `sni` is a name.";
    ProbeStatus 1064 "the statuses of the probe are not of their form"
        "Numbers and ranges from 100 to 599 between commas, such as `200-299,301`.";
    ProbeBody 1065 "the regular expression of the probe cannot be used"
        "docs.rs/regex shows its form: no look-around, no back references, so that matching takes bounded time.";
    ProbePayload 1066 "a payload of the probe cannot be sent or expected"
        "1 to 1024 bytes: text as it stands, or hexadecimal digits after `hex:`, such as `hex:00ff`.";
    ProbeUnsaid 1067 "the UDP probe does not say what to send"
        "Set `probe.send` to something that the backend answers.";
    ProbeViaNat 1068 "a probe by the vip's path needs a mode with direct return"
        "Leave `via` out: by mode nat the backend's own address is the vip's path. Modes l2 and ipip have another one.";
    AlgorithmTracking 1070 "the algorithm remembers every flow: tracking cannot be set otherwise"
        "Leave `tracking` out, or set it to \"always\".";
    AlgorithmLive 1071 "by flow or by source address cannot change on a vip that has backends: flows would break"
        "Add a second vip with the other algorithm and move the clients, or remove the backends first.";
    FallbackUnknown 1080 "the vip that it falls back on does not exist"
        "Name a vip of the same tenant, or end it with an empty name: `lb vip set NAME --fallback ''`.";
    FallbackCycle 1081 "a vip falls back on itself, by way of others or not"
        "Name a vip that does not fall back on this one.";
    FallbackTenant 1082 "the vip that it falls back on is another tenant's"
        "Name a vip of the same tenant.";
    FallbackKind 1083 "the vip that it falls back on has another mode, protocol or address family"
        "Its backends get the packets of this vip as they would of their own: make both alike.";
    TimeoutRange 1072 "a time of the balancing is out of range"
        "affinity_s 1 to 65535; syn_s and closing_s 1 to 255. Leave them out for 600, 30 and 10 s.";

    TenantLimitRange 1040 "a limit of the tenant is out of range"
        "The message names the range; leave the limit out, or say `unlimited` for it, to have none.";
    TenantBurst 1041 "a burst of 0 ms lets nothing through"
        "burst_ms is from 1 to 10000; leave it out for 100.";
    TenantShare 1042 "a share must be from 1 to 100 percent"
        "Leave it out to give the tenant what there is.";
    TenantQuota 1043 "the quota is below what the tenant has"
        "Remove what is too much first, or set a quota that holds what there is.";
    VipQuota 1044 "the tenant has as many vips as it may"
        "`lb tenant show NAME` shows its quotas; `lb tenant set NAME --vips N` raises this one.";
    BackendQuota 1045 "the tenant has as many backends as it may"
        "`lb tenant show NAME` shows its quotas; `lb tenant set NAME --backends N` raises this one.";

    VipRowsFull 2001 "no free row for a vip"
        "It goes in by itself when the row of a vip that was removed is free, moments later; else start anew with a larger --max-vips.";
    BackendRowsFull 2002 "no free row for a backend"
        "It goes in by itself when the row of a backend that was removed is free, moments later; else start anew with a larger --max-backends.";
    SlotsFull 2003 "no room for a vip's table in one piece"
        "Ask for a smaller table, remove a vip, or start anew with a larger --max-slots.";
    EgressRowsFull 2004 "no free row for a way out of the node"
        "Fewer distinct devices and VLANs are supported than the routes name.";
    SourcesFull 2005 "no free number for a source address of the node"
        "Route the backends so that fewer of the node's own addresses are used, or raise --max-sources.";
    SourceIsVip 2006 "the node's own address towards a backend by NAT is a vip's"
        "The vip would take the backend's replies for clients' packets. Give the node another address, and its route to the backend that one as `src`.";

    TenantRowsFull 2010 "no free row for a tenant with limits"
        "The tenant is not limited until there is one: take the limits of another away.";

    ConfigFile 3001 "the file cannot be read"
        "Check its name and your rights; `-` reads standard input.";
    ConfigSyntax 3002 "the file is not TOML"
        "The caret shows where it ends to be TOML (toml.io); docs/guide/config.md has an example.";
    ConfigKey 3003 "the file has a key that does not exist"
        "Keys are listed in docs/guide/config.md; nothing is ignored.";
    ConfigValue 3004 "a value in the file cannot be"
        "The message says what can stand there.";
    BadAddress 3005 "an address is not of its form"
        "A vip is ADDRESS:PORT/PROTOCOL, such as 203.0.113.10:80/tcp or [2001:db8::10]:53/udp; a backend or client is ADDRESS or ADDRESS:PORT.";
    BadTarget 3006 "a backend is not named as VIP/BACKEND"
        "Name it as `web/b1`; `lb backend list` shows all of them.";
    BadRequest 3007 "the request is not of its form"
        "docs/guide/api.md shows each request.";
    BodyTooLarge 3008 "the request's body is too large"
        "A command takes 1 MiB, a document of `apply` or `plan` 64 MiB.";
    BodyTimeout 3009 "the request's body did not arrive in time"
        "Send the whole body within 30 s.";
    NoRoute 3010 "there is no such path"
        "docs/guide/api.md lists the paths.";
    UnknownCode 3011 "there is no such code"
        "docs/guide/errors.md lists every code.";
    DaemonConfig 3012 "a setting of the daemon cannot be"
        "`lb serve --help` lists the settings with their units and ranges.";
    Usage 3013 "the command line is not of its form"
        "`lb --help`, and --help after any command, show what it takes.";

    BadMoment 3020 "a point in the past is not of its form"
        "Give a revision (`42`), a time (`2026-11-26T09:30:00Z`, `2026-11-26 09:30`, both UTC) or a distance (`10m ago`).";
    RevisionAhead 3021 "the log has not come to that revision yet"
        "`lb history` shows the revisions; `lb log head` the last one.";
    BadObject 3022 "an object is not named as it should be"
        "Name it as `vip web`, `backend web/b1`, `tenant acme` or `bypass`.";
    UnknownProjection 3023 "there is no such projection"
        "`lb projection list` shows them.";
    UnknownField 3024 "the object has no such field"
        "`lb blame vip NAME` or `lb blame backend VIP/NAME` shows its fields.";
    HealthListen 3035 "the address for /readyz and /metrics cannot be used"
        "Name a free ADDRESS:PORT of this node with --health-listen, or leave it out.";
    ProbeAddress 3036 "an address for probes cannot be used"
        "Name one that nobody has, this node neither, once for each family: of the subnet that backends are in, or one that is routed to this node.";

    CommandRate 3030 "too many commands came at once"
        "This request changed nothing. Wait as long as the header Retry-After says, or put the changes into one document for `lb apply`.";

    NoDataPlane 4001 "this `lb` was built without its data plane"
        "Run `cargo xtask build`.";
    NoPrivilege 4002 "a privilege is missing"
        "Run as root, or give `lb` CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON.";
    NoBpffs 4003 "there is no BPF file system to pin in"
        "Mount it: `mount -t bpf -o mode=700 bpf /sys/fs/bpf`.";
    PinsHeld 4004 "another daemon holds the pinned data plane"
        "Stop that daemon, or give this one another --pin-dir.";
    OtherAbi 4005 "what is pinned is of another version"
        "Use the `lb` that made it, or detach the devices, remove the pin directory and start anew.";
    ObjectRefused 4006 "the kernel refused the data plane's program"
        "What ran before runs on. `cargo xtask verify` shows what the verifier says.";
    KernelCall 4007 "a call to the kernel failed"
        "What ran before runs on; it is tried again. `dmesg` may say more.";
    MapFull 4008 "a map is full, or a row lies beyond its end"
        "Remove what is no longer needed, or start anew with a larger --max-… for it.";
    NoDevice 4009 "there is no such device"
        "`ip link` shows the devices of this network namespace.";
    DeviceTaken 4010 "another XDP program has the device"
        "Detach it first, or say --replace to put the balancer in its place.";
    NoNativeXdp 4011 "the device's driver does not run XDP natively"
        "`--mode generic` works on any device, at a fraction of the speed.";
    KernelTooOld 4012 "the kernel is too old for the balancer's program"
        "Linux 5.18 or later is needed.";
    NotAttached 4013 "the device is not attached"
        "`lb status` shows the devices that are.";
    DeviceUnfit 4014 "the device cannot carry the balancer's packets"
        "Attach to an Ethernet device.";
    SelftestFailed 4015 "the loaded program answered a known packet wrongly"
        "Forwarding may be wrong: `lb bypass on` lets every packet pass; please report it.";
    BadCapacity 4016 "a capacity is out of range"
        "See the limits in `lb serve --help`.";
    SlotsContended 4017 "slots change as often as they are planned"
        "It is tried again. If it stays, something else writes to the maps: is there a second daemon?";
    PinsForeign 4018 "the pin directory is another user's, or others may write to it"
        "Whoever writes there can stop the forwarding. Remove it and start again, or name another one with --pin-dir.";

    NoDaemon 5001 "no daemon answers"
        "Start one as root with `lb serve`, or name its socket with --socket.";
    NoAnswer 5002 "the daemon did not give an answer that can be read"
        "Look at the daemon's own messages; is it of the same version?";
    NoPermission 5003 "this user may not do that"
        "Run as root or as a member of the group that the socket belongs to.";
    StateHeld 5004 "another daemon holds the directory"
        "Stop the other daemon first, or give this one directories of its own (--state-dir, --pin-dir).";
    StateDir 5005 "the state directory cannot be used"
        "It must be a directory that the daemon may write; --state-dir names another.";
    Socket 5006 "the socket cannot be made"
        "Its directory must be one that the daemon may write; --socket names another.";
    SocketTaken 5007 "another process listens on the socket"
        "Stop it first, or name another socket with --socket.";
    JournalRefused 5008 "the journal could not take the command"
        "Nothing was changed. Check the disk of the state directory (full, read-only, failing), then try again.";
    JournalDamaged 5009 "the journal is damaged"
        "Forwarding goes on as it was. Put back a copy of the file that the message names; without one, `lb log repair --truncate-at REVISION` ends the journal before the damage (the message says up to which revision it is whole) and keeps what it takes away.";
    JournalForeign 5010 "the journal was written by another version"
        "Start the version that wrote it, or name another directory with --state-dir.";
    Ending 5011 "the daemon is ending"
        "Try again when it runs.";
    WaitTimeout 5012 "what was waited for did not come about in time"
        "It may still: `lb status` shows how far it is.";
    Unhealthy 5013 "what was looked at is not well"
        "The message and `lb status` say what is wrong.";
    Pending 5014 "accepted and durable, but the maps do not have it yet"
        "The daemon goes on trying; the message says what is in the way.";
    JournalLost 5015 "the maps serve vips that the journal does not know"
        "Forwarding goes on as it was. Put the journal back (is --state-dir right?); or, to stop its forwarding and start anew, remove the pin directory.";
    OutcomeUnknown 5016 "whether the change was made is not known"
        "Send it again with the same Idempotency-Key: it is applied once, whatever became of the first one. `lb` does so by itself.";
    JournalAway 5017 "the journal cannot be read"
        "This request changed nothing. Forwarding goes on; the daemon tries again by itself. Its messages and `lb status` say what is wrong with the state directory.";
    JournalArchived 5020 "what is asked for was archived, and is no longer in the archive"
        "Put the segments that were taken away back into `journal/archive/` in the state directory. A start that lacks them because every snapshot is gone or damaged needs them beside the others, in `journal/`.";
    ViewBehind 5030 "the view did not come to the wanted revision in time"
        "Ask again, or for an earlier revision; `lb status` shows how far the views are behind.";
    TooManyFollowers 5031 "too many already follow the events"
        "End one of those that watch (`lb watch`), then try again.";
    LogUnread 5032 "the log could not be read there"
        "`lb log verify` says whether it is damaged; what is decided and forwarded goes on.";
    ProbeAddressLacking 5033 "a probe by the vip's path has no address to ask from"
        "Start `lb serve` with --probe-address for the vip's family. Until then backends are asked at their own addresses.";
    Bug 5099 "a bug in lb"
        "Please report it with the daemon's messages.";
}

impl Code {
    /// Its number.
    pub const fn number(self) -> u16 {
        self as u16
    }
    /// The code that is written `LB1001` (or `1001`); case does not matter.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.get(..2).filter(|p| p.eq_ignore_ascii_case("lb")).map_or(text, |_| &text[2..]);
        let number: u16 = digits.parse().ok()?;
        Self::ALL.iter().copied().find(|code| code.number() == number)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LB{:04}", self.number())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_distinct_and_round_trip() {
        for (index, code) in Code::ALL.iter().enumerate() {
            assert!(Code::ALL[index + 1..].iter().all(|other| other.number() != code.number()));
            assert_eq!(Code::parse(&code.to_string()), Some(*code));
            assert!(
                !code.short().is_empty() && code.advice().ends_with(['.', '?']),
                "{code}: {}",
                code.advice()
            );
        }
        assert_eq!(Code::parse("lb1002"), Some(Code::UnknownVip));
        assert_eq!(Code::parse("1002"), Some(Code::UnknownVip));
        for bad in ["", "LB", "LB9999", "é1", "LBé"] {
            assert_eq!(Code::parse(bad), None);
        }
    }
}
