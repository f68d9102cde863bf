//! Single requests by curl, and transfers that are checked byte by byte.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::pattern;
use crate::netns::Namespace;

/// Longest time for a small request.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// An HTTP answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Status code.
    pub status: u16,
    /// The backend that answered, by its `X-Backend` header.
    pub backend: Option<String>,
    /// The body.
    pub body: Vec<u8>,
}

impl Reply {
    /// The body as text, without blanks at the ends.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim().to_owned()
    }
}

/// `http://address:port/path`, with brackets for IPv6. `path` begins with a slash.
#[must_use]
pub fn url(vip: SocketAddr, path: &str) -> String {
    format!("http://{vip}{path}")
}

/// Gets `path` of `vip` by curl, within 5 s.
///
/// # Errors
/// When curl fails (refused, reset, timed out, …); the message holds curl's. A status is no error.
pub fn fetch(client: &Namespace, vip: SocketAddr, path: &str) -> Result<Reply> {
    fetch_within(client, vip, path, FETCH_TIMEOUT)
}

/// Like [`fetch`], within `timeout`.
///
/// # Errors
/// As [`fetch`].
pub fn fetch_within(client: &Namespace, vip: SocketAddr, path: &str, timeout: Duration) -> Result<Reply> {
    let seconds = format!("{:.3}", timeout.as_secs_f64());
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--include", "--noproxy", "*", "--max-time", &seconds]);
    let output = client.output(command.arg(url(vip, path)))?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    parse(&output.stdout).with_context(|| format!("answer of {}", url(vip, path)))
}

/// Gets `/file` of `vip` and compares it with the pattern of `expected_bytes` bytes; returns the backend.
///
/// # Errors
/// When curl fails within `timeout`, or the content differs; the message says from which byte.
pub fn download(
    client: &Namespace,
    vip: SocketAddr,
    expected_bytes: u64,
    timeout: Duration,
) -> Result<String> {
    let reply = fetch_within(client, vip, "/file", timeout)?;
    ensure!(reply.status == 200, "status {}", reply.status);
    let difference = pattern::first_difference(&reply.body, expected_bytes);
    ensure!(difference.is_none(), "the file differs from byte {}", difference.unwrap_or_default());
    reply.backend.context("no X-Backend")
}

/// Sends `count` bytes to the TCP echo of `vip` and compares what comes back: big packets both ways.
/// Returns the backend.
///
/// # Errors
/// When the connection breaks, stalls for `timeout`, or a byte differs.
pub fn echo_transfer(client: &Namespace, vip: SocketAddr, count: usize, timeout: Duration) -> Result<String> {
    client.run(|| {
        let mut sending =
            TcpStream::connect_timeout(&vip, timeout).with_context(|| format!("connect to {vip}"))?;
        sending.set_read_timeout(Some(timeout))?;
        sending.set_write_timeout(Some(timeout))?;
        let mut receiving = BufReader::new(sending.try_clone()?);
        let mut backend = String::new();
        receiving.read_line(&mut backend).context("name of the backend")?;
        let sent = pattern::bytes(count);
        let mut received = vec![0_u8; count];
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| sending.write_all(&sent));
            let read = receiving.read_exact(&mut received).context("read the echo");
            if read.is_err() {
                // Frees the writer, which may wait for room that will not come.
                let _ = sending_half(&receiving).shutdown(std::net::Shutdown::Both);
            }
            let written = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            read.and(written.context("send"))
        })?;
        let difference = pattern::first_difference(&received, count as u64);
        ensure!(difference.is_none(), "the echo differs from byte {}", difference.unwrap_or_default());
        Ok(backend.trim().to_owned())
    })
}

fn sending_half(receiving: &BufReader<TcpStream>) -> &TcpStream {
    receiving.get_ref()
}

fn parse(answer: &[u8]) -> Result<Reply> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").context("no end of the header")?;
    let head = String::from_utf8_lossy(&answer[..end]);
    let status = head.split_whitespace().nth(1).and_then(|code| code.parse().ok()).context("no status")?;
    let backend = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("x-backend").then(|| value.trim().to_owned())
    });
    Ok(Reply { status, backend, body: answer[end + 4..].to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_an_answer() {
        let reply = parse(b"HTTP/1.1 404 Not Found\r\nx-backend: b1\r\n\r\nno\r\n\r\nsuch\n").unwrap();
        assert_eq!((reply.status, reply.backend.as_deref()), (404, Some("b1")));
        assert_eq!(reply.body, b"no\r\n\r\nsuch\n");
        assert!(parse(b"HTTP/1.1 200 OK\r\n").is_err());
    }

    #[test]
    fn brackets_ipv6() {
        assert_eq!(url("[2001:db8::1]:80".parse().unwrap(), "/"), "http://[2001:db8::1]:80/");
    }
}
