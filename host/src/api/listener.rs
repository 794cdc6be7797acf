//! Listening sockets. They are bound before anything else is touched, so that a second server on the same ports ends
//! without having changed anything.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use socket2::{Domain, Protocol, Socket, Type};

use crate::config::Url;
use crate::limits;

/// What is served on a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Purpose {
    #[default]
    Everything,
    GrpcOnly,
    HttpOnly,
    /// Metrics and health checks.
    MetricsOnly,
}

/// A socket that listens.
#[derive(Debug)]
pub(super) enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// The file of a unix socket, which is removed when this is dropped.
#[derive(Debug)]
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // It may have been removed by hand.
        drop(std::fs::remove_file(&self.0));
    }
}

/// Sockets that listen, and are not served yet.
#[derive(Debug, Default)]
pub struct Listeners {
    sockets: Vec<(Purpose, Listening)>,
}

/// Why it cannot be listened on a URL.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error(
        "cannot listen on {url}: the port is in use; stop the other server, or change --{flag}"
    )]
    InUse { url: String, flag: &'static str },
    #[error("cannot listen on {url}: {source}; change --{flag}")]
    Failed { url: String, flag: &'static str, source: io::Error },
}

impl Listeners {
    /// Binds a socket for each of the URLs; `flag` is where they come from.
    ///
    /// # Errors
    /// The first URL that cannot be listened on. The sockets before it are closed again.
    pub fn bind(urls: &[Url], flag: &'static str) -> Result<Listeners, BindError> {
        Listeners::default().and(urls, flag, Purpose::Everything)
    }

    /// Binds further sockets, for a purpose.
    ///
    /// # Errors
    /// As `bind`; all sockets are closed again.
    pub fn and(
        mut self,
        urls: &[Url],
        flag: &'static str,
        purpose: Purpose,
    ) -> Result<Listeners, BindError> {
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for url in urls {
            let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
            let bound = match (url.socket_path(), url.bind_address()) {
                (Some(path), _) => bind_unix(path).map(Some),
                // localhost and 127.0.0.1 may both be asked for.
                (_, Some(address)) if addresses.contains(&address) && address.port() != 0 => {
                    Ok(None)
                }
                (_, Some(address)) => {
                    addresses.push(address);
                    bind(address).map(|socket| Some(Listening::Tcp(socket)))
                }
                (None, None) => Err(invalid()),
            };
            let bound = bound.map_err(|source| match source.kind() {
                io::ErrorKind::AddrInUse => BindError::InUse { url: url.to_string(), flag },
                _ => BindError::Failed { url: url.to_string(), flag, source },
            })?;
            self.sockets.extend(bound.map(|socket| (purpose, socket)));
        }
        Ok(self)
    }

    /// Where it is listened by TCP, with the ports that were free where any was asked for.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let address = |(_, socket): &(Purpose, Listening)| match socket {
            Listening::Tcp(socket) => socket.local_addr().ok(),
            Listening::Unix(..) => None,
        };
        self.sockets.iter().filter_map(address).collect()
    }

    pub(super) fn into_listening(self) -> Vec<(Purpose, Listening)> {
        self.sockets
    }

    /// The TCP sockets, non-blocking, for whoever serves something else on them.
    pub fn into_sockets(self) -> Vec<TcpListener> {
        let tcp = |(_, socket)| match socket {
            Listening::Tcp(socket) => Some(socket),
            Listening::Unix(..) => None,
        };
        self.sockets.into_iter().filter_map(tcp).collect()
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // For connections of a server that has just ended. It does not let two servers share a port.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(limits::LISTEN_BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Binds a unix socket, in the place of one that a server has left behind, but not of one that is served.
fn bind_unix(path: &Path) -> io::Result<Listening> {
    match UnixStream::connect(path) {
        Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
        // A file that is no socket refuses connections as well.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            if std::fs::symlink_metadata(path)?.file_type().is_socket() {
                std::fs::remove_file(path)?;
            }
        }
        // Most of the time there is nothing; whatever else there is, binding will say.
        Err(_) => {}
    }
    let socket = UnixListener::bind(path)?;
    let file = SocketFile(path.to_owned());
    socket.set_nonblocking(true)?;
    Ok(Listening::Unix(socket, file))
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

    #[test]
    fn a_unix_socket_is_bound_once_and_leaves_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let url = Url::parse(&format!("unix://{}", path.display())).unwrap();
        let bind = || Listeners::bind(std::slice::from_ref(&url), "listen-client-urls");
        let first = bind().unwrap();
        assert!(matches!(bind().unwrap_err(), BindError::InUse { .. }));
        drop(first);
        assert!(!path.exists());
        // One that a killed server left behind is no obstacle; a file of another kind is.
        drop(UnixListener::bind(&path).unwrap());
        drop(bind().unwrap());
        std::fs::write(&path, "mine").unwrap();
        assert!(bind().is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    }
}
