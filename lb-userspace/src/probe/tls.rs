//! The TLS probe: a handshake, and nothing said. What HTTPS goes through as well.
//!
//! Each handshake is a whole one: a session that is resumed would not ask for the certificate again.

use std::io::{self, ErrorKind};
use std::sync::{Arc, OnceLock};

use lb_control::health::Outcome;
use lb_control::probe::Probe;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::{Resumption, WebPkiServerVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::goal::{Goal, Stream};
use super::plan::{Answer, socket_failure};
use super::tcp;

/// The roots that certificates are verified by: the node's own (`SSL_CERT_FILE` and `SSL_CERT_DIR` name others), read
/// when the first probe needs them.
#[derive(Debug, Default)]
pub struct Roots(OnceLock<Arc<RootCertStore>>);

impl Roots {
    /// These roots instead of the node's.
    #[cfg(test)]
    pub(super) fn of(certificates: Vec<CertificateDer<'static>>) -> Self {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(certificates);
        Self(OnceLock::from(Arc::new(store)))
    }

    fn store(&self) -> Arc<RootCertStore> {
        self.0.get_or_init(|| Arc::new(nodes_own())).clone()
    }
}

fn nodes_own() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "a trusted root could not be read");
    }
    let mut store = RootCertStore::empty();
    let (taken, _) = store.add_parsable_certificates(found.certs);
    tracing::info!(roots = taken, "read the node's trusted roots for probes that verify");
    store
}

/// How the handshake is made.
#[derive(Debug)]
pub(super) struct Client {
    config: Arc<ClientConfig>,
    /// The name asked for; `None`: the address that is asked.
    name: Option<ServerName<'static>>,
}

impl Client {
    /// Makes it ready; `http`: HTTP/1.1 will be spoken.
    ///
    /// # Errors
    /// Why it cannot be made.
    pub(super) fn new(probe: &Probe, roots: &Roots, http: bool) -> Result<Self, String> {
        let provider = Arc::new(ring::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = if probe.verify {
            let verifier =
                WebPkiServerVerifier::builder_with_provider(roots.store(), provider.clone()).build();
            verifier.map_err(|error| format!("the node has no trusted roots: {error}"))?
        } else {
            Arc::new(Unverified(provider.clone()))
        };
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.map_err(|error| error.to_string())?;
        let mut config = config.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
        config.resumption = Resumption::disabled();
        if http {
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
        }
        let name = probe.sni.as_deref().or(probe.host.as_deref().map(without_port));
        let name = name.map(|name| ServerName::try_from(name.to_owned())).transpose();
        let name = name.map_err(|error| format!("no name for TLS: {error}"))?;
        Ok(Self { config: Arc::new(config), name })
    }

    /// Makes a handshake.
    ///
    /// # Errors
    /// The attempt itself could not be made.
    pub(super) async fn ask(&self, goal: &Goal) -> io::Result<Answer> {
        Ok(self.open(goal).await?.map_or_else(|failed| failed, |_| Answer::success()))
    }

    /// A connection after its handshake, or how that failed.
    ///
    /// # Errors
    /// The attempt itself could not be made.
    pub(super) async fn open(&self, goal: &Goal) -> io::Result<Result<TlsStream<Stream>, Answer>> {
        let stream = match tcp::connect(goal).await {
            Ok(stream) => stream,
            Err(error) => return socket_failure(error).map(Err),
        };
        let name = self.name.clone().unwrap_or_else(|| ServerName::IpAddress(goal.target().ip().into()));
        let shaken = TlsConnector::from(self.config.clone()).connect(name, stream).await;
        Ok(shaken.map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => Answer::failed(Outcome::TlsFailed, "closed during the handshake"),
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
                Answer::failed(Outcome::TlsFailed, "reset during the handshake")
            }
            _ => Answer::failed(Outcome::TlsFailed, error.to_string()),
        }))
    }
}

/// The name or address of a Host field, without port and brackets.
fn without_port(host: &str) -> &str {
    match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => match host.rsplit_once(':') {
            Some((name, port)) if !name.contains(':') && port.parse::<u16>().is_ok() => name,
            _ => host,
        },
    }
}

/// Takes any certificate: the probe asks whether the backend speaks TLS, not who it is.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::without_port;

    #[test]
    fn a_host_without_its_port() {
        let hosts =
            ["example.org", "example.org:8443", "10.0.0.1:80", "[fd00::1]:443", "[fd00::1]", "fd00::1"];
        let names = hosts.map(without_port);
        assert_eq!(names, ["example.org", "example.org", "10.0.0.1", "fd00::1", "fd00::1", "fd00::1"]);
    }
}
