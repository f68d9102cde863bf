//! `lb vip`.

use clap::{Subcommand, ValueEnum};
use lb_control::breaker::BreakerSettings;
use lb_control::command::{Command, DEFAULT_TENANT, VipRemove, VipSet, VipSpec};
use lb_control::probe::{ProbeKind, ProbeWish, Via};
use lb_control::vip::{Mode, Tracking};

use super::mutation::Flags;
use super::number::whole;
use super::text::{count, rate};
use super::{Done, Session};
use crate::address;
use crate::api::views::{ListView, VipView, mode_word, tracking_word};
use crate::problem::{Code, Problem};
use crate::suggest;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Make a vip.
    Add {
        /// Its name.
        name: String,
        /// What it serves: ADDRESS:PORT/PROTOCOL, such as 203.0.113.10:80/tcp or [2001:db8::10]:53/udp; port 0 is every port.
        address: String,
        /// Its tenant.
        #[arg(long, default_value = DEFAULT_TENANT)]
        tenant: String,
        #[command(flatten)]
        settings: Settings,
        #[command(flatten)]
        flags: Flags,
    },
    /// Show all vips.
    List,
    /// Show one vip with its settings and backends.
    Show {
        /// Its name.
        name: String,
    },
    /// Change settings of a vip; what is not named stays.
    Set {
        /// Its name.
        name: String,
        #[command(flatten)]
        settings: Settings,
        /// Do it even if it ends traffic.
        #[arg(long)]
        allow_disruption: bool,
        #[command(flatten)]
        flags: Flags,
    },
    /// Remove a vip and its backends.
    Remove {
        /// Its name.
        name: String,
        /// Do it even if it ends traffic.
        #[arg(long)]
        allow_disruption: bool,
        #[command(flatten)]
        flags: Flags,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ModeWord {
    /// Only the Ethernet header is rewritten; backends are on-link and answer the client directly.
    L2,
    /// Packets travel inside a tunnel; backends unwrap them and answer the client directly.
    Ipip,
    /// Addresses are translated, and the replies on their way back: works with any backend.
    Nat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum TrackingWord {
    /// Only flows whose slot moved.
    Auto,
    /// Every flow.
    Always,
    /// None: a flow follows its slot.
    Never,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ProbeWord {
    /// No probe: backends count as usable.
    None,
    /// A TCP connection is opened and closed.
    Tcp,
    /// An HTTP request.
    Http,
    /// An HTTP request through TLS.
    Https,
    /// A TLS handshake.
    Tls,
    /// A UDP datagram and its answer.
    Udp,
    /// An ICMP echo request.
    Icmp,
}

impl ProbeWord {
    fn kind(self) -> ProbeKind {
        match self {
            Self::None => ProbeKind::None,
            Self::Tcp => ProbeKind::Tcp,
            Self::Http => ProbeKind::Http,
            Self::Https => ProbeKind::Https,
            Self::Tls => ProbeKind::Tls,
            Self::Udp => ProbeKind::Udp,
            Self::Icmp => ProbeKind::Icmp,
        }
    }
}

/// A path of probes.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum ViaWord {
    /// Straight to the backend's own address; so unless named.
    Backend,
    /// To the vip's address, by the vip's own path to the backend.
    Vip,
}

impl ViaWord {
    fn via(self) -> Via {
        match self {
            Self::Backend => Via::Backend,
            Self::Vip => Via::Vip,
        }
    }
}

/// How backends are probed.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Probe")]
struct ProbeSettings {
    /// How its backends are probed; tcp for TCP on one port, else none.
    #[arg(long)]
    probe: Option<ProbeWord>,
    /// Time between two probes, milliseconds, 50 to 3600000; 200 unless named.
    #[arg(long, allow_negative_numbers = true, value_name = "MS", value_parser = whole::<u32>("from 50 to 3600000"))]
    probe_interval_ms: Option<u32>,
    /// Time after which an attempt counts as failed, milliseconds, 10 to 60000, shorter than the interval; 150 unless named.
    #[arg(long, allow_negative_numbers = true, value_name = "MS", value_parser = whole::<u32>("from 10 to 60000"))]
    probe_timeout_ms: Option<u32>,
    /// Successes in a row that bring a backend that is down up again; 2 unless named.
    #[arg(long, allow_negative_numbers = true, value_name = "COUNT", value_parser = whole::<u8>("from 1 to 100"))]
    probe_rise: Option<u8>,
    /// Failures in a row that take a backend out; 2 unless named.
    #[arg(long, allow_negative_numbers = true, value_name = "COUNT", value_parser = whole::<u8>("from 1 to 100"))]
    probe_fall: Option<u8>,
    /// How often a probe that met silence is repeated before it counts as failed, 0 to 10; 1 unless named.
    #[arg(long, allow_negative_numbers = true, value_name = "COUNT", value_parser = whole::<u8>("from 0 to 10"))]
    probe_retries: Option<u8>,
    /// Port to probe; the backend's unless named.
    #[arg(long, allow_negative_numbers = true, value_name = "PORT", value_parser = whole::<u16>("from 1 to 65535"))]
    probe_port: Option<u16>,
    /// By which path: to the backend's own address, or as the vip's packets go (l2 and ipip; needs `lb serve --probe-address`).
    #[arg(long)]
    probe_via: Option<ViaWord>,
    /// HTTP: path to ask for; / unless named. Of this and the following, an empty text is the default again.
    #[arg(long, value_name = "PATH")]
    probe_path: Option<String>,
    /// HTTP: Host field; the address and port that are asked unless named.
    #[arg(long, value_name = "NAME")]
    probe_host: Option<String>,
    /// HTTP: statuses that are a success, such as 200-299,301; 200-399 unless named.
    #[arg(long, value_name = "SET")]
    probe_status: Option<String>,
    /// HTTP: regular expression that the first 16 KiB of the body must match.
    #[arg(long, value_name = "REGEX")]
    probe_body: Option<String>,
    /// TLS: name to ask for, and to look for in the certificate; the host's, else the address.
    #[arg(long, value_name = "NAME")]
    probe_sni: Option<String>,
    /// TLS: whether the certificate must be valid by the node's trusted roots; false unless named.
    #[arg(long, value_name = "true|false")]
    probe_verify: Option<bool>,
    /// UDP: what is sent; text, or hexadecimal digits after hex:.
    #[arg(long, value_name = "PAYLOAD")]
    probe_send: Option<String>,
    /// UDP: what the answer must begin with; any answer unless named.
    #[arg(long, value_name = "PAYLOAD")]
    probe_expect: Option<String>,
}

impl ProbeSettings {
    fn wish(&self) -> Option<ProbeWish> {
        let wish = ProbeWish {
            kind: self.probe.map(ProbeWord::kind),
            interval_ms: self.probe_interval_ms,
            timeout_ms: self.probe_timeout_ms,
            rise: self.probe_rise,
            fall: self.probe_fall,
            retries: self.probe_retries,
            port: self.probe_port,
            via: self.probe_via.map(ViaWord::via),
            path: self.probe_path.clone(),
            host: self.probe_host.clone(),
            status: self.probe_status.clone(),
            body: self.probe_body.clone(),
            sni: self.probe_sni.clone(),
            verify: self.probe_verify,
            send: self.probe_send.clone(),
            expect: self.probe_expect.clone(),
        };
        (wish != ProbeWish::default()).then_some(wish)
    }
}

#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct Settings {
    /// How packets reach its backends; nat unless named.
    #[arg(long)]
    mode: Option<ModeWord>,
    /// Which flows are remembered; auto unless named (nat: always).
    #[arg(long)]
    tracking: Option<TrackingWord>,
    /// UDP: a flow never seen goes to a moved slot's new backend at once.
    #[arg(long, value_name = "true|false")]
    udp_stateless: Option<bool>,
    /// How long a slot that moved sends older flows to its former backend, seconds; 1 to 86400; 900 (TCP) or 30 (UDP) unless named.
    #[arg(long, allow_negative_numbers = true, value_name = "SECONDS", value_parser = whole::<u32>("from 1 to 86400"))]
    window_s: Option<u32>,
    /// After how long without a packet a remembered flow may be forgotten, seconds; 1 to 65535; 900 (TCP) or 60 (UDP) unless named.
    #[arg(long, allow_negative_numbers = true, value_name = "SECONDS", value_parser = whole::<u32>("from 1 to 65535"))]
    idle_s: Option<u32>,
    /// Slots of its table, a prime from 251 to 131071; 65537 unless named.
    #[arg(long, allow_negative_numbers = true, value_name = "PRIME", value_parser = whole::<u32>("from 251 to 131071"))]
    table_size: Option<u32>,
    #[command(flatten)]
    balancing: super::balancing::BalancingFlags,
    #[command(flatten)]
    probe: ProbeSettings,
    #[command(flatten)]
    breaker: super::breaker_flags::BreakerFlags,
    #[command(flatten)]
    ladder: super::ladder_flags::LadderFlags,
}

impl Settings {
    fn mode(&self) -> Option<Mode> {
        self.mode.map(|word| match word {
            ModeWord::L2 => Mode::L2,
            ModeWord::Ipip => Mode::Ipip,
            ModeWord::Nat => Mode::Nat,
        })
    }

    fn tracking(&self) -> Option<Tracking> {
        self.tracking.map(|word| match word {
            TrackingWord::Auto => Tracking::Auto,
            TrackingWord::Always => Tracking::Always,
            TrackingWord::Never => Tracking::Never,
        })
    }
}

pub(super) async fn run(session: &mut Session<'_>, verb: Verb) -> Done {
    match verb {
        Verb::Add { name, address, tenant, settings, flags } => {
            let served = address::served(&address)?;
            let mut spec = VipSpec::new(name, served.address, served.port, served.protocol);
            spec.tenant = tenant;
            spec.mode = settings.mode();
            spec.tracking = settings.tracking();
            spec.udp_stateless = settings.udp_stateless;
            spec.window_s = settings.window_s;
            spec.idle_s = settings.idle_s;
            spec.table_size = settings.table_size;
            spec.probe = settings.probe.wish();
            spec.breaker = settings.breaker.wish();
            spec.balancing = settings.balancing.wish();
            spec.ladder = settings.ladder.wish();
            session.change(&Command::VipAdd(spec), flags).await
        }
        Verb::List => list(session).await,
        Verb::Show { name } => show(session, &name).await,
        Verb::Set { name, settings, allow_disruption, flags } => {
            let set = VipSet {
                name,
                mode: settings.mode(),
                tracking: settings.tracking(),
                udp_stateless: settings.udp_stateless,
                window_s: settings.window_s,
                idle_s: settings.idle_s,
                table_size: settings.table_size,
                probe: settings.probe.wish(),
                breaker: settings.breaker.wish(),
                balancing: settings.balancing.wish(),
                ladder: settings.ladder.wish(),
                allow_disruption,
            };
            session.change(&Command::VipSet(set), flags).await
        }
        Verb::Remove { name, allow_disruption, flags } => {
            session.change(&Command::VipRemove(VipRemove { name, allow_disruption }), flags).await
        }
    }
}

async fn list(session: &mut Session<'_>) -> Done {
    let list: ListView<VipView> = session.client.read("/v1/views/vips").await?;
    if session.out.json {
        session.out.value(&list)?;
        return Ok(None);
    }
    let row = |vip: &VipView| {
        vec![
            vip.name.clone(),
            vip.serves.clone(),
            vip.tenant.clone(),
            mode_word(vip.settings.mode).to_owned(),
            tracking_word(vip.settings.tracking).to_owned(),
            vip.backends.len().to_string(),
            rate(&vip.traffic),
        ]
    };
    let rows = list.items.iter().map(row).collect();
    session.out.table(&["vip", "serves", "tenant", "mode", "tracking", "backends", "rate"], rows);
    Ok(None)
}

impl Session<'_> {
    /// The list of the one vip of this name.
    pub(super) async fn vip(&self, name: &str) -> Result<ListView<VipView>, Problem> {
        let mut list: ListView<VipView> = self.client.read("/v1/views/vips").await?;
        if !list.items.iter().any(|vip| vip.name == name) {
            let hint = suggest::hint(name, list.items.iter().map(|vip| vip.name.as_str()));
            return Err(Problem::new(Code::UnknownVip, format!("vip `{name}` does not exist{hint}")));
        }
        list.items.retain(|vip| vip.name == name);
        Ok(list)
    }
}

async fn show(session: &mut Session<'_>, name: &str) -> Done {
    let one = session.vip(name).await?;
    if session.out.json {
        session.out.value(&one)?;
        return Ok(None);
    }
    let Some(vip) = one.items.first() else { return Ok(None) };
    super::status::vip(session, vip);
    let settings = &vip.settings;
    let mut setting = |name: &str, value: String| session.out.line(&format!("  {name:<15} {value}"));
    setting("algorithm", super::balancing::text(&settings.balancing));
    setting("tracking", tracking_word(settings.tracking).to_owned());
    setting("udp-stateless", settings.udp_stateless.to_string());
    setting("window", format!("{} s", settings.window_s));
    setting("idle", format!("{} s", settings.idle_s));
    let (syn_s, closing_s) = (settings.balancing.syn_s, settings.balancing.closing_s);
    setting("syn, closing", format!("{syn_s} s, {closing_s} s"));
    setting("table size", format!("{} slots", count(u64::from(settings.table_size))));
    setting("probe", settings.probe.to_string());
    setting("breaker", breaker_text(&settings.breaker));
    setting("ladder", super::ladder_flags::text(&settings.ladder));
    setting("last change", format!("revision {}", vip.revision));
    Ok(None)
}

/// A breaker's settings, one line.
fn breaker_text(breaker: &BreakerSettings) -> String {
    if !breaker.is_on() {
        return "off: opens by `lb breaker trip` alone".to_owned();
    }
    let in_a_row = (breaker.consecutive > 0).then(|| format!("{} failures in a row", breaker.consecutive));
    let ratio = (breaker.ratio_percent > 0).then(|| {
        format!("{} % of at least {} in {} s", breaker.ratio_percent, breaker.volume, breaker.window_s)
    });
    let opens: Vec<String> = in_a_row.into_iter().chain(ratio).collect();
    format!(
        "opens after {}, for {} to {} ms; trial {} connections/s, {} successes; slow start {} s from {} %; at most {} % out",
        opens.join(" or "),
        breaker.backoff_ms,
        breaker.backoff_max_ms,
        breaker.trial_cps,
        breaker.trial_successes,
        breaker.slow_start_s,
        breaker.floor_percent,
        breaker.ejection_max_percent
    )
}
