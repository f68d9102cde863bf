//! Who is at the other end of the socket: the kernel says, nobody claims.

use nix::unistd::{Uid, User};
use tokio::net::UnixStream;

/// The actor of a request, as it goes into the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor(pub String);

impl Actor {
    /// The user of the process that connected (`SO_PEERCRED`): a name, or `uid N` where the number has none.
    pub async fn of(stream: &UnixStream) -> Self {
        let Ok(peer) = stream.peer_cred() else { return Self("unknown".to_owned()) };
        let uid = Uid::from_raw(peer.uid());
        // A directory service may be asked for the name, and may be slow.
        let asked = tokio::task::spawn_blocking(move || User::from_uid(uid)).await;
        let named = asked.ok().and_then(Result::ok).flatten();
        Self(named.map_or_else(|| format!("uid {}", peer.uid()), |user| user.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_peer_of_a_pair_is_this_user() {
        let (stream, _other) = UnixStream::pair().unwrap();
        let own = User::from_uid(Uid::current()).unwrap().unwrap().name;
        assert_eq!(Actor::of(&stream).await, Actor(own));
    }
}
