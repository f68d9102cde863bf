//! The fields of an object as names and values, in the words of the configuration file: what a comparison compares, what
//! is blamed, what a person is shown. One list for all three.

use serde_json::Value;

use crate::backend::{BreakerOrder, Intent};
use crate::tenant::{Limit, TenantLimits};
use crate::vip::{Served, VipSettings};
use std::net::IpAddr;

/// A field and its value.
pub type Field = (String, String);

/// Fields of a vip that never change in its life.
pub const OF_IDENTITY: [&str; 2] = ["serves", "tenant"];

/// Fields of a vip, in order: what it serves, its tenant, then its settings.
pub fn vip(served: &Served, tenant: &str, settings: &VipSettings) -> Vec<Field> {
    let identity = OF_IDENTITY.map(str::to_owned).into_iter().zip([served.to_string(), tenant.to_owned()]);
    identity.chain(self::settings(settings)).collect()
}

/// Fields of a tenant: every limit, in order; one that there is not is `unlimited`.
pub fn limits(limits: &TenantLimits) -> Vec<Field> {
    let value = |limit| limits.of(limit).map_or("unlimited".to_owned(), |value| value.to_string());
    Limit::ALL.into_iter().map(|limit| (limit.name().to_owned(), value(limit))).collect()
}

/// Fields of a vip's settings; those of the probe as `probe.…`, of the breaker, the balancing and the ladder likewise.
pub fn settings(settings: &VipSettings) -> Vec<Field> {
    let mut value = serde_json::to_value(settings).expect("settings have string keys only");
    // A field that is as of old is not in the log, but a field all the same.
    value["breaker"] = serde_json::to_value(settings.breaker).expect("settings have string keys only");
    value["balancing"] = serde_json::to_value(settings.balancing).expect("settings have string keys only");
    value["ladder"] = serde_json::to_value(&settings.ladder).expect("settings have string keys only");
    value["probe"]["retries"] = settings.probe.retries.into();
    value["probe"]["verify"] = settings.probe.verify.into();
    let mut fields = Vec::new();
    flatten("", &value, &mut fields);
    fields
}

fn flatten(path: &str, value: &Value, fields: &mut Vec<Field>) {
    match value {
        Value::Object(inner) => {
            for (name, value) in inner {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                flatten(&path, value, fields);
            }
        }
        Value::String(text) => fields.push((path.to_owned(), text.clone())),
        other => fields.push((path.to_owned(), other.to_string())),
    }
}

/// Fields of a backend, in order.
pub fn backend(
    address: IpAddr,
    port: u16,
    weight: u16,
    intent: Intent,
    backup: bool,
    breaker: BreakerOrder,
) -> Vec<Field> {
    vec![
        ("address".to_owned(), address.to_string()),
        ("port".to_owned(), port.to_string()),
        ("weight".to_owned(), weight.to_string()),
        ("intent".to_owned(), intent.to_string()),
        ("backup".to_owned(), backup.to_string()),
        ("breaker".to_owned(), breaker_order(breaker.tripped)),
    ]
}

/// What a person last ordered of a backend's breaker, as a value.
pub fn breaker_order(tripped: bool) -> String {
    if tripped { "tripped" } else { "automatic" }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vip::{Mode, Protocol};

    #[test]
    fn every_setting_is_a_field() {
        let defaults = VipSettings::defaults(Protocol::Tcp, 80, Mode::L2);
        let served = Served { address: [203, 0, 113, 1].into(), port: 80, protocol: Protocol::Tcp };
        let fields = vip(&served, "acme", &defaults);
        let value = |name: &str| fields.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str());
        assert_eq!(value("serves"), Some("203.0.113.1:80/tcp"));
        assert_eq!(
            (value("tenant"), value("mode"), value("window_s")),
            (Some("acme"), Some("l2"), Some("900"))
        );
        assert_eq!((value("probe.kind"), value("probe.interval_ms")), (Some("tcp"), Some("200")));
    }
}
