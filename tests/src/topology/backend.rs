//! One backend: a namespace with nginx and an echo responder, and the ways in which it can fail.

use anyhow::{Context, Result};

use super::address::Pair;
use crate::netns::Namespace;
use crate::traffic::echo::EchoResponder;
use crate::traffic::nginx::{Nginx, NginxSpec};

/// TCP and UDP port of the echo responder of every backend.
pub const ECHO_PORT: u16 = 7;

/// How backends are set up for the traffic they are to get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum BackendSetup {
    /// The vips on lo, silent by ARP: for direct return by L2 or IPIP.
    #[default]
    DirectReturn,
    /// Nothing but an own address: for NAT.
    Plain,
}

/// A backend. Dropping it ends its programs and removes its namespace.
#[derive(Debug)]
pub struct Backend {
    // Programs end before the namespace goes.
    nginx: Option<Nginx>,
    echo: Option<EchoResponder>,
    spec: NginxSpec,
    pub(crate) index: usize,
    pub(crate) addresses: Pair,
    /// Where it lives.
    pub ns: Namespace,
}

impl Backend {
    pub(crate) fn new(ns: Namespace, index: usize, addresses: Pair, spec: NginxSpec) -> Self {
        Self { nginx: None, echo: None, spec, index, addresses, ns }
    }

    /// The name it answers with: `b0`, `b1`, …
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.backend
    }

    /// Its number, from 0.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// Its own addresses (not the vips).
    #[must_use]
    pub fn addresses(&self) -> Pair {
        self.addresses
    }

    /// Its link; what comes in here comes from the fabric or the node. Attach `lb decap` here.
    #[must_use]
    pub fn device(&self) -> &'static str {
        "eth0"
    }

    /// Starts nginx and the echo responder, unless they run; returns when both accept connections.
    ///
    /// # Errors
    /// When nginx does not come up or a port is taken.
    pub fn start(&mut self) -> Result<()> {
        if self.nginx.is_none() {
            self.nginx = Some(Nginx::start(&self.ns, &self.spec)?);
        }
        if self.echo.is_none() {
            let echo = EchoResponder::start(&self.ns, self.name(), ECHO_PORT)?;
            self.echo = Some(echo);
        }
        Ok(())
    }

    /// Ends all its programs at once (nginx by SIGKILL): connections close, new ones are refused.
    pub fn kill(&mut self) {
        self.nginx = None;
        self.echo = None;
    }

    /// Hangs all its programs: the kernel still accepts connections, nobody answers.
    ///
    /// # Errors
    /// When they do not run.
    pub fn pause(&mut self) -> Result<()> {
        self.nginx.as_mut().context("nginx does not run")?.pause()?;
        self.echo.as_ref().context("echo does not run")?.pause();
        Ok(())
    }

    /// Ends [`Backend::pause`].
    ///
    /// # Errors
    /// When they do not run.
    pub fn resume(&mut self) -> Result<()> {
        self.nginx.as_mut().context("nginx does not run")?.resume()?;
        self.echo.as_ref().context("echo does not run")?.resume();
        Ok(())
    }

    /// Makes it deaf, as if its machine had lost power: every frame that comes in is dropped, ARP too.
    /// Needs `nft`.
    ///
    /// # Errors
    /// When nft is missing or refuses, or it is deaf already.
    pub fn cut(&self) -> Result<()> {
        self.ns.shell("nft add table netdev cut")?;
        let chain = "nft add chain netdev cut deaf { type filter hook ingress device eth0 priority 0 ; policy drop ; }";
        self.ns.shell(chain).map(|_| ())
    }

    /// Ends [`Backend::cut`].
    ///
    /// # Errors
    /// When it was not cut.
    pub fn mend(&self) -> Result<()> {
        self.ns.shell("nft delete table netdev cut").map(|_| ())
    }
}
