//! Listening sockets. They are bound before anything else is touched, so that a second server on the same ports ends
//! without having changed anything.

use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

use crate::config::Url;
use crate::limits;

/// Sockets that listen, and are not served yet.
#[derive(Debug)]
pub struct Listeners {
    sockets: Vec<TcpListener>,
}

/// Why it cannot be listened on a URL.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error(
        "cannot listen on {url}: the port is in use; stop the other server, or change --{flag}"
    )]
    InUse { url: String, flag: &'static str },
    #[error("cannot listen on {url}: {source}; change --{flag}")]
    Failed { url: String, flag: &'static str, source: std::io::Error },
}

impl Listeners {
    /// Binds a socket for each of the URLs; `flag` is where they come from.
    ///
    /// # Errors
    /// The first URL that cannot be listened on. The sockets before it are closed again.
    pub fn bind(urls: &[Url], flag: &'static str) -> Result<Listeners, BindError> {
        let mut addresses: Vec<SocketAddr> = Vec::new();
        let mut sockets = Vec::new();
        for url in urls {
            let invalid = || std::io::Error::from(std::io::ErrorKind::InvalidInput);
            let address = url.bind_address().ok_or_else(invalid);
            let bound = address.and_then(|address| {
                // localhost and 127.0.0.1 may both be asked for.
                if addresses.contains(&address) && address.port() != 0 {
                    return Ok(());
                }
                addresses.push(address);
                sockets.push(bind(address)?);
                Ok(())
            });
            bound.map_err(|source| match source.kind() {
                std::io::ErrorKind::AddrInUse => BindError::InUse { url: url.to_string(), flag },
                _ => BindError::Failed { url: url.to_string(), flag, source },
            })?;
        }
        Ok(Listeners { sockets })
    }

    /// Where it is listened, with the ports that were free where any was asked for.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.iter().filter_map(|socket| socket.local_addr().ok()).collect()
    }

    /// The sockets, non-blocking, for whoever serves something else on them.
    pub fn into_sockets(self) -> Vec<TcpListener> {
        self.sockets
    }
}

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // For connections of a server that has just ended. It does not let two servers share a port.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(limits::LISTEN_BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_bound_once() {
        let any = Url::parse("http://127.0.0.1:0").unwrap();
        let first = Listeners::bind(&[any], "listen-client-urls").unwrap();
        let port = first.addresses()[0].port();
        let url = Url::parse(&format!("http://127.0.0.1:{port}")).unwrap();
        let error = Listeners::bind(std::slice::from_ref(&url), "listen-client-urls").unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "cannot listen on {url}: the port is in use; stop the other server, or change --listen-client-urls"
            )
        );
        drop(first);
        let localhost = Url::parse(&format!("http://localhost:{port}")).unwrap();
        let both = Listeners::bind(&[url, localhost], "listen-client-urls").unwrap();
        assert_eq!(both.addresses().len(), 1);
    }
}
