//! Which commands are accepted, and what happens then.

use super::{Now, decide, rehearse};
use crate::balancing::{Algorithm, Balancing};
use crate::code::Code;
use crate::command::Command;
use crate::event::EVENT_VERSION;
use crate::event::{Change, Event};
use crate::limits::Limits;
use crate::probe::Via;
use crate::rejection::Rejection;
use crate::state::State;
use crate::testing::any_command;
use crate::vip::{Tracking, VipSettings};
use proptest::prelude::*;
use std::collections::BTreeSet;

fn command(json: &str) -> Command {
    serde_json::from_str(json).unwrap_or_else(|why| panic!("{json}: {why}"))
}

fn run(state: &mut State, json: &str) -> Result<Vec<Event>, Rejection> {
    let events = decide(state, &Limits::default(), Now(7), &command(json))?;
    events.iter().for_each(|event| state.apply(event));
    Ok(events)
}

/// A state after these commands, each of which must be accepted.
fn after(commands: &[&str]) -> State {
    let mut state = State::default();
    commands.iter().for_each(|json| drop(run(&mut state, json).unwrap()));
    state
}

const WEB: &str = r#"{"kind":"vip_add","name":"web","address":"203.0.113.10","port":80,"mode":"l2","backend":[
    {"name":"b1","address":"10.0.0.1"},{"name":"b2","address":"10.0.0.2"},{"name":"b3","address":"10.0.0.3"}]}"#;

/// Code and place of every fault.
fn faults(state: &State, json: &str) -> Vec<(Code, String)> {
    let before = state.clone();
    let rejection = decide(state, &Limits::default(), Now(0), &command(json)).expect_err(json);
    assert_eq!(*state, before);
    let all = [&rejection].into_iter().chain(&rejection.also);
    all.map(|fault| {
        assert!(!fault.message.is_empty() && !fault.what_to_do.is_empty());
        (fault.code, fault.place.clone())
    })
    .collect()
}

#[track_caller]
fn refused(state: &State, json: &str, code: Code, place: &str) {
    assert_eq!(faults(state, json), [(code, place.to_string())], "{json}");
}

#[test]
fn a_vip_gets_its_defaults() {
    let mut state = State::default();
    let events = run(&mut state, WEB).unwrap();
    assert_eq!(events.len(), 4);
    assert!(events.iter().all(|event| event.v == EVENT_VERSION && event.at_ms == 7));
    let vip = &state.vips["web"];
    assert_eq!((vip.settings.window_s, vip.settings.idle_s, vip.settings.table_size), (900, 900, 65_537));
    assert_eq!(vip.backends["b1"].port, 80);
    let udp = r#"{"kind":"vip_add","name":"dns","address":"2001:db8::53","port":53,"protocol":"udp"}"#;
    run(&mut state, udp).unwrap();
    let dns = serde_json::to_value(&state.vips["dns"]).unwrap();
    assert_eq!(
        (&dns["mode"], &dns["tracking"], &dns["window_s"]),
        (&"nat".into(), &"always".into(), &30.into())
    );
    assert_eq!(dns["probe"]["kind"], "none");
}

#[test]
fn every_accepted_command_gives_an_event() {
    let mut state = after(&[WEB]);
    let revision = state.revision;
    let same = r#"{"kind":"backend_set","vip":"web","name":"b1","weight":100}"#;
    let events = run(&mut state, same).unwrap();
    assert!(matches!(&events[0].change, Change::CommandAccepted { command } if command == "backend_set"));
    assert_eq!(state.revision, revision + 1);
}

#[test]
fn names_that_are_not_there_are_refused_with_the_likeliest() {
    let state = after(&[WEB]);
    refused(&state, r#"{"kind":"vip_set","name":"wbe","window_s":5}"#, Code::UnknownVip, "name");
    refused(&state, r#"{"kind":"vip_remove","name":"x"}"#, Code::UnknownVip, "name");
    refused(&state, r#"{"kind":"backend_remove","vip":"x","name":"b1"}"#, Code::UnknownVip, "vip");
    refused(&state, r#"{"kind":"backend_remove","vip":"web","name":"b9"}"#, Code::UnknownBackend, "name");
    refused(&state, r#"{"kind":"tenant_remove","name":"red"}"#, Code::UnknownTenant, "name");
    let wrong = command(r#"{"kind":"vip_remove","name":"wbe"}"#);
    let rejection = decide(&state, &Limits::default(), Now(0), &wrong).unwrap_err();
    assert_eq!(rejection.message, "vip `wbe` does not exist; did you mean `web`?");
    let json = serde_json::to_value(&rejection).unwrap();
    assert_eq!((&json["code"], &json["place"]), (&"LB1002".into(), &"name".into()));
}

#[test]
fn twins_are_refused() {
    let state = after(&[WEB, r#"{"kind":"tenant_add","name":"red"}"#]);
    let add = |rest: &str| format!(r#"{{"kind":"backend_add","vip":"web",{rest}}}"#);
    refused(&state, r#"{"kind":"tenant_add","name":"red"}"#, Code::DuplicateTenant, "name");
    refused(&state, WEB, Code::DuplicateVip, "name");
    refused(&state, &add(r#""name":"b1","address":"10.0.0.9""#), Code::DuplicateBackend, "name");
    refused(&state, &add(r#""name":"b9","address":"10.0.0.1""#), Code::DuplicateBackendAddress, "address");
    let vip = |rest: &str| format!(r#"{{"kind":"vip_add","name":"other","address":"203.0.113.10",{rest}}}"#);
    refused(&state, &vip(r#""port":80"#), Code::VipAddressTaken, "address");
    refused(
        &state,
        &vip(r#""port":0,"tenant":"red","probe":{"port":1}"#),
        Code::VipAddressOfOtherTenant,
        "address",
    );
    for fine in [r#""port":0"#, r#""port":80,"protocol":"udp""#, r#""port":81,"tenant":"red""#] {
        run(&mut state.clone(), &vip(fine)).unwrap();
    }
}

#[test]
fn settings_out_of_range_are_refused() {
    let state = after(&[WEB]);
    let set = |rest: &str| format!(r#"{{"kind":"vip_set","name":"web",{rest}}}"#);
    for (rest, code, place) in [
        (r#""window_s":0"#, Code::WindowRange, "window_s"),
        (r#""window_s":86401"#, Code::WindowRange, "window_s"),
        (r#""idle_s":65536"#, Code::IdleRange, "idle_s"),
        (r#""probe":{"interval_ms":1}"#, Code::ProbeRange, "probe.interval_ms"),
        (r#""probe":{"timeout_ms":60001}"#, Code::ProbeRange, "probe.timeout_ms"),
        (r#""probe":{"rise":0}"#, Code::ProbeRange, "probe.rise"),
        (r#""probe":{"fall":101}"#, Code::ProbeRange, "probe.fall"),
        (r#""udp_stateless":true"#, Code::StatelessTcp, "udp_stateless"),
        (r#""mode":"ipip""#, Code::ModeLive, "mode"),
        (r#""table_size":251"#, Code::TableSizeLive, "table_size"),
        (r#""allow_disruption":true"#, Code::NothingToSet, ""),
        (r#""tracking":"never""#, Code::Disruption, ""),
        (r#""balancing":{}"#, Code::NothingToSet, ""),
        (r#""balancing":{"syn_s":0}"#, Code::TimeoutRange, "balancing.syn_s"),
        (r#""balancing":{"closing_s":256}"#, Code::TimeoutRange, "balancing.closing_s"),
        (r#""balancing":{"affinity_s":65536}"#, Code::TimeoutRange, "balancing.affinity_s"),
        (r#""balancing":{"algorithm":"source_hash"}"#, Code::AlgorithmLive, "balancing.algorithm"),
        (r#""balancing":{"algorithm":"round_robin"},"tracking":"auto""#, Code::AlgorithmTracking, "tracking"),
    ] {
        refused(&state, &set(rest), code, place);
    }
    let vip =
        |rest: &str| format!(r#"{{"kind":"vip_add","name":"v","address":"203.0.113.11","port":1,{rest}}}"#);
    refused(&state, &vip(r#""table_size":65536"#), Code::BadTableSize, "table_size");
    refused(&state, &vip(r#""table_size":241"#), Code::BadTableSize, "table_size");
    refused(&state, &vip(r#""table_size":131101"#), Code::BadTableSize, "table_size");
    refused(&state, &vip(r#""tracking":"auto""#), Code::TrackingConflict, "tracking");
    let all = r#"{"kind":"vip_add","name":"v","address":"203.0.113.11","port":0,"probe":{"kind":"tcp"}}"#;
    refused(&state, all, Code::ProbePort, "probe");
}

#[test]
fn probes_that_contradict_themselves_are_refused_with_place_and_reason() {
    let state = after(&[WEB]);
    for (probe, code, place) in [
        (r#""timeout_ms":200,"interval_ms":200"#, Code::ProbeTimeout, "probe.timeout_ms"),
        (r#""rise":0"#, Code::ProbeRange, "probe.rise"),
        (r#""retries":11"#, Code::ProbeRange, "probe.retries"),
        (r#""path":"/""#, Code::ProbeForeign, "probe.path"),
        (r#""kind":"http","verify":true"#, Code::ProbeForeign, "probe.verify"),
        (r#""kind":"http","path":"healthz""#, Code::ProbePath, "probe.path"),
        (r#""kind":"http","path":"/a b""#, Code::ProbePath, "probe.path"),
        (r#""kind":"http","path":"/\r\nHost: evil""#, Code::ProbePath, "probe.path"),
        (r#""kind":"http","host":"a\r\nb""#, Code::ProbeHost, "probe.host"),
        (r#""kind":"tls","sni":"10.0.0.1""#, Code::ProbeHost, "probe.sni"),
        (r#""kind":"tls","sni":"-a..b""#, Code::ProbeHost, "probe.sni"),
        (r#""kind":"http","status":"2xx""#, Code::ProbeStatus, "probe.status"),
        (r#""kind":"http","body":"(""#, Code::ProbeBody, "probe.body"),
        (r#""kind":"udp""#, Code::ProbeUnsaid, "probe.send"),
        (r#""kind":"udp","send":"hex:0g""#, Code::ProbePayload, "probe.send"),
        (r#""kind":"udp","send":"x","expect":"hex:0""#, Code::ProbePayload, "probe.expect"),
        (r#""kind":"none","via":"vip""#, Code::ProbeForeign, "probe.via"),
    ] {
        let set = format!(r#"{{"kind":"vip_set","name":"web","probe":{{{probe}}}}}"#);
        refused(&state, &set, code, place);
    }
    let long = format!(r#""kind":"udp","send":"{}""#, "x".repeat(1_025));
    let set = format!(r#"{{"kind":"vip_set","name":"web","probe":{{{long}}}}}"#);
    refused(&state, &set, Code::ProbePayload, "probe.send");
}

#[test]
fn a_probe_by_the_vips_path_goes_with_direct_return_and_not_with_nat() {
    let add = |mode: &str| {
        format!(
            r#"{{"kind":"vip_add","name":"own","address":"203.0.113.77","port":80,"mode":"{mode}","probe":{{"via":"vip"}}}}"#
        )
    };
    for mode in ["l2", "ipip"] {
        let mut state = after(&[]);
        run(&mut state, &add(mode)).unwrap();
        assert_eq!(state.vips["own"].settings.probe.via, Via::Vip);
        refused(&state, r#"{"kind":"vip_set","name":"own","mode":"nat"}"#, Code::ProbeViaNat, "probe.via");
        let both = r#"{"kind":"vip_set","name":"own","mode":"nat","probe":{"via":"backend"}}"#;
        run(&mut state, both).unwrap();
    }
    refused(&after(&[]), &add("nat"), Code::ProbeViaNat, "probe.via");
}

#[test]
fn a_probe_that_was_accepted_by_older_rules_stays_while_nothing_of_it_is_changed() {
    let mut state = after(&[WEB]);
    let mut settings = state.vips["web"].settings.clone();
    (settings.probe.interval_ms, settings.probe.timeout_ms) = (500, 500);
    let change = Change::VipSettingsChanged { vip: "web".to_string(), settings: Box::new(settings) };
    state.apply(&Event { v: EVENT_VERSION, at_ms: 0, change });
    run(&mut state, r#"{"kind":"vip_set","name":"web","window_s":60}"#).unwrap();
    assert_eq!(state.vips["web"].settings.probe.timeout_ms, 500);
    refused(
        &state,
        r#"{"kind":"vip_set","name":"web","probe":{"fall":3}}"#,
        Code::ProbeTimeout,
        "probe.timeout_ms",
    );
}

#[test]
fn an_algorithm_that_picks_brings_its_tracking_and_leaves_it_behind() {
    let mut state = after(&[WEB]);
    let tracking = |state: &State| state.vips["web"].settings.tracking;
    let set = |to: &str| format!(r#"{{"kind":"vip_set","name":"web","balancing":{{"algorithm":"{to}"}}}}"#);
    for to in ["least_connections", "maglev", "weighted_round_robin", "matching"] {
        run(&mut state, &set(to)).unwrap();
        assert_eq!(tracking(&state), Tracking::Always, "{to}");
    }
    // Without memory the slots of another table take their flows with them.
    run(&mut state, r#"{"kind":"vip_set","name":"web","tracking":"never","allow_disruption":true}"#).unwrap();
    refused(&state, &set("maglev"), Code::Disruption, "");
}

#[test]
fn a_log_from_before_there_was_a_choice_means_maglev() {
    let state = after(&[WEB]);
    let mut settings = serde_json::to_value(&state.vips["web"].settings).unwrap();
    assert_eq!(settings["balancing"]["algorithm"], "matching");
    settings.as_object_mut().unwrap().remove("balancing");
    let old: VipSettings = serde_json::from_value(settings).unwrap();
    assert_eq!(old.balancing, Balancing { algorithm: Algorithm::Maglev, ..Balancing::new() });
}

#[test]
fn a_probes_port_can_be_set_and_taken_back() {
    let mut state = after(&[WEB]);
    run(&mut state, r#"{"kind":"vip_set","name":"web","probe":{"port":8080}}"#).unwrap();
    assert_eq!(state.vips["web"].settings.probe.port, Some(8080));
    run(&mut state, r#"{"kind":"vip_set","name":"web","probe":{"port":0}}"#).unwrap();
    assert_eq!(state.vips["web"].settings.probe.port, None);
}

#[test]
fn addresses_that_lead_elsewhere_are_refused() {
    let state = after(&[WEB]);
    let add =
        |address: &str| format!(r#"{{"kind":"backend_add","vip":"web","name":"x","address":"{address}"}}"#);
    refused(&state, &add("169.254.169.254"), Code::BadBackendAddress, "address");
    refused(&state, &add("::ffff:127.0.0.1"), Code::BadBackendAddress, "address");
    refused(&state, &add("203.0.113.10"), Code::BackendIsVip, "address");
    refused(&state, &add("2001:db8::1"), Code::FamilyMismatch, "address");
    let vip = |address: &str| format!(r#"{{"kind":"vip_add","name":"x","address":"{address}","port":80}}"#);
    refused(&state, &vip("10.0.0.1"), Code::BackendIsVip, "address");
    refused(&state, &vip("0.0.0.0"), Code::BadVipAddress, "address");
    let gone = after(&[WEB, r#"{"kind":"backend_remove","vip":"web","name":"b1"}"#]);
    run(&mut gone.clone(), &vip("10.0.0.1")).unwrap();
}

#[test]
fn ports_and_families_follow_the_mode() {
    let vip = |mode: &str, port: u16, backend: &str| {
        format!(
            r#"{{"kind":"vip_add","name":"v","address":"203.0.113.1","port":{port},"mode":"{mode}",
                "probe":{{"kind":"none"}},"backend":[{{"name":"b",{backend}}}]}}"#
        )
    };
    let state = State::default();
    let (v4, v6) = (r#""address":"10.0.0.1""#, r#""address":"fd00::1""#);
    for (mode, port, backend) in [
        ("ipip", 80, v6.to_string()),
        ("nat", 80, format!(r#"{v4},"port":8080"#)),
        ("nat", 0, format!(r#"{v4},"port":8080"#)),
        ("nat", 0, format!(r#"{v4},"port":0"#)),
        ("l2", 80, format!(r#"{v4},"port":80"#)),
        ("l2", 0, v4.to_string()),
    ] {
        run(&mut state.clone(), &vip(mode, port, &backend)).unwrap();
    }
    for (mode, port, backend, code, place) in [
        ("l2", 80, v6.to_string(), Code::FamilyMismatch, "backend[0].address"),
        ("nat", 80, v6.to_string(), Code::FamilyMismatch, "backend[0].address"),
        ("nat", 80, format!(r#"{v4},"port":0"#), Code::BackendPortZero, "backend[0].port"),
        ("l2", 80, format!(r#"{v4},"port":81"#), Code::BackendPortInDirectReturn, "backend[0].port"),
        ("ipip", 0, format!(r#"{v4},"port":81"#), Code::BackendPortInDirectReturn, "backend[0].port"),
        ("nat", 80, format!(r#"{v4},"weight":65536"#), Code::WeightRange, "backend[0].weight"),
    ] {
        refused(&state, &vip(mode, port, &backend), code, place);
    }
}

#[test]
fn tenants_with_vips_and_the_default_one_stay() {
    let owned = r#"{"kind":"vip_add","name":"v","address":"203.0.113.1","port":80,"tenant":"red"}"#;
    let state = after(&[r#"{"kind":"tenant_add","name":"red"}"#, owned]);
    refused(&state, r#"{"kind":"tenant_remove","name":"red"}"#, Code::TenantNotEmpty, "name");
    refused(&state, r#"{"kind":"tenant_remove","name":"default"}"#, Code::DefaultTenant, "name");
    let unknown = owned.replace("red", "blue").replace("\"v\"", "\"w\"").replace(".1\"", ".2\"");
    refused(&state, &unknown, Code::UnknownTenant, "tenant");
}

#[test]
fn disruption_must_be_meant() {
    let mut state = after(&[WEB]);
    refused(&state, r#"{"kind":"vip_remove","name":"web"}"#, Code::Disruption, "");
    run(&mut state, r#"{"kind":"backend_set","vip":"web","name":"b1","intent":"draining"}"#).unwrap();
    run(&mut state, r#"{"kind":"backend_remove","vip":"web","name":"b2"}"#).unwrap();
    for last in [
        r#"{"kind":"backend_remove","vip":"web","name":"b3"}"#,
        r#"{"kind":"backend_set","vip":"web","name":"b3","weight":0}"#,
        r#"{"kind":"backend_set","vip":"web","name":"b3","intent":"disabled"}"#,
    ] {
        refused(&state, last, Code::Disruption, "");
        let meant = last.replace("}", r#","allow_disruption":true}"#);
        run(&mut state.clone(), &meant).unwrap();
    }
    run(&mut state, r#"{"kind":"backend_remove","vip":"web","name":"b1"}"#).unwrap();
    run(&mut state, r#"{"kind":"vip_remove","name":"web","allow_disruption":true}"#).unwrap();
    assert!(state.vips.is_empty());
}

#[test]
fn a_document_may_not_take_much_of_a_pool_at_once() {
    let state = after(&[WEB]);
    let apply = |weights: [u32; 3]| {
        let [a, b, c] = weights;
        format!(
            r#"{{"kind":"apply","document":{{"vip":[{{"name":"web","address":"203.0.113.10","port":80,"mode":"l2",
            "backend":[{{"name":"b1","address":"10.0.0.1","weight":{a}}},{{"name":"b2","address":"10.0.0.2",
            "weight":{b}}},{{"name":"b3","address":"10.0.0.3","weight":{c}}}]}}]}}}}"#
        )
    };
    refused(&state, &apply([50, 55, 100]), Code::Disruption, "");
    run(&mut state.clone(), &apply([55, 55, 100])).unwrap();
    run(&mut state.clone(), &apply([0, 100, 100])).unwrap();
    refused(&state, r#"{"kind":"apply","document":{},"prune":true}"#, Code::Disruption, "");
}

#[test]
fn a_document_is_brought_about_and_then_changes_nothing() {
    let apply = r#"{"kind":"apply","prune":true,"document":{"tenant":[{"name":"red"}],"vip":[
        {"name":"a","address":"203.0.113.1","port":80,"tenant":"red","backend":[{"name":"b","address":"10.0.0.1"}]},
        {"name":"c","address":"203.0.113.1","port":81,"tenant":"red"}]}}"#;
    let mut state = after(&[WEB]);
    refused(&state, apply, Code::Disruption, "");
    let meant = apply.replace("\"prune\"", "\"allow_disruption\":true,\"prune\"");
    run(&mut state, &meant).unwrap();
    assert_eq!(state.vips.keys().collect::<Vec<_>>(), ["a", "c"]);
    let events = run(&mut state, apply).unwrap();
    assert!(matches!(events[0].change, Change::CommandAccepted { .. }));
    // Without prune nothing goes.
    run(&mut state, r#"{"kind":"apply","document":{}}"#).unwrap();
    assert_eq!((state.vips.len(), state.tenants.len()), (2, 2));
    // A rename takes the address over in one step.
    let renamed = meant.replace(r#""name":"a""#, r#""name":"z""#);
    run(&mut state, &renamed).unwrap();
    assert_eq!(state.vips.keys().collect::<Vec<_>>(), ["c", "z"]);
}

#[test]
fn a_document_replaces_what_can_never_become_that_and_brings_trips_back() {
    let apply = |backends: &str, rest: &str| {
        format!(
            r#"{{"kind":"apply","allow_disruption":true,"prune":true,"document":{{"vip":[{{"name":"web",
            "address":"203.0.113.10","port":80,"mode":"l2","backend":[{backends}]}}]}},{rest}}}"#
        )
    };
    let (plain, backup) =
        (r#"{"name":"b1","address":"10.0.0.1"}"#, r#"{"name":"b1","address":"10.0.0.1","backup":true}"#);
    let mut state = after(&[WEB]);
    let id = state.backend("web", "b1").unwrap().id;
    refused(&state, &apply(backup, r#""replace":false"#), Code::BackupFixed, "vip[0].backend[0].backup");
    run(&mut state, &apply(backup, r#""replace":true"#)).unwrap();
    let b1 = state.backend("web", "b1").unwrap();
    assert!(b1.backup && b1.id != id, "another one");
    let (tripped, none) = (r#""replace":true,"trips":["web/b1"]"#, r#""replace":true,"trips":[]"#);
    // One that is made by the same document is tripped with it.
    let events = run(&mut state, &apply(plain, tripped)).unwrap();
    assert!(matches!(events.last().unwrap().change, Change::BreakerTripped { .. }), "{events:?}");
    assert!(state.backend("web", "b1").unwrap().breaker.tripped);
    for rest in [tripped, r#""replace":true"#] {
        let events = run(&mut state, &apply(plain, rest)).unwrap();
        assert!(matches!(events[0].change, Change::CommandAccepted { .. }), "{rest}: {events:?}");
    }
    let events = run(&mut state, &apply(plain, none)).unwrap();
    assert!(events.len() == 1 && matches!(events[0].change, Change::BreakerReset { .. }), "{events:?}");
    refused(&state, &apply(plain, tripped).replace("\"allow_disruption\":true,", ""), Code::Disruption, "");
    for unknown in [r#""trips":["web/b9"]"#, r#""trips":["b1"]"#] {
        refused(&state, &apply(plain, unknown), Code::UnknownBackend, "trips");
    }
}

#[test]
fn a_document_shows_all_its_faults_at_once() {
    let state = after(&[WEB]);
    let twice = r#"{"kind":"apply","document":{"vip":[{"name":"x","address":"203.0.113.1","port":1},
        {"name":"x","address":"203.0.113.2","port":1}]}}"#;
    refused(&state, twice, Code::DuplicateVip, "vip[1].name");
    let rejection = decide(&state, &Limits::default(), Now(0), &command(twice)).unwrap_err();
    assert_eq!(rejection.related.as_deref(), Some("vip[0].name"));
    let many = r#"{"kind":"apply","document":{"tenant":[{"name":"T"}],"vip":[
        {"name":"web","address":"203.0.113.99","port":80},
        {"name":"x","address":"203.0.113.1","port":1,"window_s":0,"backend":[
            {"name":"b","address":"127.0.0.1","weight":70000},{"name":"c","address":"10.0.0.1","port":0}]}]}}"#;
    let places = faults(&state, many);
    let expected = [
        (Code::BadName, "tenant[0].name"),
        (Code::VipIdentity, "vip[0].address"),
        (Code::WindowRange, "vip[1].window_s"),
        (Code::BadBackendAddress, "vip[1].backend[0].address"),
        (Code::WeightRange, "vip[1].backend[0].weight"),
        (Code::BackendPortZero, "vip[1].backend[1].port"),
    ];
    assert_eq!(places, expected.map(|(code, place)| (code, place.to_string())));
    let moved = r#"{"kind":"apply","document":{"vip":[{"name":"web","address":"203.0.113.10","port":80,"mode":"l2",
        "backend":[{"name":"b1","address":"10.0.0.77"}]}]}}"#;
    refused(&state, moved, Code::BackendIdentity, "vip[0].backend[0].address");
}

#[test]
fn full_tables_refuse_and_shrinking_is_always_allowed() {
    let state = after(&[WEB]);
    let limits = |vips, vip_keys, backends, slots| Limits {
        vips,
        vip_keys,
        backends,
        slots,
        sources: 0,
        ..Limits::default()
    };
    let add_vip = command(r#"{"kind":"vip_add","name":"v","address":"203.0.113.1","port":80}"#);
    let add_backend = command(r#"{"kind":"backend_add","vip":"web","name":"x","address":"10.0.0.9"}"#);
    for (limits, command) in [
        (limits(1, 99, 99, 999_999), &add_vip),
        (limits(9, 3, 99, 999_999), &add_vip),
        (limits(9, 99, 99, 131_073), &add_vip),
        (limits(9, 99, 3, 999_999), &add_backend),
    ] {
        let rejection = decide(&state, &limits, Now(0), command).unwrap_err();
        assert_eq!((rejection.code, rejection.also.len()), (Code::Capacity, 0), "{}", rejection.message);
    }
    assert!(decide(&state, &limits(2, 4, 4, 131_074), Now(0), &add_vip).is_ok());
    let remove = command(r#"{"kind":"backend_remove","vip":"web","name":"b1"}"#);
    assert!(decide(&state, &limits(0, 0, 0, 0), Now(0), &remove).is_ok());
}

#[test]
fn unknown_fields_and_kinds_are_no_commands() {
    for bad in [
        r#"{"kind":"vip_make","name":"x"}"#,
        r#"{"kind":"vip_remove","name":"x","force":true}"#,
        r#"{"kind":"vip_add","name":"x","address":"203.0.113.1","port":80,"protocol":"sctp"}"#,
        r#"{"kind":"vip_add","name":"x","address":"203.0.113.1","port":80,"probe":{"kind":"tcp","retry":1}}"#,
        r#"{"kind":"backend_add","vip":"x","name":"b","address":"host"}"#,
        r#"{"kind":"apply","document":{"vips":[]}}"#,
        r#"{"kind":"bypass_set","on":true,"x":1}"#,
    ] {
        assert!(serde_json::from_str::<Command>(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_document_is_toml_too() {
    let document: crate::command::Document = toml::from_str(
        "[[tenant]]\nname = 'red'\n[[vip]]\nname = 'web'\ntenant = 'red'\naddress = '203.0.113.1'\nport = 80\n\
         probe = { interval_ms = 200 }\n[[vip.backend]]\nname = 'b1'\naddress = '10.0.0.1'\nweight = 5\n",
    )
    .unwrap();
    assert_eq!(document.vips[0].backends[0].weight, 5);
    assert!(toml::from_str::<crate::command::Document>("[[vip]]\nnam = 'x'").is_err());
}

proptest! {
    #[test]
    fn the_log_replayed_is_the_state(commands in proptest::collection::vec(any_command(), 1..60)) {
        let (mut state, mut log) = (State::default(), Vec::new());
        let (mut vips, mut backends, mut tenants) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for (index, command) in commands.iter().enumerate() {
            let json = serde_json::to_string(command).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Command>(&json).unwrap(), command);
            let before = state.digest();
            let Ok(events) = decide(&state, &Limits::default(), Now(index as u64), command) else {
                prop_assert_eq!(state.digest(), before);
                continue;
            };
            prop_assert!(!events.is_empty());
            for event in events {
                match event.change {
                    Change::VipAdded { id, .. } => prop_assert!(vips.insert(id), "vip {:?} twice", id),
                    Change::BackendAdded { id, .. } => prop_assert!(backends.insert(id), "backend {:?} twice", id),
                    Change::TenantAdded { id, .. } => prop_assert!(tenants.insert(id), "tenant {:?} twice", id),
                    _ => {}
                }
                let json = serde_json::to_string(&event).unwrap();
                let read: Event = serde_json::from_str(&json).unwrap();
                prop_assert_eq!(&read, &event);
                state.apply(&event);
                log.push(read);
                let prefix = State::replay(&log);
                prop_assert_eq!(&prefix, &state);
                prop_assert_eq!(prefix.digest(), state.digest());
            }
        }
    }
}

/// A state with a vip of two backends, a document of it, and one that has other things under the same names.
fn replaced() -> (State, serde_json::Value) {
    let mut state = State::default();
    for json in [
        r#"{"kind":"vip_add","name":"web","address":"203.0.113.1","port":80,"mode":"l2",
            "backend":[{"name":"b1","address":"10.0.0.1"},{"name":"b2","address":"10.0.0.2"}]}"#,
        r#"{"kind":"vip_add","name":"dns","address":"203.0.113.2","port":53,"protocol":"udp","mode":"l2"}"#,
    ] {
        let command = serde_json::from_str(json).unwrap();
        state = rehearse(&state, &Limits::default(), Now(0), &command).unwrap().after;
    }
    let document = serde_json::json!({ "vip": [
        // The addresses change places, and b2 is another machine.
        { "name": "web", "address": "203.0.113.1", "port": 80, "mode": "l2",
          "backend": [{ "name": "b1", "address": "10.0.0.1" }, { "name": "b2", "address": "10.0.0.9" }] },
        { "name": "dns", "address": "203.0.113.3", "port": 53, "protocol": "udp", "mode": "l2" },
    ]});
    (state, document)
}

#[test]
fn what_can_never_become_what_is_wanted_makes_way_if_it_is_told_to() {
    let (state, document) = replaced();
    let apply = |more: serde_json::Value| -> Command {
        let mut json = serde_json::json!({ "kind": "apply", "document": document });
        json.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(json).unwrap()
    };
    let decided = |command: &Command| rehearse(&state, &Limits::default(), Now(0), command);
    let refused = decided(&apply(serde_json::json!({}))).unwrap_err();
    assert!([Code::BackendIdentity, Code::VipIdentity].contains(&refused.code), "{refused:?}");
    // Half of the weight in one backend is the ordinary way of working.
    let after = decided(&apply(serde_json::json!({ "replace": true, "bypass": true }))).unwrap();
    let kinds: Vec<_> = after.events.iter().map(|event| event.change.clone()).collect();
    assert_eq!(kinds[0], Change::BypassChanged { on: true }, "first of all");
    assert_eq!(after.after.backend("web", "b2").unwrap().address, std::net::IpAddr::from([10, 0, 0, 9]));
    assert_eq!(after.after.backend("web", "b1"), state.backend("web", "b1"), "what fits stays");
    assert_ne!(after.after.vips["dns"].id, state.vips["dns"].id);
    assert!(after.after.bypass);
    // Done once, it is done.
    let off = apply(serde_json::json!({ "replace": true, "bypass": false }));
    let again = rehearse(&after.after, &Limits::default(), Now(0), &off).unwrap();
    let changes: Vec<_> = again.events.iter().map(|event| &event.change).collect();
    assert_eq!(changes, [&Change::BypassChanged { on: false }]);
}

#[test]
fn another_vip_or_pool_under_the_same_names_ends_the_flows_of_the_former() {
    let (state, _) = replaced();
    let with = |address: &str, backends: [&str; 2]| -> Command {
        let backend = |(name, address)| serde_json::json!({ "name": name, "address": address });
        let backends: Vec<_> = ["b1", "b2"].into_iter().zip(backends).map(backend).collect();
        serde_json::from_value(serde_json::json!({
            "kind": "apply", "replace": true, "document": { "vip": [
                { "name": "web", "address": address, "port": 80, "mode": "l2", "backend": backends },
            ]},
        }))
        .unwrap()
    };
    for command in
        [with("203.0.113.7", ["10.0.0.1", "10.0.0.2"]), with("203.0.113.1", ["10.0.0.8", "10.0.0.9"])]
    {
        let refused = rehearse(&state, &Limits::default(), Now(0), &command).unwrap_err();
        assert_eq!(refused.code, Code::Disruption, "{command:?}");
        let Command::Apply(apply) = command else { panic!("an apply") };
        let allowed = Command::Apply(crate::command::Apply { allow_disruption: true, ..apply });
        rehearse(&state, &Limits::default(), Now(0), &allowed).unwrap();
    }
}
