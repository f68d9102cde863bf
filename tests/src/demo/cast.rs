//! Who plays: the vips of the demo, and the document by which the balancer learns of them and of its backends.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use crate::topology::{Backend, ECHO_PORT, vip};

/// Port of the web vips; every vip probes there by HTTP, since a backend that hangs goes on taking connections.
const HTTP_PORT: u16 = 80;
/// How long a slot that moved keeps the flows that began before, seconds; short, so that a demo sees its end.
const WINDOW_S: u32 = 3;
/// After how long without a packet a remembered flow may be forgotten, seconds.
const IDLE_S: u32 = 5;

/// How packets reach the backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Direct return on the same link: only the Ethernet header is rewritten.
    L2,
    /// Direct return through a tunnel, unwrapped by `lb decap` on the backends.
    Ipip,
    /// Addresses are translated there and back; backends know nothing.
    Nat,
}

impl Mode {
    /// The word that the balancer knows it by.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::L2 => "l2",
            Self::Ipip => "ipip",
            Self::Nat => "nat",
        }
    }
}

/// A vip of the demo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// Its name.
    pub name: &'static str,
    /// Whether its address is an IPv6 one.
    pub is_v6: bool,
    /// Its port.
    pub port: u16,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
}

/// HTTP on IPv4.
pub const WEB4: Served = Served { name: "web4", is_v6: false, port: HTTP_PORT, protocol: "tcp" };
/// HTTP on IPv6.
pub const WEB6: Served = Served { name: "web6", is_v6: true, port: HTTP_PORT, protocol: "tcp" };
/// Long-lived connections on IPv4.
pub const CHAT4: Served = Served { name: "chat4", is_v6: false, port: ECHO_PORT, protocol: "tcp" };
/// Long-lived connections on IPv6.
pub const CHAT6: Served = Served { name: "chat6", is_v6: true, port: ECHO_PORT, protocol: "tcp" };
/// Datagrams on IPv4.
pub const UDP4: Served = Served { name: "udp4", is_v6: false, port: ECHO_PORT, protocol: "udp" };
/// Datagrams on IPv6.
pub const UDP6: Served = Served { name: "udp6", is_v6: true, port: ECHO_PORT, protocol: "udp" };

/// All vips of the tenant whose requests are counted.
pub const SERVED: [Served; 6] = [WEB4, WEB6, CHAT4, CHAT6, UDP4, UDP6];

/// The tenant whose requests are counted.
pub const TENANT: &str = "demo";
/// The tenant beside it, that floods its vip.
pub const NOISY: &str = "noisy";
/// What the counted tenant may have, packets/s: far more than it takes. With a limit it has figures of its own.
const TENANT_PPS: u32 = 1_000_000;

/// The vip of [`NOISY`]: datagrams to an address of its own.
#[must_use]
pub fn noisy() -> SocketAddr {
    SocketAddr::new(vip(1).v4.into(), ECHO_PORT)
}

impl Served {
    /// Its address and port.
    #[must_use]
    pub fn socket(&self) -> SocketAddr {
        let pair = vip(0);
        let address: IpAddr = if self.is_v6 { pair.v6.into() } else { pair.v4.into() };
        SocketAddr::new(address, self.port)
    }

    /// The address of `backend` that serves it: of the vip's own family.
    #[must_use]
    pub fn backend_address(&self, backend: &Backend) -> IpAddr {
        let pair = backend.addresses();
        if self.is_v6 { pair.v6.into() } else { pair.v4.into() }
    }
}

/// The whole configuration as a file for `lb apply`.
#[must_use]
pub fn document(mode: Mode, backends: &[Backend]) -> String {
    let mut text = format!("[[tenant]]\nname = \"{TENANT}\"\npackets_per_s = {TENANT_PPS}\n");
    for served in SERVED {
        let Served { name, port, protocol, .. } = served;
        let (address, mode) = (served.socket().ip(), mode.word());
        let _ = write!(
            text,
            "\n[[vip]]\nname = \"{name}\"\naddress = \"{address}\"\nport = {port}\nprotocol = \"{protocol}\"\n\
             tenant = \"{TENANT}\"\nmode = \"{mode}\"\nwindow_s = {WINDOW_S}\nidle_s = {IDLE_S}\n\
             probe = {{ kind = \"http\", port = {HTTP_PORT} }}\n"
        );
        for backend in backends {
            let (name, address) = (backend.name(), served.backend_address(backend));
            let _ = write!(text, "\n[[vip.backend]]\nname = \"{name}\"\naddress = \"{address}\"\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_one_that_the_balancer_takes() {
        let dir = crate::scratch::ScratchDir::create().unwrap();
        let file = dir.path().join("demo.toml");
        std::fs::write(&file, document(Mode::Ipip, &[])).unwrap();
        let source = lb_userspace::config::Source::read(&file).unwrap();
        let document = source.parse().map_err(|report| report.text(false)).unwrap().document;
        let names: Vec<&str> = document.vips.iter().map(|vip| vip.name.as_str()).collect();
        assert_eq!(names, SERVED.map(|served| served.name));
        assert!(document.vips.iter().all(|vip| vip.window_s == Some(WINDOW_S)));
    }
}
