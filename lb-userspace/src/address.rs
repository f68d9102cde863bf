//! Addresses as people type them: `ADDRESS`, `ADDRESS:PORT`, `ADDRESS:PORT/PROTOCOL`; IPv6 in brackets where a port
//! follows. One grammar for the CLI and the API's queries.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use lb_control::vip::{Protocol, Served};

use crate::problem::{Code, Problem};
use crate::suggest;

/// What a vip serves: `203.0.113.10:80/tcp`, `[2001:db8::10]:53/udp`. Without a protocol it is TCP; port 0 is every port.
///
/// # Errors
/// It is not of that form.
pub fn served(text: &str) -> Result<Served, Problem> {
    let (socket, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        other => {
            let hint = suggest::hint(other, ["tcp", "udp"]);
            let message = format!("`{other}` is no protocol of a vip; they are tcp and udp{hint}");
            return Err(Problem::new(Code::BadAddress, message).at(text));
        }
    };
    match host(socket)? {
        (address, Some(port)) => Ok(Served { address, port, protocol }),
        (address, None) => {
            let example = bracketed(socket).unwrap_or_else(|| SocketAddr::new(address, 80));
            let message =
                format!("`{text}` has no port: a vip is ADDRESS:PORT/PROTOCOL, such as {example}/{protocol}");
            Err(Problem::new(Code::BadAddress, message).at(text))
        }
    }
}

/// What an IPv6 address means whose last group could be a port that somebody put behind it without brackets.
fn bracketed(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.rsplit_once(':')?;
    Some(SocketAddr::new(address.parse::<Ipv6Addr>().ok()?.into(), port.parse().ok()?))
}

/// An address with or without a port: `10.0.0.11`, `10.0.0.11:8080`, `2001:db8::11`, `[2001:db8::11]:8080`.
///
/// # Errors
/// It is not of that form.
pub fn host(text: &str) -> Result<(IpAddr, Option<u16>), Problem> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok((address, None));
    }
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return Ok((socket.ip(), Some(socket.port())));
    }
    let message = match text.rsplit_once(':') {
        Some((address, port)) if address.parse::<IpAddr>().is_ok() => {
            format!("`{port}` is no port: a port is a number from 0 to 65535")
        }
        _ => format!("`{text}` is no IPv4 or IPv6 address (names are not looked up)"),
    };
    Err(Problem::new(Code::BadAddress, message).at(text))
}

/// A backend as `VIP/BACKEND`.
///
/// # Errors
/// There is not exactly one slash with a name on each side.
pub fn backend(text: &str) -> Result<(String, String), Problem> {
    match text.split_once('/') {
        Some((vip, name)) if !vip.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok((vip.to_owned(), name.to_owned()))
        }
        _ => Err(Problem::new(Code::BadTarget, format!("`{text}` does not name a backend as VIP/BACKEND"))
            .at(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_vip_serves() {
        assert_eq!(served("203.0.113.10:80/tcp").unwrap().to_string(), "203.0.113.10:80/tcp");
        assert_eq!(served("203.0.113.10:80").unwrap().to_string(), "203.0.113.10:80/tcp");
        assert_eq!(served("[2001:db8::10]:53/udp").unwrap().to_string(), "[2001:db8::10]:53/udp");
        assert_eq!(served("203.0.113.10:0/udp").unwrap().port, 0);
    }

    #[test]
    fn what_is_no_address_says_why() {
        let message = |text: &str| served(text).unwrap_err().message;
        assert!(message("203.0.113.10:80/tpc").contains("did you mean `tcp`"));
        assert!(message("203.0.113.10").contains("has no port"));
        assert!(message("203.0.113.10:99999/tcp").contains("`99999` is no port"));
        assert!(message("web.example:80").contains("names are not looked up"));
        assert!(message("2001:db8::1/tcp").contains("[2001:db8::1]:80/tcp"));
        assert!(message("2001:db8::1:80/tcp").contains("such as [2001:db8::1]:80/tcp"));
        assert!(message("2001:db8::1:53/udp").contains("such as [2001:db8::1]:53/udp"));
        assert!(message("203.0.113.10/udp").contains("such as 203.0.113.10:80/udp"));
    }

    #[test]
    fn a_backend_is_named_in_its_vip() {
        assert_eq!(backend("web/b1").unwrap(), ("web".to_owned(), "b1".to_owned()));
        for bad in ["web", "/b1", "web/", "web/b1/x"] {
            assert!(backend(bad).is_err(), "{bad}");
        }
    }
}
