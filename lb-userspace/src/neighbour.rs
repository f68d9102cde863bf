//! The ways to the backends, out of the kernel's routes, neighbours and links: nobody types a MAC.
//!
//! Everything is watched over netlink: a change of routes, rules, links or addresses resolves all anew after a short
//! while, a change of a neighbour that is used resolves at once. A neighbour that is not known is asked for
//! every second; one that is known is asked again every [`REFRESH`], since the kernel forgets what only XDP uses.
//!
//! A hardware address, once known, is not taken back: a neighbour that falls silent has `next_hop_mac` `None`, and
//! whoever uses the way keeps the last one.

mod route;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Result;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use lb_common::ids::BackendId;
use lb_control::vip::Vip;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use self::route::Route;
use self::world::World;
use crate::engine::Published;
use crate::netlink::{Netlink, messages};
use crate::reconcile::Ways;
use crate::vital;

/// So long after a change of routes, links or addresses all is resolved: they come in bursts.
const SETTLE: Duration = Duration::from_millis(50);
/// Between two questions for a neighbour that is not known.
const ASK: Duration = Duration::from_secs(1);
/// Between two questions for a neighbour that is known: half the least time after which Linux takes one for stale.
const REFRESH: Duration = Duration::from_secs(15);

/// Multicast groups (linux/rtnetlink.h), as bits: links, neighbours, addresses, routes and rules of both families,
/// next hop objects.
const GROUPS: u32 =
    group(1) | group(3) | group(5) | group(7) | group(8) | group(9) | group(11) | group(19) | group(32);

const fn group(number: u32) -> u32 {
    1 << (number - 1)
}

/// Starts to watch the ways to all backends of the state, in a thread of its own that ends with the state's
/// publisher or with the last receiver.
///
/// # Errors
/// Netlink could not be opened.
pub fn start(states: watch::Receiver<Published>) -> Result<watch::Receiver<Ways>> {
    let (sender, receiver) = watch::channel(Ways::default());
    let (opened, told) = std::sync::mpsc::channel();
    // A runtime of its own: what waits for the kernel holds nobody up, and it outlives no other.
    vital::spawn("neighbour", move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let opening = runtime.and_then(|runtime| {
            let events = runtime.block_on(async { subscribed() })?;
            Ok((runtime, events, Netlink::new()?))
        });
        let (result, opening) = match opening {
            Ok(opening) => (Ok(()), Some(opening)),
            Err(error) => (Err(error), None),
        };
        let _ = opened.send(result);
        if let Some((runtime, events, netlink)) = opening {
            runtime.block_on(Watcher::new(netlink, sender).run(states, events));
        }
    });
    told.recv().map_err(std::io::Error::other)??;
    Ok(receiver)
}

/// Whether the node throws packets to an address away, without a word.
///
/// # Errors
/// Netlink could not be opened.
pub(crate) fn is_blackhole(to: IpAddr) -> Result<bool> {
    let route = route::look_up(&mut Netlink::new()?, to);
    Ok(matches!(route, Route::Refused(why) if why == route::BLACKHOLE))
}

/// A socket that hears of every change.
fn subscribed() -> Result<TokioSocket> {
    let mut events = TokioSocket::new(NETLINK_ROUTE)?;
    events.socket_mut().bind(&SocketAddr::new(0, GROUPS))?;
    Ok(events)
}

struct Watcher {
    netlink: Netlink,
    world: World,
    /// The state that is followed.
    followed: Published,
    /// Its backends.
    wanted: BTreeMap<BackendId, IpAddr>,
    /// The routes to their addresses.
    routes: BTreeMap<IpAddr, Route>,
    sender: watch::Sender<Ways>,
}

/// How much a message makes old.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Stale {
    /// Nothing that is used.
    #[default]
    Nothing,
    /// Neighbours that ways name.
    Ways,
    /// Routes or links.
    Routes,
    /// Everything: messages were lost.
    All,
}

/// Where a vip's backends are.
fn addresses(vip: &Vip) -> BTreeMap<BackendId, IpAddr> {
    vip.backends.values().map(|backend| (backend.id, backend.address)).collect()
}

impl Watcher {
    fn new(netlink: Netlink, sender: watch::Sender<Ways>) -> Self {
        let (followed, wanted, routes) = (Published::default(), BTreeMap::new(), BTreeMap::new());
        Self { netlink, world: World::default(), followed, wanted, routes, sender }
    }

    async fn run(mut self, mut states: watch::Receiver<Published>, events: TokioSocket) {
        let mut settle_at: Option<Instant> = None;
        let mut stale = Stale::All;
        let (mut ask_at, mut refresh_at) = (Instant::now() + ASK, Instant::now() + REFRESH);
        self.want(&states.borrow_and_update().clone());
        loop {
            let due = settle_at.is_none_or(|at| Instant::now() >= at);
            if stale > Stale::Ways && due {
                self.resolve(stale);
                (stale, settle_at) = (Stale::Ways, None);
            }
            if stale == Stale::Ways {
                self.publish();
                stale = Stale::Nothing;
            }
            tokio::select! {
                changed = states.changed() => match changed {
                    Ok(()) => {
                        if self.want(&states.borrow_and_update().clone()) {
                            stale = stale.max(Stale::Routes);
                        }
                    }
                    Err(_) => return,
                },
                () = self.sender.closed() => return,
                received = events.recv_from_full() => {
                    let now = match received {
                        Ok((datagram, _)) => self.take(&datagram),
                        // ENOBUFS: more came than was read.
                        Err(_) => Stale::All,
                    };
                    if now > Stale::Ways {
                        settle_at.get_or_insert(Instant::now() + SETTLE);
                    }
                    stale = stale.max(now);
                }
                () = sleep_until(settle_at.unwrap_or(ask_at)), if settle_at.is_some() => {}
                () = sleep_until(ask_at) => {
                    ask_at = Instant::now() + ASK;
                    let refresh = Instant::now() >= refresh_at;
                    if refresh {
                        refresh_at = Instant::now() + REFRESH;
                    }
                    self.ask(refresh);
                }
            }
        }
    }

    /// Takes over the backends of a state; whether they changed.
    fn want(&mut self, state: &Published) -> bool {
        let followed = std::mem::replace(&mut self.followed, state.clone());
        let mut differs = false;
        for name in followed.vips_unlike(state) {
            let was = followed.vips.get(name).map(|vip| addresses(vip)).unwrap_or_default();
            let is = state.vips.get(name).map(|vip| addresses(vip)).unwrap_or_default();
            differs |= was != is;
            for id in was.keys() {
                self.wanted.remove(id);
            }
            self.wanted.extend(is);
        }
        differs
    }

    /// Takes over what the kernel said; how much that makes old.
    fn take(&mut self, datagram: &[u8]) -> Stale {
        let said = messages(datagram).map(|message| match message.map(|message| message.payload) {
            Ok(NetlinkPayload::InnerMessage(message)) => self.take_one(&message),
            Ok(_) => Stale::Nothing,
            Err(_) => Stale::All,
        });
        said.max().unwrap_or_default()
    }

    fn take_one(&mut self, message: &RouteNetlinkMessage) -> Stale {
        let (neighbour, gone) = match message {
            RouteNetlinkMessage::NewNeighbour(neighbour) => (neighbour, false),
            RouteNetlinkMessage::DelNeighbour(neighbour) => (neighbour, true),
            _ => return Stale::Routes,
        };
        let Some((key, known)) = route::neighbour(neighbour, gone) else { return Stale::Nothing };
        let before = match known {
            Some(known) => self.world.neighbours.insert(key, known),
            None => self.world.neighbours.remove(&key),
        };
        if before != known && self.hops().contains(&key) { Stale::Ways } else { Stale::Nothing }
    }

    /// The next hops that ways name.
    fn hops(&self) -> BTreeSet<(u32, IpAddr)> {
        let hops = self.routes.values().filter_map(|route| match route {
            Route::Out { ifindex, next_hop, .. } => Some((*ifindex, *next_hop)),
            _ => None,
        });
        hops.collect()
    }

    /// Reads links and routes again, and the neighbours if messages were lost.
    fn resolve(&mut self, stale: Stale) {
        if stale == Stale::All {
            match route::neighbours(&mut self.netlink) {
                Ok(found) => {
                    self.world.neighbours =
                        found.into_iter().filter_map(|(key, known)| Some((key, known?))).collect();
                }
                Err(error) => tracing::warn!(%error, "could not read the neighbours"),
            }
        }
        match self.netlink.links() {
            Ok(links) => self.world.links = links.into_iter().map(|link| (link.ifindex, link)).collect(),
            Err(error) => tracing::warn!(%error, "could not read the links"),
        }
        let addresses: BTreeSet<IpAddr> = self.wanted.values().copied().collect();
        let netlink = &mut self.netlink;
        self.routes = addresses.into_iter().map(|to| (to, route::look_up(netlink, to))).collect();
        self.ask(false);
    }

    /// Asks for the neighbours that are not known; `refresh`: for all that nobody set by hand.
    fn ask(&mut self, refresh: bool) {
        for hop @ (ifindex, next_hop) in self.hops() {
            if self.world.asks(hop, refresh)
                && let Err(error) = route::solicit(&mut self.netlink, ifindex, next_hop)
            {
                tracing::debug!(%error, %next_hop, ifindex, "could not ask for a neighbour");
            }
        }
    }

    fn publish(&self) {
        let ways: BTreeMap<_, _> =
            self.wanted.iter().map(|(id, address)| (*id, self.way(*address))).collect();
        self.sender.send_if_modified(|current| {
            let changed = **current != ways;
            if changed {
                self.say(current, &ways);
                *current = Arc::new(ways);
            }
            changed
        });
    }

    fn way(&self, address: IpAddr) -> std::result::Result<lb_control::plan::Way, String> {
        self.routes
            .get(&address)
            .map_or_else(|| Err("not looked up yet".into()), |route| self.world.way(route))
    }

    /// Logs what became of each way that changed.
    fn say(
        &self,
        before: &Ways,
        after: &BTreeMap<BackendId, std::result::Result<lb_control::plan::Way, String>>,
    ) {
        for (id, way) in after.iter().filter(|(id, way)| before.get(id) != Some(way)) {
            let (backend, address) = (id.0, self.wanted[id]);
            let silence = self.routes.get(&address).and_then(|route| self.world.silence(route));
            match (way, silence) {
                (Err(why), _) => tracing::warn!(backend, %address, why, "no way to a backend"),
                (Ok(_), Some(why)) => {
                    tracing::info!(backend, %address, why, "no neighbour for a backend yet")
                }
                (Ok(way), None) => {
                    tracing::debug!(backend, %address, ifindex = way.ifindex, "the way to a backend is known");
                }
            }
        }
    }
}
