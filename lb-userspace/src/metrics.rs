//! `/metrics`: OpenMetrics text, read from the maps at the scrape, nothing kept in between.
//!
//! Labels are bounded: names of vips, backends and tenants that exist, reasons of the one list. No client's address
//! is ever a label.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use lb_common::abi::counter::Counter;
use lb_common::ids::BackendId;
use lb_common::reason::{Class, Reason};
use lb_control::breaker::BreakerState;
use lb_control::health::Health;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text::encode};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::api::Node;
use crate::breakers::SeenBreakers;
use crate::dataplane::{Counters, TenantCount};
use crate::journal::Figures;
use crate::probe::SeenHealth;
use crate::problem::Problem;
use crate::projection::{Model, Progress};
use crate::reconcile::Standing;
use crate::suspects::Suspects;

/// The media type of OpenMetrics text.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Labels of one sample.
type Labels = Vec<(&'static str, String)>;
type Gauges = Vec<(Labels, u64)>;

pub(crate) async fn scrape(State(node): State<Arc<Node>>) -> Result<Response, Problem> {
    let text = tokio::task::spawn_blocking(move || text(&node)).await;
    let text = text.map_err(|error| Problem::bug(error.to_string()))??;
    Ok(([(CONTENT_TYPE, OPEN_METRICS)], text).into_response())
}

fn text(node: &Node) -> Result<String, Problem> {
    let scraped = Scraped {
        counters: node.dataplane.counters()?,
        model: node.projections.model(),
        progress: node.projections.progress(),
        latest: node.log.latest().revision,
        log: node.log.figures(),
        followers: node.followers.count(),
        standing: node.standing.borrow().clone(),
        health: node.health.borrow().clone(),
        breakers: node.breakers.borrow().clone(),
        suspects: node.suspects.borrow().clone(),
    };
    let mut registry = Registry::with_prefix("lb");
    registry.register_collector(Box::new(scraped));
    let mut text = String::new();
    encode(&mut text, &registry).map_err(|error| Problem::bug(error.to_string()))?;
    Ok(text)
}

/// All that a scrape reads.
#[derive(Debug)]
struct Scraped {
    counters: Counters,
    model: Arc<Model>,
    progress: Progress,
    latest: u64,
    log: Figures,
    followers: usize,
    standing: Standing,
    health: SeenHealth,
    breakers: SeenBreakers,
    suspects: Suspects,
}

impl Collector for Scraped {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        traffic(
            &mut encoder,
            "reason",
            "by verdict's reason; every packet is under exactly one",
            self.reasons(),
        )?;
        traffic(&mut encoder, "vip", "to a vip", self.vips())?;
        traffic(&mut encoder, "backend", "to a backend", self.backends())?;
        traffic(&mut encoder, "tenant", "to a tenant's vips", self.tenants())?;
        self.limited_tenants(&mut encoder)?;
        self.ladder_and_backends(&mut encoder)?;
        let standing = &self.standing;
        let swept = &standing.swept;
        let log = &self.log;
        let whole: [(&str, &str, u64); 13] = [
            ("revision", "revision of the log", self.latest),
            ("event_followers", "who follows the events", self.followers as u64),
            ("applied_revision", "revision that the maps hold", standing.revision),
            ("pending_problems", "reasons why the maps are not as they should be", self.pending()),
            ("attached_devices", "devices that the program is attached to", standing.attached.len() as u64),
            ("tracked_flows", "entries of the flow table, as of the last sweep", swept.tracked_flows),
            ("nat_flows", "flows of the NAT table, as of the last sweep", swept.nat_flows),
            ("log_segments", "segments of the log", log.segments),
            ("log_archived_segments", "segments in the log's archive", log.archived),
            ("log_bytes", "bytes of the log's segments", log.bytes),
            ("reconcile_last_pass_us", "what the last comparison of the maps took", standing.pass_us),
            ("reconcile_longest_pass_us", "the longest since the start", standing.longest_pass_us),
            ("bypass", "1: every packet passes untouched", u64::from(self.model.inventory.bypass)),
        ];
        for (name, help, value) in whole {
            gauges(&mut encoder, name, help, [(Vec::new(), value)])?;
        }
        self.projections(&mut encoder)?;
        let progress = &self.progress;
        let counted: [(&str, &str, u64); 8] = [
            ("log_appends", "appends to the log, each with one sync", log.appends),
            ("log_append_us", "what they took all together", log.append_us),
            ("log_records", "records that they made durable", log.records),
            ("reconcile_partial_passes", "comparisons of what had changed alone", standing.partial_passes),
            ("drift_operations", "operations needed although nothing had changed", standing.drift_ops),
            ("reconcile_passes", "comparisons of the maps with what they should hold", standing.passes),
            ("projection_records", "records that the projections took in", progress.records),
            ("projection_resyncs", "times that the projections read on from the log", progress.resyncs),
        ];
        for (name, help, value) in counted {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        Ok(())
    }
}

impl Scraped {
    /// How far each projection is, and how long records take to get there.
    fn projections(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let of = |name: &str| vec![("projection", name.to_owned())];
        let revisions = self.model.revisions();
        let reached = revisions.iter().map(|(name, revision)| (of(name), *revision));
        gauges(encoder, "projection_revision", "revision that a projection has come to", reached)?;
        let lacks = revisions.iter().map(|(name, at)| (of(name), self.latest.saturating_sub(*at)));
        gauges(encoder, "projection_behind", "events of the log that a projection lacks", lacks)?;
        let (last, longest) = (self.progress.last_lag_ms, self.progress.longest_lag_ms);
        let whole = |value| [(Vec::new(), value)];
        gauges(encoder, "projection_lag_ms", "from the last decision until it was published", whole(last))?;
        gauges(encoder, "projection_longest_lag_ms", "the longest of those since the start", whole(longest))
    }

    fn reasons(&self) -> Vec<(Labels, Counter)> {
        let labelled = |reason: &Reason| {
            let class = match reason.class() {
                Class::Forward => "forward",
                Class::Pass => "pass",
                Class::Drop => "drop",
            };
            let labels = vec![("reason", reason.name().to_owned()), ("class", class.to_owned())];
            (labels, self.counters.reasons.get(reason).copied().unwrap_or_default())
        };
        Reason::ALL.iter().map(labelled).collect()
    }

    fn vips(&self) -> Vec<(Labels, Counter)> {
        let by_id = self.by_vip();
        let labelled = |(name, vip): (&Arc<str>, &Arc<lb_control::vip::Vip>)| {
            let counter = by_id.get(&vip.id).copied().unwrap_or_default();
            (vec![("vip", name.to_string()), ("tenant", vip.tenant.clone())], counter)
        };
        self.model.inventory.vips.iter().map(labelled).collect()
    }

    fn by_vip(&self) -> BTreeMap<lb_common::ids::VipId, Counter> {
        let rows = self.standing.actual.iter().flat_map(|actual| &actual.vips);
        rows.map(|(row, vip)| (vip.id, self.counters.vips.get(row).copied().unwrap_or_default())).collect()
    }

    fn backends(&self) -> Vec<(Labels, Counter)> {
        let rows = self.standing.actual.iter().flat_map(|actual| &actual.backends);
        let count = |row: &u16| self.counters.backends.get(row).copied().unwrap_or_default();
        let by_id: BTreeMap<_, _> = rows.map(|(row, one)| (one.id, count(row))).collect();
        let labelled =
            |(vip, _, name, backend): (&str, &lb_control::vip::Vip, &str, &lb_control::backend::Backend)| {
                let counter = by_id.get(&backend.id).copied().unwrap_or_default();
                (vec![("vip", vip.to_owned()), ("backend", name.to_owned())], counter)
            };
        self.model.inventory.backends().map(labelled).collect()
    }

    fn tenants(&self) -> Vec<(Labels, Counter)> {
        let by_id = self.by_vip();
        let mut sums: BTreeMap<&str, Counter> =
            self.model.inventory.tenants.keys().map(|name| (&**name, Counter::default())).collect();
        for vip in self.model.inventory.vips.values() {
            let (sum, own) = (sums.entry(&vip.tenant).or_default(), by_id.get(&vip.id).copied());
            sum.packets += own.unwrap_or_default().packets;
            sum.bytes += own.unwrap_or_default().bytes;
        }
        sums.into_iter().map(|(name, sum)| (vec![("tenant", name.to_owned())], sum)).collect()
    }

    /// What tenants with limits take, and what they were refused.
    fn limited_tenants(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let known = self.model.inventory.tenants.iter();
        let limited: Vec<(&str, &TenantCount)> =
            known.filter_map(|(name, own)| Some((&**name, self.counters.tenants.get(&own.id)?))).collect();
        let label = |name: &str| vec![("tenant", name.to_owned())];
        let drops = limited.iter().flat_map(|(name, count)| {
            count.counts.refused().map(|(reason, refused)| {
                (vec![("tenant", (*name).to_owned()), ("reason", reason.name().to_owned())], refused)
            })
        });
        traffic(encoder, "tenant_dropped", "that a tenant's limits refused", drops.collect())?;
        let new = limited
            .iter()
            .map(|(name, count)| (label(name), Counter { packets: count.counts.begun(), bytes: 0 }));
        let help = "connections that a tenant's limits let begin";
        counters(encoder, "tenant_new_connections", help, &new.collect::<Vec<_>>(), |count| count.packets)?;
        let held =
            |of: fn(&TenantCount) -> u64| limited.iter().map(move |(name, count)| (label(name), of(count)));
        gauges(
            encoder,
            "tenant_connections",
            "tracked connections of a tenant with limits",
            held(|c| c.connections),
        )?;
        gauges(encoder, "tenant_nat_ports", "NAT ports of a tenant with limits", held(|c| c.nat_ports))
    }

    fn ladder_and_backends(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let rungs =
            "0 its pool serves, 1 its backups, 2 another vip's pool, 3 who was last known good, 4 nobody";
        gauges(encoder, "vip_ladder", rungs, self.ladders())?;
        let suspect = "1 the traffic of its clients speaks against it, 0 it does not";
        let suspects = self.of_backends(|id| self.suspects.contains_key(&id).into());
        let breakers = self.of_backends(|id| self.breaker(id));
        let openings = self.of_backends(|id| self.openings(id));
        gauges(encoder, "backend_up", "1 up, 0 down or unknown", self.of_backends(|id| self.up(id)))?;
        gauges(encoder, "backend_suspect", suspect, suspects)?;
        gauges(encoder, "backend_breaker", "0 closed, 1 half-open, 2 open", breakers)?;
        gauges(encoder, "backend_breaker_openings", "openings since the start", openings)
    }

    /// A figure of each backend.
    fn of_backends(&self, figure: impl Fn(BackendId) -> u64) -> Gauges {
        let backends = self.model.inventory.backends();
        let labelled = backends.map(|(vip, _, name, backend)| {
            (vec![("vip", vip.to_owned()), ("backend", name.to_owned())], figure(backend.id))
        });
        labelled.collect()
    }

    fn up(&self, id: BackendId) -> u64 {
        self.health.get(&id).is_some_and(|seen| seen.health == Health::Up).into()
    }

    fn breaker(&self, id: BackendId) -> u64 {
        match self.breakers.get(&id).map_or(BreakerState::Closed, |seen| seen.breaking.state) {
            BreakerState::Closed => 0,
            BreakerState::HalfOpen => 1,
            BreakerState::Open => 2,
        }
    }

    fn openings(&self, id: BackendId) -> u64 {
        self.breakers.get(&id).map_or(0, |seen| seen.openings)
    }

    fn ladders(&self) -> Gauges {
        let rung = |id| self.standing.footings.get(&id).map_or(0, |footing| footing.rung as u64);
        let vips = self.model.inventory.vips.iter();
        vips.map(|(name, vip)| (vec![("vip", name.to_string())], rung(vip.id))).collect()
    }

    fn pending(&self) -> u64 {
        self.standing.problems.len() as u64 + u64::from(self.standing.fault.is_some())
    }
}

/// Two families: packets and bytes.
fn traffic(
    encoder: &mut DescriptorEncoder<'_>,
    of: &str,
    help: &str,
    samples: Vec<(Labels, Counter)>,
) -> fmt::Result {
    counters(encoder, &format!("{of}_packets"), &format!("packets {help}"), &samples, |counter| {
        counter.packets
    })?;
    counters(encoder, &format!("{of}_bytes"), &format!("bytes {help}"), &samples, |counter| counter.bytes)
}

fn counters(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    samples: &[(Labels, Counter)],
    value: impl Fn(&Counter) -> u64,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, counter) in samples {
        ConstCounter::new(value(counter)).encode(family.encode_family(labels)?)?;
    }
    Ok(())
}

fn gauges(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    samples: impl IntoIterator<Item = (Labels, u64)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in samples {
        let gauge = ConstGauge::new(value);
        if labels.is_empty() {
            gauge.encode(family)?;
            return Ok(());
        }
        gauge.encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}
