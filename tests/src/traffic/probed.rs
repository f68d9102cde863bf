//! An nginx to be probed: HTTP and HTTPS on ports of its own, which can be told to answer 500 to everything, besides
//! being killed and hung.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::netns::Namespace;
use crate::process::Process;
use crate::wait::wait_until;

/// Port of HTTP.
pub const HTTP_PORT: u16 = 8_080;
/// Port of HTTPS, with a certificate for [`TLS_NAME`] that nobody signed.
pub const HTTPS_PORT: u16 = 8_443;
/// The name in the certificate.
pub const TLS_NAME: &str = "backend.example.org";

const START_DEADLINE: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_millis(200);

const TEMPLATE: &str = "daemon off;
master_process off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid @dir@/pid;
error_log stderr crit;
events { worker_connections 16000; }
http {
    access_log off;
    client_body_temp_path @dir@/body; proxy_temp_path @dir@/p; fastcgi_temp_path @dir@/f; uwsgi_temp_path @dir@/u;
    scgi_temp_path @dir@/s;
    add_header X-Backend @backend@ always;
    server {
        listen 8080 backlog=4096; listen [::]:8080 ipv6only=on;
        listen 8443 ssl; listen [::]:8443 ssl ipv6only=on;
        ssl_certificate @dir@/certificate.pem; ssl_certificate_key @dir@/key.pem;
        location / {
            if (-f @dir@/sick) { return 500 \"sick\\n\"; }
            return 200 \"@backend@ is well\\n\";
        }
    }
}
";

/// A running one. Dropping it is a SIGKILL.
#[derive(Debug)]
pub struct Probed {
    process: Process,
    dir: PathBuf,
}

impl Probed {
    /// Starts it inside `namespace` and waits until it accepts connections there; `dir` is a private directory.
    ///
    /// # Errors
    /// When nginx is missing, refuses its configuration, or a port is taken.
    pub fn start(namespace: &Namespace, backend: &str, dir: &Path) -> Result<Self> {
        let dir = dir.join(format!("probed-{backend}"));
        fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        let made = rcgen::generate_simple_self_signed([TLS_NAME.to_owned()]).context("make a certificate")?;
        fs::write(dir.join("certificate.pem"), made.cert.pem())?;
        fs::write(dir.join("key.pem"), made.signing_key.serialize_pem())?;
        let config = TEMPLATE.replace("@dir@", &dir.display().to_string()).replace("@backend@", backend);
        let file = dir.join("nginx.conf");
        fs::write(&file, config).with_context(|| format!("write {}", file.display()))?;
        let mut command = Command::new("nginx");
        command.arg("-p").arg(&dir).arg("-c").arg(&file).args(["-e", "stderr"]);
        let mut process = Process::spawn(namespace, &format!("probed-{backend}"), command, &dir)?;
        namespace.run(|| {
            let local = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), HTTP_PORT);
            wait_until("nginx to be probed", START_DEADLINE, || {
                !process.is_running() || TcpStream::connect_timeout(&local, CONNECT_TIMEOUT).is_ok()
            })
        })?;
        anyhow::ensure!(process.is_running(), "nginx ended: {}", process.stderr_text().trim());
        Ok(Self { process, dir })
    }

    /// Whether it answers 500 to everything from now on.
    ///
    /// # Errors
    /// When its directory cannot be written to.
    pub fn answer_500(&self, sick: bool) -> Result<()> {
        let mark = self.dir.join("sick");
        let done = if sick { fs::write(&mark, "") } else { fs::remove_file(&mark) };
        done.with_context(|| format!("write {}", mark.display()))
    }

    /// Hangs it (SIGSTOP): its kernel still takes connections, nobody answers.
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
