//! What a change is about, by name: `vip web`, `backend web/b1`, `tenant acme`, `bypass`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::event::Change;

/// An object, by the names that people use.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Object {
    /// The emergency bypass.
    Bypass,
    /// A tenant.
    Tenant(Arc<str>),
    /// A vip.
    Vip(Arc<str>),
    /// A backend: the names of its vip and its own.
    Backend(Arc<str>, Arc<str>),
}

impl Object {
    /// What a change is about; `None` for a command that changed nothing.
    pub fn of(change: &Change) -> Option<Self> {
        Some(match change {
            Change::TenantAdded { tenant, .. }
            | Change::TenantLimitsChanged { tenant, .. }
            | Change::TenantRemoved { tenant } => Self::Tenant(tenant.as_str().into()),
            Change::VipAdded { vip, .. }
            | Change::VipSettingsChanged { vip, .. }
            | Change::VipRemoved { vip } => Self::Vip(vip.as_str().into()),
            Change::BackendAdded { vip, backend, .. }
            | Change::BackendWeightChanged { vip, backend, .. }
            | Change::BackendIntentChanged { vip, backend, .. }
            | Change::BreakerTripped { vip, backend }
            | Change::BreakerReset { vip, backend }
            | Change::BackendRemoved { vip, backend } => {
                Self::Backend(vip.as_str().into(), backend.as_str().into())
            }
            Change::BypassChanged { .. } => Self::Bypass,
            Change::CommandAccepted { .. } => return None,
        })
    }

    /// Whether a change of `other` is one of this too: a backend is part of its vip.
    pub fn holds(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Vip(vip), Self::Backend(of, _)) => vip == of,
            _ => self == other,
        }
    }

    /// What it is, without its name.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::Tenant(_) => "tenant",
            Self::Vip(_) => "vip",
            Self::Backend(..) => "backend",
        }
    }

    /// Its name, without what it is.
    pub fn name(&self) -> String {
        match self {
            Self::Bypass => String::new(),
            Self::Tenant(name) | Self::Vip(name) => name.to_string(),
            Self::Backend(vip, name) => format!("{vip}/{name}"),
        }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bypass => f.write_str("bypass"),
            Self::Tenant(name) => write!(f, "tenant {name}"),
            Self::Vip(name) => write!(f, "vip {name}"),
            Self::Backend(vip, name) => write!(f, "backend {vip}/{name}"),
        }
    }
}

/// It is none of `vip NAME`, `backend VIP/NAME`, `tenant NAME`, `bypass`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an object is `vip NAME`, `backend VIP/NAME`, `tenant NAME` or `bypass`")]
pub struct NoObject;

impl FromStr for Object {
    type Err = NoObject;

    fn from_str(text: &str) -> Result<Self, NoObject> {
        let (kind, name) = text.split_once(' ').unwrap_or((text, ""));
        match (kind, name) {
            ("bypass", "") => Ok(Self::Bypass),
            (_, "") => Err(NoObject),
            ("tenant", name) => Ok(Self::Tenant(name.into())),
            ("vip", name) => Ok(Self::Vip(name.into())),
            ("backend", name) => {
                let (vip, backend) = name.split_once('/').ok_or(NoObject)?;
                Ok(Self::Backend(vip.into(), backend.into()))
            }
            _ => Err(NoObject),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_written_as_it_is_read() {
        for text in ["vip web", "backend web/b1", "tenant acme", "bypass"] {
            assert_eq!(text.parse::<Object>().unwrap().to_string(), text);
        }
        for bad in ["", "vip", "backend web", "pool web", "bypass on"] {
            assert_eq!(bad.parse::<Object>(), Err(NoObject), "{bad}");
        }
        let vip: Object = "vip web".parse().unwrap();
        assert!(vip.holds(&"backend web/b1".parse().unwrap()) && !vip.holds(&"vip dns".parse().unwrap()));
    }
}
