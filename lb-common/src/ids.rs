//! Identifiers as newtypes over explicit widths.
//!
//! Serials ([`VipId`], [`BackendId`], [`TenantId`]) come from the log of intent and are never reused.
//! Row numbers (`u16` in the map layouts) belong to the data plane: which serial sits in which row is read
//! back from the rows themselves.

macro_rules! serial {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
        pub struct $name(pub u32);
    };
}

serial!(
    /// A vip's serial number in the log; 0 is none.
    VipId
);
serial!(
    /// A backend's serial number in the log; 0 is none. A backend belongs to one vip.
    BackendId
);
serial!(
    /// A tenant's serial number in the log; 0 is none.
    TenantId
);
