//! What `lb` says of a command in doubt: a daemon's first word that nobody knows what became of it holds until one who knows
//! the key says otherwise. The other end is a script of answers.

use std::path::{Path, PathBuf};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use crate::bench::{Ran, run};

/// A daemon that answers each request with the next of these statuses and bodies, the last one from then on; an empty body
/// ends the connection without an answer. With `leaves` it goes away after them instead.
fn scripted(directory: &Path, script: Vec<(u16, String)>, leaves: bool) -> PathBuf {
    let path = directory.join("lb.sock");
    let (listener, own) = (UnixListener::bind(&path).unwrap(), path.clone());
    tokio::spawn(async move {
        for number in 0.. {
            if leaves && number == script.len() {
                return std::fs::remove_file(own).unwrap();
            }
            let (mut near, _) = listener.accept().await.unwrap();
            let (mut asked, mut block) = (Vec::new(), [0; 4_096]);
            while !asked.ends_with(b"}") {
                let length = near.read(&mut block).await.unwrap();
                assert!(length > 0, "the request ended early");
                asked.extend_from_slice(&block[..length]);
            }
            let (status, body) = &script[number.min(script.len() - 1)];
            if body.is_empty() {
                continue;
            }
            let length = body.len();
            let head =
                format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
            near.write_all((head + body).as_bytes()).await.unwrap();
        }
    });
    path
}

fn problem(status: u16, code: &str) -> (u16, String) {
    let help = "Nothing was changed.";
    let body = serde_json::json!({ "schema": "lb/v1", "error": { "code": code, "message": "as told", "help": help } });
    (status, body.to_string())
}

async fn tenant_add(script: Vec<(u16, String)>, leaves: bool) -> Ran {
    let directory = tempfile::tempdir().unwrap();
    let socket = scripted(directory.path(), script, leaves).display().to_string();
    run(&["lb", "--socket", &socket, "tenant", "add", "acme", "--key", "my-key"]).await
}

/// The last lines, which say how it ended: what came between is said of the attempts.
fn end(ran: &Ran) -> &str {
    ran.stderr.rsplit("(6 of 6)").next().unwrap()
}

fn is_in_doubt(ran: &Ran, code: &str) {
    assert_eq!(ran.exit, 1, "{ran:?}");
    assert!(end(ran).contains(code) && end(ran).contains("--key my-key"), "{ran:?}");
    assert!(!end(ran).contains("Nothing was changed") && !end(ran).contains("Start one"), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doubt_outlives_a_journal_that_stays_away_and_a_rate() {
    let script = [(503, "LB5016"), (503, "LB5017"), (429, "LB3030"), (503, "LB5011"), (503, "LB5017")];
    let script = script.into_iter().map(|(status, code)| problem(status, code)).collect();
    is_in_doubt(&tenant_add(script, false).await, "LB5016");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doubt_outlives_the_daemon() {
    is_in_doubt(&tenant_add(vec![(0, String::new())], true).await, "LB5002");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doubt_ends_with_a_word_of_one_who_knows_the_key() {
    for (status, code) in [(503, "LB5008"), (409, "LB1004"), (422, "LB1034")] {
        let ran = tenant_add(vec![problem(503, "LB5016"), problem(status, code)], false).await;
        assert!(
            ran.exit != 0 && ran.stderr.contains("(2 of 6)") && !ran.stderr.contains("(3 of 6)"),
            "{ran:?}"
        );
        assert!(ran.stderr.contains(code) && ran.stderr.contains("Nothing was changed"), "{ran:?}");
        assert!(!ran.stderr.contains("--key my-key"), "{ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_doubt_nothing_is_asked_again() {
    for (status, code) in [(503, "LB5017"), (429, "LB3030"), (503, "LB5008")] {
        let ran = tenant_add(vec![problem(status, code)], false).await;
        assert!(ran.exit == 1 && ran.stderr.contains(code) && !ran.stderr.contains("again with"), "{ran:?}");
    }
}
