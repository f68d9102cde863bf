//! A node to try things on: a data plane in memory, a journal in a directory of its own, a socket, and `lb`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lb_common::addr::Mac;
use lb_control::plan::Way;
use lb_control::record::Record;
use lb_userspace::api::connections::Socket;
use lb_userspace::api::{self, Node};
use lb_userspace::dataplane::Capacities;
use lb_userspace::dataplane::fake::Fake;
use lb_userspace::engine::fold::{self, Folded};
use lb_userspace::journal::observation::{self, ObservationJournal};
use lb_userspace::journal::{EventStore, FileStore, MemoryStore, read_all};
use lb_userspace::reconcile::Ways;
use lb_userspace::{cli, serve};
use serde_json::Value;
use tokio::sync::watch;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// From one comparison of the maps to the next when nothing changes, seconds.
const RESYNC_S: u64 = 1;

/// What a run of `lb` gave.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) exit: u8,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// Its data as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Itself, if it ended well.
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.exit, 0, "{self:?}");
        self
    }
}

/// A running node.
pub(crate) struct Bench {
    pub(crate) fake: Arc<Fake>,
    pub(crate) node: Arc<Node>,
    directory: Arc<tempfile::TempDir>,
    socket: PathBuf,
    ends: watch::Sender<bool>,
    ways: watch::Sender<Ways>,
}

impl Bench {
    /// A fresh node.
    pub(crate) fn new() -> Self {
        Self::with(Arc::new(Fake::new()), Arc::new(tempfile::tempdir().unwrap()))
    }

    /// A fresh node whose maps have room for so many backends, and are hardly ever compared just because it is time.
    pub(crate) fn with_room_for(backends: u32) -> Self {
        let mut capacities = Capacities { flow_buckets: 1_024, nat_planes: 1, ..Capacities::default() };
        capacities.limits.backends = backends;
        let (fake, directory) = (Arc::new(Fake::with(&capacities)), Arc::new(tempfile::tempdir().unwrap()));
        Self::on(fake, directory, Folded::default(), MemoryStore::default(), None, 600)
    }

    /// A fresh node whose journal is in memory, and fails on demand.
    pub(crate) fn in_memory() -> (Self, MemoryStore) {
        let store = MemoryStore::default();
        let directory = Arc::new(tempfile::tempdir().unwrap());
        (Self::on(Arc::new(Fake::new()), directory, Folded::default(), store.clone(), None, RESYNC_S), store)
    }

    /// A fresh node that keeps what it observes.
    pub(crate) fn observing() -> Self {
        let directory = Arc::new(tempfile::tempdir().unwrap());
        let observations =
            ObservationJournal::open(directory.path(), observation::Limits::default()).unwrap();
        let store = MemoryStore::default();
        Self::on(Arc::new(Fake::new()), directory, Folded::default(), store, Some(observations), RESYNC_S)
    }

    fn with(fake: Arc<Fake>, directory: Arc<tempfile::TempDir>) -> Self {
        let loaded = FileStore::open(directory.path()).unwrap();
        let folded = fold::latest(&*loaded.store.reader()).unwrap();
        Self::on(fake, directory, folded, loaded.store, None, RESYNC_S)
    }

    fn on<S: EventStore + 'static>(
        fake: Arc<Fake>,
        directory: Arc<tempfile::TempDir>,
        folded: Folded,
        store: S,
        observations: Option<ObservationJournal>,
        resync_s: u64,
    ) -> Self {
        let (ways, follow) = watch::channel(Ways::default());
        let start = serve::Start {
            folded,
            store,
            dataplane: fake.clone(),
            watch_ways: Box::new(|_| Ok(follow)),
            probe_concurrency: 8,
            probe_addresses: Default::default(),
            commands_per_s: None,
            resync: Duration::from_secs(resync_s),
            observations,
            notes: Vec::new(),
        };
        let node = serve::start(start).unwrap();
        let socket = directory.path().join("lb.sock");
        let bound = Socket::bind(&socket).unwrap();
        let (ends, told) = watch::channel(false);
        tokio::spawn(bound.answer(api::router(node.clone()), told));
        Self { fake, node, directory, socket, ends, ways }
    }

    /// The next daemon, with the same maps and the same journal, when the routes of this one are gone.
    pub(crate) async fn restarted(self) -> Self {
        self.restarted_after(|_| ()).await
    }

    /// The same, after something was done in the state directory meanwhile.
    pub(crate) async fn restarted_after(self, meanwhile: impl FnOnce(&std::path::Path)) -> Self {
        self.ends.send_replace(true);
        let socket = self.socket.clone();
        until("the socket is gone", || !socket.exists()).await;
        meanwhile(self.directory.path());
        Self::with(self.fake.clone(), self.directory.clone())
    }

    /// Runs `lb` with these words, split at spaces.
    pub(crate) async fn lb(&self, words: &str) -> Ran {
        self.lb_with(&words.split(' ').collect::<Vec<_>>()).await
    }

    /// Runs `lb` with these words.
    pub(crate) async fn lb_with(&self, words: &[&str]) -> Ran {
        let socket = self.socket.display().to_string();
        let all: Vec<&str> = ["lb", "--socket", &socket].into_iter().chain(words.iter().copied()).collect();
        run(&all).await
    }

    /// What the journal holds.
    pub(crate) fn records(&self) -> Vec<Arc<Record>> {
        read_all(&*self.node.log, 0).unwrap()
    }

    /// A command straight to the writer, without waiting for maps.
    pub(crate) async fn submit(&self, command: &str, reason: &str) {
        let command = serde_json::from_str(command).unwrap();
        let request = lb_userspace::engine::Request {
            reason: Some(reason.to_owned()),
            ..lb_userspace::engine::Request::new(command, "tester")
        };
        self.node.engine.submit(request).await.unwrap();
    }

    /// A file for `lb apply`.
    pub(crate) fn file(&self, text: &str) -> String {
        let path = self.directory.path().join("lb.toml");
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// Says that every backend is reached by device 7.
    pub(crate) fn all_reached(&self) {
        self.reach(Some(Mac::from_octets([2, 0, 0, 0, 0, 9])));
    }

    /// Says that every backend is beyond device 7, and who answers there.
    pub(crate) fn reach(&self, next_hop_mac: Option<Mac>) {
        let state = self.node.engine.state();
        let way = |address: std::net::IpAddr| Way {
            next_hop_mac,
            ifindex: 7,
            mtu: 1_500,
            source_mac: Mac::from_octets([2, 0, 0, 0, 0, 7]),
            tags: Default::default(),
            source: if address.is_ipv4() { "10.0.0.1".parse().unwrap() } else { "fd00::1".parse().unwrap() },
        };
        let ways = state.backends().map(|(.., backend)| (backend.id, Ok(way(backend.address))));
        self.ways.send_replace(Arc::new(ways.collect()));
    }

    /// A backend of `web` in the list, once it is so.
    pub(crate) async fn settled(&self, name: &str, so: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let list = self.lb("--json backend list web").await.ok().json();
            let one = list["items"].as_array().unwrap().iter().find(|one| one["name"] == name).unwrap();
            if so(one) {
                return one.clone();
            }
            assert!(Instant::now() < deadline, "waited too long: {one:#}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// A vip `web` in mode l2 without a probe, and backends `b1`, `b2`, … that are reached.
    pub(crate) async fn with_web(&self, backends: usize) {
        self.lb("vip add web 203.0.113.10:80/tcp --mode l2 --probe none").await.ok();
        for number in 1..=backends {
            self.lb(&format!("backend add web/b{number} 10.0.0.{number}")).await.ok();
        }
        self.all_reached();
    }

    /// The daemon's socket.
    pub(crate) fn socket(&self) -> &std::path::Path {
        &self.socket
    }

    /// A request with a JSON body and these headers: status, head and body.
    pub(crate) async fn post(&self, path: &str, headers: &str, body: &str) -> (u16, String, Value) {
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: lb\r\nconnection: close\r\n{headers}content-length: {length}\r\n\r\n{body}"
        );
        let (status, head, body) = self.exchange(&request).await;
        (status, head, serde_json::from_str(&body).unwrap_or(Value::Null))
    }

    /// One request as any HTTP client makes it: status and body.
    pub(crate) async fn http(&self, request: &str) -> (u16, String) {
        let (status, _, body) = self.exchange(request).await;
        (status, body)
    }

    async fn exchange(&self, request: &str) -> (u16, String, String) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::UnixStream::connect(&self.socket).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        (status, head.to_owned(), body.to_owned())
    }
}

/// Runs `lb` with these words, the first of which is its name.
pub(crate) async fn run(words: &[&str]) -> Ran {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let exit = cli::run(words, &mut stdout, &mut stderr, false).await;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { exit, stdout: text(stdout), stderr: text(stderr) }
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < deadline, "waited too long until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
