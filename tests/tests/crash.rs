//! The daemon is killed by SIGKILL, again and again, while clients send commands as fast as they can. After each restart
//! the log holds what was acknowledged, once, nothing that was refused and no part of anything, and the daemon stands
//! where the log does.
//!
//! `LB_KILLS` sets the number of kills (otherwise as many as find room in some seconds), `LB_SEED` repeats the clients'
//! commands; the moments of the kills are the scheduler's. Power cuts, which a kill is not, are played beside the
//! journal (`lb-userspace`).

use std::collections::{HashMap, HashSet};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use lb_control::command::Apply;
use lb_control::ledger::Ledger;
use lb_control::projection::Projection;
use lb_control::projection::inventory::Inventory;
use lb_control::record::Record;
use lb_tests::balancer::Balancer;
use lb_tests::require_root;
use lb_tests::scratch::ScratchDir;
use lb_tests::topology::Topology;
use lb_tests::wait::{wait_for, wait_until};
use lb_userspace::api::views::StatusView;
use lb_userspace::config;
use lb_userspace::engine::fold;
use lb_userspace::journal::{EventStore, FILE_NAME, FileStore, offline};
use serde_json::{Value, json};

/// How long an ordinary run goes on killing.
const ROOM: Duration = Duration::from_secs(40);
/// Kills that an ordinary run has at least, however slow the machine.
const KILLS_MIN: usize = 10;
/// Clients at once: enough that commands become durable in groups.
const CLIENTS: usize = 6;
/// Acknowledgements from one kill to the next, at most.
const ACKNOWLEDGED_MAX: usize = 200;
/// Longest wait for an answer or for acknowledgements.
const PATIENCE: Duration = Duration::from_secs(30);
/// Backends of a vip that comes and goes with them in one command.
const POOL: usize = 5;

fn setting<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

/// One connection to the daemon's socket, kept for many requests.
struct Connection(BufReader<UnixStream>);

impl Connection {
    fn open(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Status and body of the answer.
    fn post(&mut self, path: &str, key: &str, body: &str) -> io::Result<(u16, Value)> {
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: lb\r\ncontent-type: application/json\r\nidempotency-key: {key}\r\n\
             content-length: {length}\r\n\r\n{body}"
        );
        self.0.get_mut().write_all(request.as_bytes())?;
        let (mut status, mut length, mut line) = (0, 0, String::new());
        loop {
            line.clear();
            if self.0.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let head = line.trim_end().to_ascii_lowercase();
            if head.is_empty() {
                break;
            } else if let Some(number) = head.strip_prefix("http/1.1 ") {
                status = number.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0);
            } else if let Some(number) = head.strip_prefix("content-length: ") {
                length = number.parse().unwrap_or(0);
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        Ok((status, serde_json::from_slice(&body)?))
    }
}

/// What an answer said of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Written {
    revision: u64,
    command_id: String,
    events: usize,
}

impl Written {
    fn of(answer: &Value) -> Self {
        Self {
            revision: answer["revision"].as_u64().unwrap(),
            command_id: answer["command_id"].as_str().unwrap().to_owned(),
            events: answer["events"].as_array().unwrap().len(),
        }
    }
}

#[derive(Clone, Debug)]
struct Sent {
    key: String,
    body: String,
    /// Whether its sender expects it to be accepted.
    good: bool,
}

/// A client with a vip of its own, of which it knows what it holds.
struct Client {
    number: usize,
    rng: Rng,
    sent: usize,
    /// Whether its second vip is there.
    second: bool,
    acknowledged: HashMap<String, Written>,
    refused: HashSet<String>,
    /// What was sent and not answered.
    doubt: Option<Sent>,
    /// The last one that was accepted.
    last: Option<Sent>,
}

impl Client {
    fn new(number: usize, rng: Rng) -> Self {
        let (acknowledged, refused) = Default::default();
        Self { number, rng, sent: 0, second: false, acknowledged, refused, doubt: None, last: None }
    }

    /// Sends commands until the connection breaks; first of all the one in doubt, again.
    fn run(&mut self, socket: &Path, count: &AtomicUsize) {
        let Ok(mut connection) = Connection::open(socket) else { return };
        loop {
            let sent = self.doubt.take().unwrap_or_else(|| self.next());
            self.doubt = Some(sent.clone());
            let path = "/v1/commands?wait=durable";
            let Ok(answer) = connection.post(path, &sent.key, &sent.body) else { return };
            self.doubt = None;
            self.take(sent, answer);
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn take(&mut self, sent: Sent, (status, answer): (u16, Value)) {
        if sent.good {
            assert_eq!(status, 200, "{sent:?}: {answer}");
            let written = Written::of(&answer);
            let known = self.acknowledged.insert(sent.key.clone(), written.clone());
            assert!(known.is_none_or(|known| known == written), "{sent:?} was answered in two ways");
            if sent.body.contains("vip_add") || sent.body.contains("vip_remove") {
                self.second = sent.body.contains("vip_add");
            }
            self.last = Some(sent);
        } else {
            assert_eq!(status, 404, "{sent:?}: {answer}");
            self.refused.insert(sent.key);
        }
    }

    fn next(&mut self) -> Sent {
        // A repetition is answered as the first was.
        if let Some(last) = self.last.take().filter(|_| self.rng.u8(..20) == 0) {
            return last;
        }
        let (number, weight) = (self.number, self.rng.u16(1..));
        self.sent += 1;
        let key = format!("client-{number}-{}", self.sent);
        let (body, good) = match self.rng.u8(..20) {
            0 if self.second => {
                let body =
                    json!({"kind": "vip_remove", "name": format!("two{number}"), "allow_disruption": true});
                (body, true)
            }
            0 => (self.second_vip(), true),
            1 | 2 => {
                let vip = format!("one{number}");
                (json!({"kind": "backend_set", "vip": vip, "name": "nobody", "weight": weight}), false)
            }
            _ => {
                let vip = format!("one{number}");
                (json!({"kind": "backend_set", "vip": vip, "name": "b1", "weight": weight}), true)
            }
        };
        Sent { key, body: body.to_string(), good }
    }

    fn second_vip(&self) -> Value {
        let number = self.number;
        let backends: Vec<Value> = (1..=POOL)
            .map(|one| json!({"name": format!("b{one}"), "address": format!("10.9.{number}.{one}")}))
            .collect();
        json!({"kind": "vip_add", "name": format!("two{number}"), "address": format!("203.0.113.{}", number + 1),
            "port": 81, "mode": "l2", "table_size": 251, "probe": {"kind": "none"}, "backend": backends})
    }
}

/// What the log was found to hold, read on from restart to restart.
#[derive(Default)]
struct Seen {
    records: HashMap<String, Written>,
    ledger: Ledger,
    inventory: Inventory,
    head: Option<(u64, [u8; 32])>,
}

impl Seen {
    /// Reads on: every checksum, every link, the old head on the way, and records that follow one another whole.
    fn read_on(&mut self, state_dir: &Path) {
        let verified = offline::verify(state_dir, self.head).unwrap();
        assert_eq!(verified.unfinished_bytes, 0, "the start leaves nothing unfinished");
        assert_eq!(verified.expected_found, self.head.is_some());
        self.head = Some((verified.head.revision, verified.head.hash));
        let mut text = Vec::new();
        offline::export(state_dir, self.ledger.state.revision, &mut text).unwrap();
        for line in text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            let record = Record::parse(line).unwrap();
            assert_eq!(record.revision_before(), self.ledger.state.revision, "{record:?}");
            self.ledger.apply(&record);
            self.inventory.apply(&record);
            assert_eq!(self.ledger.state.revision, record.revision);
            let Some(key) = record.key.filter(|key| key.key.starts_with("client-")) else { continue };
            let (revision, events) = (record.revision, record.events.len());
            let whole = if record.command == "vip_add" { 1 + POOL } else { 1 };
            assert_eq!(events, whole, "a part of a command: {}", key.key);
            let written = Written { revision, command_id: record.command_id, events };
            let twice = self.records.insert(key.key.clone(), written);
            assert!(twice.is_none(), "{} is in the log twice", key.key);
        }
        assert_eq!(self.ledger.state.revision, verified.head.revision);
    }

    /// Compares with what clients were told; returns how many commands in doubt are in the log.
    fn compare(&self, clients: &[Client]) -> usize {
        let mut owed = 0;
        for client in clients {
            for (key, told) in &client.acknowledged {
                assert_eq!(self.records.get(key), Some(told), "{key} was acknowledged");
            }
            for key in &client.refused {
                assert!(!self.records.contains_key(key), "{key} was refused, and is in the log");
            }
            owed += client.acknowledged.len();
        }
        let fresh = |client: &Client| {
            let doubt = client.doubt.as_ref()?;
            (!client.acknowledged.contains_key(&doubt.key)).then(|| doubt.key.clone())
        };
        let in_doubt = clients.iter().filter_map(fresh);
        let there = in_doubt.filter(|key| self.records.contains_key(key)).count();
        assert_eq!(self.records.len(), owed + there, "the log holds what nobody sent");
        there
    }
}

/// What a start makes of the log as the kill left it: on a copy, since a start changes it.
fn fold_of_copy(state_dir: &Path) -> Ledger {
    let copy = ScratchDir::create().unwrap();
    let (from, to) = (state_dir.join(FILE_NAME), copy.path().join(FILE_NAME));
    std::fs::create_dir(&to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
    let store = FileStore::open(copy.path()).unwrap().store;
    fold::latest(&*store.reader()).unwrap().ledger
}

/// The writer's own state, which no view shows: it would have nothing to do to become what the log folds to.
fn assert_stands_at(lb: &Balancer, inventory: &Inventory) {
    let apply = Apply {
        document: config::export(inventory),
        prune: true,
        allow_disruption: true,
        ..Apply::default()
    };
    let body = serde_json::to_string(&apply).unwrap();
    let (status, plan) = Connection::open(lb.socket()).unwrap().post("/v1/plan", "plan", &body).unwrap();
    assert_eq!(status, 200, "{plan}");
    let events = plan["events"].as_array().unwrap();
    let changes = events.iter().filter(|event| event["change"]["kind"] != "command_accepted");
    assert_eq!(changes.count(), 0, "{plan}");
    assert_eq!(plan["revision"].as_u64(), Some(inventory.revision() + events.len() as u64), "{plan}");
    // The views fold the log beside the start.
    let current = || lb.view::<StatusView>("/v1/views/status").ok().filter(|status| status.lag_ms == 0);
    let (status, _) = wait_for("views that lack nothing", PATIENCE, current).unwrap();
    assert_eq!(status.revision, inventory.revision());
}

#[test]
fn kills_under_load_lose_nothing_and_add_nothing() {
    require_root!("crash::kills_under_load_lose_nothing_and_add_nothing", "nginx", "curl");
    let (seed, kills) =
        (setting("LB_SEED").unwrap_or_else(|| fastrand::u64(..)), setting::<usize>("LB_KILLS"));
    println!(
        "LB_SEED={seed} LB_KILLS={}",
        kills.map_or_else(|| "as fit".to_owned(), |count| count.to_string())
    );
    let mut rng = Rng::with_seed(seed);
    let net = Topology::builder().backends(1).build().unwrap();
    let mut lb = Balancer::start(&net).unwrap();
    let mut clients: Vec<Client> = (0..CLIENTS).map(|number| Client::new(number, rng.fork())).collect();
    for number in 0..CLIENTS {
        let address = number + 1;
        lb.lb(&format!(
            "vip add one{number} 203.0.113.{address}:80/tcp --mode l2 --table-size 251 --probe none"
        ))
        .unwrap();
        lb.lb(&format!("backend add one{number}/b1 10.8.0.{address}")).unwrap();
    }
    let (mut seen, mut starts, mut found_in_doubt, began) = (Seen::default(), Vec::new(), 0, Instant::now());
    while kills.map_or(starts.len() < KILLS_MIN || began.elapsed() < ROOM, |count| starts.len() < count) {
        let (count, wanted) = (AtomicUsize::new(0), rng.usize(1..=ACKNOWLEDGED_MAX));
        let (socket, answered) = (lb.socket().to_owned(), &count);
        std::thread::scope(|scope| {
            let clients: Vec<_> =
                clients.iter_mut().map(|client| scope.spawn(|| client.run(&socket, answered))).collect();
            // One that ends before the kill has met an answer that it does not accept, and panics with it.
            let ended = || clients.iter().any(|client| client.is_finished());
            let enough = || answered.load(Ordering::Relaxed) >= wanted || ended();
            let waited = wait_until("acknowledgements", PATIENCE, enough);
            lb.kill();
            waited.unwrap_or_else(|error| panic!("LB_SEED={seed}: {error:#}\n{}", lb.log()));
        });
        let folded = fold_of_copy(lb.state_dir());
        let begun = Instant::now();
        lb.restart(&net).unwrap();
        starts.push(begun.elapsed());
        seen.read_on(lb.state_dir());
        found_in_doubt += seen.compare(&clients);
        assert_eq!(seen.ledger, folded, "a replay and the fold of the start");
        assert_stands_at(&lb, &seen.inventory);
    }
    lb.lb(&format!("log verify --state-dir {}", lb.state_dir().display())).unwrap();
    starts.sort_unstable();
    let refused: usize = clients.iter().map(|client| client.refused.len()).sum();
    println!(
        "{} kills in {} s: {} records, {refused} refusals, {found_in_doubt} in the log that were not answered; a start took \
         {} ms (median; longest {} ms)",
        starts.len(),
        began.elapsed().as_secs(),
        seen.records.len(),
        starts[starts.len() / 2].as_millis(),
        starts[starts.len() - 1].as_millis(),
    );
    assert!(seen.records.len() > starts.len(), "hardly anything was sent");
}
