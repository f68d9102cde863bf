//! HTTP, HTTPS and TLS against servers that are well, and ones that are not. TCP, UDP and ICMP: beside each of them,
//! and end to end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lb_control::health::Outcome;
use lb_control::probe::{Probe, ProbeKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::super::plan::{Answer, Plan};
use super::super::tls::Roots;
use super::{ask, probe, target_that};

/// What a server answers, by what it is asked: the request comes back in the body.
async fn answer(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin)) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { return };
        request.push(byte);
    }
    let path = request.split(|byte| *byte == b' ').nth(1).unwrap();
    let status = String::from_utf8_lossy(&path[1..]).into_owned();
    let head = format!("HTTP/1.1 {status} Fine\r\nContent-Length: {}\r\n\r\n", request.len());
    let _ = stream.write_all(&[head.as_bytes(), &request].concat()).await;
}

fn http(status_asked: u16) -> Probe {
    Probe { path: Some(format!("/{status_asked}")), ..probe(ProbeKind::Http) }
}

async fn outcome(probe: &Probe, target: SocketAddr) -> (Outcome, String) {
    let Answer { outcome, detail } = ask(probe, target).await.0;
    (outcome, detail)
}

#[tokio::test]
async fn http_looks_at_status_and_body_and_says_what_was_set() {
    let target = target_that(|mut stream| async move { answer(&mut stream).await }).await;
    let success = (Outcome::Success, String::new());
    assert_eq!(outcome(&http(200), target).await, success);
    assert_eq!(outcome(&http(302), target).await, success);
    assert_eq!(outcome(&http(500), target).await, (Outcome::WrongStatus, "status 500".to_owned()));
    let only = |set: &str, asked| Probe { status: Some(set.to_owned()), ..http(asked) };
    assert_eq!(outcome(&only("200-299,301", 301), target).await, success);
    assert_eq!(
        outcome(&only("200-299,301", 302), target).await,
        (Outcome::WrongStatus, "status 302".to_owned())
    );
    assert_eq!(outcome(&only("503", 503), target).await, success);
    let host = Probe {
        host: Some("example.org:81".to_owned()),
        body: Some(r"(?i)^GET /200 HTTP/1\.1\r\nhost: example\.org:81\r\n".to_owned()),
        ..http(200)
    };
    assert_eq!(outcome(&host, target).await, success);
    let other = Probe { body: Some("never".to_owned()), ..http(200) };
    let (wrong, detail) = outcome(&other, target).await;
    assert_eq!(wrong, Outcome::WrongBody);
    assert!(detail.contains("GET /200"), "{detail}");
    let by_itself = Probe { body: Some(format!("(?i)host: {target}\r\n")), ..http(200) };
    assert_eq!(outcome(&by_itself, target).await, success);
}

#[tokio::test]
async fn who_answers_in_two_parts_is_not_cut_off() {
    let (told, mut hears) = tokio::sync::mpsc::channel(2);
    let target = target_that(move |mut stream| {
        let told = told.clone();
        async move {
            let _ = stream.read(&mut [0; 1_024]).await;
            let _ = stream.write_all(b"HTTP/1.1 200 Fine\r\nContent-Length: 5\r\n\r\n").await;
            tokio::time::sleep(Duration::from_millis(2)).await;
            // A probe that was gone by now would have reset the connection.
            let _ = told.send(stream.write_all(b"well\n").await.is_ok()).await;
        }
    });
    let target = target.await;
    for _ in 0..20 {
        assert_eq!(outcome(&http(200), target).await.0, Outcome::Success);
        assert_eq!(
            outcome(&Probe { status: Some("201".to_owned()), ..http(200) }, target).await.0,
            Outcome::WrongStatus
        );
        assert!(hears.recv().await.unwrap() && hears.recv().await.unwrap());
    }
}

/// A target that speaks TLS, and its certificate for `example.org`.
async fn tls_target() -> (SocketAddr, CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed(["example.org".to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let mut config = config.with_single_cert(vec![certificate.clone()], key).unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let target = target_that(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            answer(&mut stream).await;
            let _ = stream.shutdown().await;
        }
    });
    (target.await, certificate)
}

#[tokio::test]
async fn tls_and_https_shake_hands_and_verify_if_asked_to() {
    let (target, certificate) = tls_target().await;
    assert_eq!(outcome(&probe(ProbeKind::Tls), target).await.0, Outcome::Success);
    let https = Probe { kind: ProbeKind::Https, ..http(200) };
    assert_eq!(outcome(&https, target).await.0, Outcome::Success);
    let down = Probe { kind: ProbeKind::Https, ..http(503) };
    assert_eq!(outcome(&down, target).await, (Outcome::WrongStatus, "status 503".to_owned()));

    let named = |name: &str| Probe { verify: true, sni: Some(name.to_owned()), ..probe(ProbeKind::Tls) };
    let trusting = Roots::of(vec![certificate.clone()]);
    for (probe, roots, wanted) in [
        (named("example.org"), &trusting, Outcome::Success),
        (named("example.net"), &trusting, Outcome::TlsFailed),
        (Probe { verify: true, ..probe(ProbeKind::Tls) }, &trusting, Outcome::TlsFailed),
        (
            Probe { verify: true, host: Some("example.org:443".to_owned()), ..https.clone() },
            &trusting,
            Outcome::Success,
        ),
    ] {
        let answer = Plan::new(&probe, roots).unwrap().attempt(target).await.unwrap();
        assert_eq!(answer.outcome, wanted, "{probe}: {answer:?}");
    }
    let made = rcgen::generate_simple_self_signed(["example.org".to_owned()]).unwrap();
    let others = Roots::of(vec![made.cert.der().clone()]);
    let answer = Plan::new(&named("example.org"), &others).unwrap().attempt(target).await.unwrap();
    assert_eq!(answer.outcome, Outcome::TlsFailed);
    assert!(answer.detail.contains("certificate"), "{}", answer.detail);
}

#[tokio::test]
async fn a_target_that_does_not_speak_tls_fails_it() {
    let plain = target_that(|mut stream| async move { answer(&mut stream).await }).await;
    let closing = target_that(|stream| async move { drop(stream) }).await;
    let chatty =
        target_that(|mut stream| async move { drop(stream.write_all(b"220 ready\r\n").await) }).await;
    for target in [closing, chatty] {
        assert_eq!(outcome(&probe(ProbeKind::Tls), target).await.0, Outcome::TlsFailed);
    }
    // It waits for the end of a request that never comes; so does the probe, no longer than its timeout.
    let short = Probe { timeout_ms: 50, ..probe(ProbeKind::Tls) };
    assert_eq!(outcome(&short, plain).await.0, Outcome::Timeout);
}
