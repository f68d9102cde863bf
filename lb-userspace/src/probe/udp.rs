//! The UDP probe: a datagram is sent, and what comes back is compared.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_control::health::Outcome;
use lb_control::probe::PAYLOAD_MAX_BYTES;
use tokio::net::UdpSocket;

use super::goal::Goal;
use super::plan::{Answer, socket_failure};

/// Sends `send`; the answer must begin with `expect`.
///
/// # Errors
/// The attempt itself could not be made.
pub(super) async fn ask(goal: &Goal, send: &[u8], expect: &[u8]) -> io::Result<Answer> {
    let answered = match goal {
        Goal::Straight(target) => exchange(*target, send).await,
        Goal::Vip(line) => line.exchange(send).await,
    };
    match answered {
        Ok(answer) if answer.starts_with(expect) => Ok(Answer::success()),
        Ok(answer) => Ok(Answer::failed(Outcome::WrongAnswer, shown(&answer))),
        Err(error) => socket_failure(error),
    }
}

/// The first bytes of the answer. Connected, the socket takes datagrams of the target alone, and its refusals.
async fn exchange(target: SocketAddr, send: &[u8]) -> io::Result<Vec<u8>> {
    let any: SocketAddr = match target {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(target).await?;
    socket.send(send).await?;
    // What does not fit is cut off by the kernel; no more than this can be expected.
    let mut answer = vec![0; PAYLOAD_MAX_BYTES];
    let length = socket.recv(&mut answer).await?;
    answer.truncate(length);
    Ok(answer)
}

fn shown(answer: &[u8]) -> String {
    let head = &answer[..answer.len().min(16)];
    format!("answered {} bytes: {}", answer.len(), head.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(target: SocketAddr, send: &[u8], expect: &[u8]) -> io::Result<Answer> {
        super::ask(&Goal::Straight(target), send, expect).await
    }

    #[tokio::test]
    async fn what_comes_back_is_compared_and_a_closed_port_refuses() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let target = socket.local_addr().unwrap();
        let echo = async {
            let mut buffer = [0; 2_048];
            for _ in 0..2 {
                let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                buffer[length..].fill(b'+');
                socket.send_to(&buffer, from).await.unwrap();
            }
        };
        let asked = async {
            assert_eq!(ask(target, b"ping", b"ping+").await.unwrap(), Answer::success());
            let wrong = ask(target, b"\x00ping", b"pong").await.unwrap();
            assert_eq!(wrong.outcome, Outcome::WrongAnswer);
            assert_eq!(wrong.detail, r"answered 1024 bytes: \x00ping+++++++++++");
        };
        tokio::join!(echo, asked);
        drop(socket);
        assert_eq!(ask(target, b"ping", b"").await.unwrap().outcome, Outcome::Refused);
    }
}
