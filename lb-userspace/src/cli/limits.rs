//! The flags of a tenant's limits, one for each of the list: `--packets-per-s 10000`, `--packets-per-s unlimited`.

use std::collections::BTreeMap;

use clap::{Arg, ArgMatches, Command, Error};
use lb_control::tenant::{Limit, TenantLimits};

/// What the flags said: a value, or `unlimited`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LimitFlags(pub(super) BTreeMap<Limit, Option<u64>>);

impl LimitFlags {
    /// The limits of a new tenant.
    pub(super) fn given(&self) -> TenantLimits {
        self.0.iter().fold(TenantLimits::default(), |limits, (limit, value)| limits.with(*limit, *value))
    }
}

/// A flag's value.
#[derive(Clone, Copy, Debug)]
struct Amount(Option<u64>);

fn amount(text: &str) -> Result<Amount, String> {
    match text {
        "unlimited" => Ok(Amount(None)),
        text => match text.parse() {
            Ok(number) => Ok(Amount(Some(number))),
            Err(_) => Err("it is a whole number, or `unlimited`".to_owned()),
        },
    }
}

/// A flag's name and what it says in `--help`.
const fn flag(limit: Limit) -> (&'static str, &'static str) {
    match limit {
        Limit::PacketsPerS => ("packets-per-s", "Packets a second to its vips"),
        Limit::BitsPerS => ("bits-per-s", "Bits a second to its vips, of frames as they arrive"),
        Limit::NewConnectionsPerS => {
            ("new-connections-per-s", "New connections a second: TCP SYNs, and UDP flows that are remembered")
        }
        Limit::BurstMs => ("burst-ms", "What may come at once, milliseconds of each rate [default: 100]"),
        Limit::Connections => ("connections", "Tracked connections; its vips remember every flow then"),
        Limit::FlowSharePercent => ("flow-share-percent", "Its share of the flow table, percent"),
        Limit::NatSharePercent => ("nat-share-percent", "Its share of the NAT ports, percent"),
        Limit::Vips => ("vips", "Vips"),
        Limit::Backends => ("backends", "Backends of all its vips"),
        Limit::CommandsPerS => ("commands-per-s", "Commands a second that touch its vips"),
        Limit::ProbeWorkers => ("probe-workers", "Probes of its backends at the same time"),
    }
}

impl clap::Args for LimitFlags {
    fn augment_args(command: Command) -> Command {
        Limit::ALL.into_iter().fold(command, |command, limit| {
            let (name, help) = flag(limit);
            let arg = Arg::new(limit.name()).long(name).value_name("COUNT").help(help);
            command.arg(arg.value_parser(amount).allow_negative_numbers(true))
        })
    }
    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for LimitFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let value = |limit: Limit| Some((limit, matches.get_one::<Amount>(limit.name())?.0));
        Ok(Self(Limit::ALL.into_iter().filter_map(value).collect()))
    }
    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        self.0.extend(Self::from_arg_matches(matches)?.0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args, FromArgMatches};

    fn parse(words: &[&str]) -> Result<LimitFlags, Error> {
        let matches = LimitFlags::augment_args(Command::new("set")).try_get_matches_from(words)?;
        LimitFlags::from_arg_matches(&matches)
    }

    #[test]
    fn every_limit_has_its_flag_and_nothing_else_is_taken() {
        for limit in Limit::ALL {
            assert_eq!(flag(limit).0, limit.name().replace('_', "-"));
            let flag = format!("--{}", flag(limit).0);
            assert_eq!(parse(&["set", &flag, "7"]).unwrap().0, BTreeMap::from([(limit, Some(7))]));
            assert_eq!(parse(&["set", &flag, "unlimited"]).unwrap().0, BTreeMap::from([(limit, None)]));
            for bad in ["-1", "1.5", "many", ""] {
                assert!(parse(&["set", &flag, bad]).is_err(), "{bad}");
            }
        }
        assert_eq!(parse(&["set"]).unwrap(), LimitFlags::default());
    }
}
