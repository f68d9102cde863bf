//! nginx as the HTTP part of a backend: `/` answers the backend's name, `/client` the address it sees the
//! client at, `/file` a file; every answer names the backend in `X-Backend`.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::netns::Namespace;
use crate::process::Process;
use crate::wait::wait_until;

const TEMPLATE: &str = include_str!("nginx.conf");
const START_DEADLINE: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_millis(200);

/// What one nginx is to serve.
#[derive(Clone, Debug)]
pub struct NginxSpec {
    /// Name of the backend; also names files in `dir`.
    pub backend: String,
    /// TCP ports to listen on, IPv4 and IPv6, all addresses.
    pub ports: Vec<u16>,
    /// Private directory for configuration, logs and temporary files.
    pub dir: PathBuf,
    /// The file served as `/file`.
    pub file: PathBuf,
}

/// A running nginx: one process. Dropping it is a SIGKILL.
#[derive(Debug)]
pub struct Nginx {
    process: Process,
}

impl Nginx {
    /// Starts it inside `namespace` and waits until it accepts connections there.
    ///
    /// # Errors
    /// When nginx is missing, refuses its configuration, or a port is taken.
    pub fn start(namespace: &Namespace, spec: &NginxSpec) -> Result<Self> {
        let dir = spec.dir.join(format!("nginx-{}", spec.backend));
        fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        let listens: String = spec
            .ports
            .iter()
            .map(|port| format!("listen {port}; listen [::]:{port} ipv6only=on;\n"))
            .collect();
        let config = TEMPLATE
            .replace("@dir@", &dir.display().to_string())
            .replace("@file@", &spec.file.display().to_string())
            .replace("@backend@", &spec.backend)
            .replace("@listens@", &listens);
        let file = dir.join("nginx.conf");
        fs::write(&file, config).with_context(|| format!("write {}", file.display()))?;

        let mut command = Command::new("nginx");
        command.arg("-p").arg(&dir).arg("-c").arg(&file).args(["-e", "stderr"]);
        let name = format!("nginx-{}", spec.backend);
        let mut process = Process::spawn(namespace, &name, command, &spec.dir)?;
        wait_listening(namespace, &spec.ports, &mut process)?;
        Ok(Self { process })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Hangs it (SIGSTOP).
    ///
    /// # Errors
    /// When it has ended.
    pub fn pause(&mut self) -> Result<()> {
        self.process.pause()
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// When it has ended.
    pub fn resume(&mut self) -> Result<()> {
        self.process.resume()
    }
}

fn wait_listening(namespace: &Namespace, ports: &[u16], process: &mut Process) -> Result<()> {
    namespace.run(|| {
        for port in ports {
            let local = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), *port);
            wait_until(&format!("nginx on port {port}"), START_DEADLINE, || {
                !process.is_running() || TcpStream::connect_timeout(&local, CONNECT_TIMEOUT).is_ok()
            })?;
            if !process.is_running() {
                bail!("nginx ended: {}", process.stderr_text().trim());
            }
        }
        Ok(())
    })
}
