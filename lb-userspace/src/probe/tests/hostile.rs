//! Targets that answer garbage, a GiB, or a byte a minute: each costs at most the timeout and some KiB.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lb_control::health::Outcome;
use lb_control::probe::{Probe, ProbeKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{TIMEOUT, ask, probe, target_that};

const GIB: u64 = 1 << 30;
/// What the kernel may hold in the buffers of both sides, more or less, beside what was read: bytes.
const BUFFERS_BYTES: u64 = 32 << 20;

/// An HTTP probe of something that says `head`, and then `body` again and again until a GiB is said. Gives the outcome,
/// and how much the target could get rid of.
async fn flooded(probe: &Probe, head: &'static str, body: &'static [u8]) -> (Outcome, u64) {
    let (said, over) = (Arc::new(AtomicU64::new(0)), Arc::new(tokio::sync::Notify::new()));
    let (saying, end) = (said.clone(), over.clone());
    let target = target_that(move |mut stream| {
        let (said, over) = (saying.clone(), end.clone());
        async move {
            let mut request = [0; 1_024];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(head.as_bytes()).await;
            while said.load(Ordering::Relaxed) < GIB && stream.write_all(body).await.is_ok() {
                said.fetch_add(body.len() as u64, Ordering::Relaxed);
            }
            over.notify_one();
        }
    });
    let target = target.await;
    let (answer, took) = ask(probe, target).await;
    assert!(took < TIMEOUT + Duration::from_secs(1), "{took:?}");
    // The probe has closed its side, so the target can say no more.
    tokio::time::timeout(Duration::from_secs(10), over.notified()).await.expect("the connection was closed");
    (answer.outcome, said.load(Ordering::Relaxed))
}

const CHUNK: &[u8] = &[b'x'; 65_536];

#[tokio::test]
async fn a_gib_of_body_is_not_read() {
    let head = "HTTP/1.1 200 Fine\r\nContent-Length: 1073741824\r\n\r\n";
    let plain = probe(ProbeKind::Http);
    let (outcome, said) = flooded(&plain, head, CHUNK).await;
    assert_eq!(outcome, Outcome::Success);
    assert!(said < BUFFERS_BYTES, "{said} bytes");
    let searching = Probe { body: Some("y".to_owned()), ..plain };
    let (outcome, said) = flooded(&searching, head, CHUNK).await;
    assert_eq!(outcome, Outcome::WrongBody);
    assert!(said < BUFFERS_BYTES, "{said} bytes");
}

#[tokio::test]
async fn a_gib_of_head_of_chunks_or_of_interim_answers_is_refused() {
    let searching = Probe { body: Some("y".to_owned()), ..probe(ProbeKind::Http) };
    for (head, body) in [
        ("HTTP/1.1 200 Fine\r\nX: ", CHUNK),
        ("HTTP/1.1 200 Fine\r\n", b"X: y\r\n".as_slice()),
        ("", CHUNK),
        ("HTTP/1.1 200 Fine\r\nTransfer-Encoding: chunked\r\n\r\n", CHUNK),
    ] {
        let (outcome, said) = flooded(&searching, head, body).await;
        assert_eq!(outcome, Outcome::Malformed, "{head}");
        assert!(said < BUFFERS_BYTES, "{said} bytes");
    }
    // Interim answers may come for ever: that costs the timeout, and no memory.
    let short = Probe { timeout_ms: 200, ..searching };
    let (outcome, _) = flooded(&short, "", b"HTTP/1.1 103 Early Hints\r\n\r\n").await;
    assert!(matches!(outcome, Outcome::Timeout | Outcome::Malformed), "{outcome:?}");
}

#[tokio::test]
async fn garbage_is_malformed() {
    let garbage: [&'static [u8]; 4] = [
        b"\x00\x01\x02\xff\xfe\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/9.9 abc\r\n\r\n",
        b"\r\n\r\n\r\n",
    ];
    for answer in garbage {
        let target = target_that(move |mut stream| async move {
            let _ = stream.read(&mut [0; 1_024]).await;
            let _ = stream.write_all(answer).await;
        });
        let (answer, took) = ask(&probe(ProbeKind::Http), target.await).await;
        assert_eq!(answer.outcome, Outcome::Malformed);
        assert!(took < TIMEOUT, "{took:?}");
    }
}

#[tokio::test]
async fn a_byte_a_minute_costs_the_timeout() {
    for head in ["", "HTTP/1.1 200 Fine\r\n", "HTTP/1.1 200 Fine\r\nContent-Length: 1000\r\n\r\n"] {
        let target = target_that(move |mut stream| async move {
            let _ = stream.write_all(head.as_bytes()).await;
            loop {
                tokio::time::sleep(Duration::from_secs(60)).await;
                if stream.write_all(b"x").await.is_err() {
                    return;
                }
            }
        });
        let target = target.await;
        for kind in [ProbeKind::Http, ProbeKind::Https, ProbeKind::Tls] {
            let wanted = Probe { timeout_ms: 100, ..probe(kind) };
            let body = kind.is_http().then(|| "y".to_owned());
            let (answer, took) = ask(&Probe { body, ..wanted }, target).await;
            let outcome = answer.outcome;
            // What is no TLS is known at once, or after the few bytes that a record's head has.
            let allowed = outcome == Outcome::Timeout || (kind.is_tls() && outcome == Outcome::TlsFailed);
            assert!(allowed, "{kind} {head:?}: {answer:?}");
            assert!(took < Duration::from_millis(1_500), "{kind} {head:?}: {took:?}");
        }
    }
}
