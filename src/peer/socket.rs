//! The options of a peer's TCP socket, and how its address is dialed.

use std::io;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::peer::PeerError;

/// Silence after which the kernel asks whether the peer is there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(2);
/// Time between such questions.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);
/// Unanswered questions after which the connection is given up: five seconds with the above.
const KEEPALIVE_COUNT: u32 = 3;
/// How long sent data may stay unacknowledged, in milliseconds (tcp(7), TCP_USER_TIMEOUT).
const USER_TIMEOUT_MILLIS: u32 = 5_000;

/// Sends small frames at once, and notices a peer that vanished without closing.
pub(super) fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(socket, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(socket, KEEPALIVE_COUNT)?;
    sockopt::set_tcp_user_timeout(socket, USER_TIMEOUT_MILLIS)?;
    Ok(())
}

/// Resolves `address` ("host:port") and connects to the first of its addresses that answers.
pub(super) async fn connect(address: &str, within: Duration) -> Result<TcpStream, PeerError> {
    match timeout(within, TcpStream::connect(address)).await {
        Err(_) => Err(PeerError::TimedOut),
        // A refused or reset connection attempt: there is nothing yet that could be "closed".
        Ok(Err(error)) => Err(PeerError::Unreachable(error.kind())),
        Ok(Ok(socket)) => {
            prepare(&socket)?;
            Ok(socket)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustix::net::sockopt;
    use tokio::net::TcpListener;

    use super::connect;

    #[tokio::test]
    async fn a_vanished_peer_is_noticed_within_some_five_seconds() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let socket = connect(&address, Duration::from_secs(5)).await.unwrap();
        assert!(socket.nodelay().unwrap());
        assert!(sockopt::socket_keepalive(&socket).unwrap());
        let idle = sockopt::tcp_keepidle(&socket).unwrap();
        let interval = sockopt::tcp_keepintvl(&socket).unwrap();
        let silence = idle + interval * sockopt::tcp_keepcnt(&socket).unwrap();
        assert!(silence <= Duration::from_secs(5), "{silence:?}");
        assert!(sockopt::tcp_user_timeout(&socket).unwrap() <= 5_000);
    }
}
