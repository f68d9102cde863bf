//! Which keys the file has and what may stand in each: one table, from which the reader, the manual's list and the
//! suggestions for misspelt keys are made. Ranges are not here: the daemon checks them, once, for files and commands.

/// A table of the file.
#[derive(Debug)]
pub struct Table {
    /// What it describes, for messages.
    pub what: &'static str,
    /// Its keys.
    pub keys: &'static [Key],
}

/// A key of a table.
#[derive(Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What may stand there.
    pub kind: Kind,
    /// Whether it must be there.
    pub required: bool,
}

/// What may stand at a key.
#[derive(Debug)]
pub enum Kind {
    /// Text.
    Text,
    /// An IPv4 or IPv6 address, as text.
    Address,
    /// A whole number from 0 to this.
    Integer(u32),
    /// A whole number from 0 to this, which may be large.
    Large(u64),
    /// `true` or `false`.
    Flag,
    /// One of these texts.
    OneOf(&'static [&'static str]),
    /// A table.
    Table(&'static Table),
    /// An array of tables.
    List(&'static Table),
}

const PORT: Kind = Kind::Integer(u16::MAX as u32);
const NUMBER: Kind = Kind::Integer(u32::MAX);
const SHORT: Kind = Kind::Integer(u16::MAX as u32);
const COUNT: Kind = Kind::Integer(u8::MAX as u32);

const fn required(name: &'static str, kind: Kind) -> Key {
    Key { name, kind, required: true }
}

const fn optional(name: &'static str, kind: Kind) -> Key {
    Key { name, kind, required: false }
}

/// The whole file.
pub const FILE: Table = Table {
    what: "the file",
    keys: &[optional("tenant", Kind::List(&TENANT)), optional("vip", Kind::List(&VIP))],
};

const RATE: Kind = Kind::Large(lb_common::limits::TENANT_RATE_MAX);

const TENANT: Table = Table {
    what: "a tenant",
    keys: &[
        required("name", Kind::Text),
        optional("packets_per_s", RATE),
        optional("bits_per_s", RATE),
        optional("new_connections_per_s", RATE),
        optional("burst_ms", NUMBER),
        optional("connections", NUMBER),
        optional("flow_share_percent", NUMBER),
        optional("nat_share_percent", NUMBER),
        optional("vips", NUMBER),
        optional("backends", NUMBER),
        optional("commands_per_s", NUMBER),
        optional("probe_workers", NUMBER),
    ],
};

const VIP: Table = Table {
    what: "a vip",
    keys: &[
        required("name", Kind::Text),
        required("address", Kind::Address),
        required("port", PORT),
        optional("protocol", Kind::OneOf(&["tcp", "udp"])),
        optional("tenant", Kind::Text),
        optional("mode", Kind::OneOf(&["l2", "ipip", "nat"])),
        optional("tracking", Kind::OneOf(&["auto", "always", "never"])),
        optional("udp_stateless", Kind::Flag),
        optional("window_s", NUMBER),
        optional("idle_s", NUMBER),
        optional("table_size", NUMBER),
        optional("probe", Kind::Table(&PROBE)),
        optional("breaker", Kind::Table(&BREAKER)),
        optional("balancing", Kind::Table(&BALANCING)),
        optional("ladder", Kind::Table(&LADDER)),
        optional("backend", Kind::List(&BACKEND)),
    ],
};

const PROBE: Table = Table {
    what: "a probe",
    keys: &[
        optional("kind", Kind::OneOf(&["none", "tcp", "http", "https", "tls", "udp", "icmp"])),
        optional("interval_ms", NUMBER),
        optional("timeout_ms", NUMBER),
        optional("rise", COUNT),
        optional("fall", COUNT),
        optional("retries", COUNT),
        optional("port", PORT),
        optional("via", Kind::OneOf(&["backend", "vip"])),
        optional("path", Kind::Text),
        optional("host", Kind::Text),
        optional("status", Kind::Text),
        optional("body", Kind::Text),
        optional("sni", Kind::Text),
        optional("verify", Kind::Flag),
        optional("send", Kind::Text),
        optional("expect", Kind::Text),
    ],
};

const BREAKER: Table = Table {
    what: "a breaker",
    keys: &[
        optional("consecutive", SHORT),
        optional("ratio_percent", COUNT),
        optional("volume", SHORT),
        optional("window_s", SHORT),
        optional("backoff_ms", NUMBER),
        optional("backoff_max_ms", NUMBER),
        optional("calm_s", SHORT),
        optional("trial_cps", SHORT),
        optional("trial_successes", COUNT),
        optional("slow_start_s", SHORT),
        optional("floor_percent", COUNT),
        optional("ejection_max_percent", COUNT),
    ],
};

const BALANCING: Table = Table {
    what: "a balancing",
    keys: &[
        optional(
            "algorithm",
            Kind::OneOf(&[
                "matching",
                "maglev",
                "source_hash",
                "source_affinity",
                "round_robin",
                "weighted_round_robin",
                "least_connections",
            ]),
        ),
        optional("affinity_s", NUMBER),
        optional("syn_s", NUMBER),
        optional("closing_s", NUMBER),
    ],
};

const LADDER: Table = Table {
    what: "a ladder",
    keys: &[
        optional("fail_fast", Kind::Flag),
        optional("last_known_good", Kind::Flag),
        optional("fallback", Kind::Text),
    ],
};

const BACKEND: Table = Table {
    what: "a backend",
    keys: &[
        required("name", Kind::Text),
        required("address", Kind::Address),
        optional("port", PORT),
        optional("weight", Kind::Integer(u16::MAX as u32)),
        optional("intent", Kind::OneOf(&["enabled", "draining", "disabled"])),
        optional("backup", Kind::Flag),
    ],
};

#[cfg(test)]
mod tests {
    use super::*;
    use lb_control::tenant::Limit;

    #[test]
    fn every_limit_of_a_tenant_is_a_key() {
        let keys = TENANT.keys.iter().map(|key| key.name);
        assert!(keys.eq(["name"].into_iter().chain(Limit::ALL.map(Limit::name))));
    }
}
