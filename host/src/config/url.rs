//! URLs as etcd's flags have them: a scheme, a host and a port, and nothing else; or the path of a unix socket.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

/// A URL of a member, `http://host:port` or `unix://path`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Url {
    /// As it was written, with the scheme in lower case: ids are computed from it.
    text: String,
    /// Without the brackets of an IPv6 address; empty for a unix socket.
    host: String,
    /// 0 for a unix socket.
    port: u16,
    is_socket: bool,
}

const UNIX: &str = "unix://";

/// Why a text is no URL that can be used here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("URL scheme must be http, https, unix, or unixs: {0}")]
    Scheme(String),
    #[error("TLS is not there yet, use http:// instead: {0}")]
    Tls(String),
    #[error("the URL of a unix socket is unix:// and a path: {0}")]
    UnixSocket(String),
    #[error("URL address does not have the form \"host:port\": {0}")]
    Address(String),
    #[error("URL must not contain a path: {0}")]
    Path(String),
    #[error("the port of a URL must be a number of at most 65535: {0}")]
    Port(String),
}

impl Url {
    /// Whether only this machine's own processes reach it.
    pub fn is_loopback(&self) -> bool {
        let is_address = || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        self.is_socket || self.host == "localhost" || is_address()
    }

    /// # Errors
    /// Says what is wrong with `text`.
    pub fn parse(text: &str) -> Result<Url, UrlError> {
        let text = text.trim();
        let owned = || text.to_owned();
        let (scheme, rest) = text.split_once(':').ok_or_else(|| UrlError::Scheme(owned()))?;
        match scheme.to_ascii_lowercase().as_str() {
            "http" => {}
            "https" | "unixs" => return Err(UrlError::Tls(owned())),
            "unix" => {
                return match rest.strip_prefix("//") {
                    Some(path) if !path.is_empty() => Ok(Url {
                        text: format!("{UNIX}{path}"),
                        host: String::new(),
                        port: 0,
                        is_socket: true,
                    }),
                    _ => Err(UrlError::UnixSocket(owned())),
                };
            }
            _ => return Err(UrlError::Scheme(owned())),
        }
        let rest = rest.strip_prefix("//").ok_or_else(|| UrlError::Address(owned()))?;
        let (address, tail) = match rest.find(['/', '?', '#']) {
            Some(end) => rest.split_at(end),
            None => (rest, ""),
        };
        let (host, port) = split_address(address).ok_or_else(|| UrlError::Address(owned()))?;
        if !tail.is_empty() {
            return Err(UrlError::Path(owned()));
        }
        let digits_only = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = if digits_only { port.parse().ok() } else { None };
        let port = port.ok_or_else(|| UrlError::Port(owned()))?;
        Ok(Url { text: format!("http://{address}"), host: host.to_owned(), port, is_socket: false })
    }

    /// The URL as it was written: `http://host:port`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// A name or an IP address, the latter without brackets. Empty if the URL has none.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// 0 is "any free port" where it is listened on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The path of a unix socket; none if this is not one.
    pub fn socket_path(&self) -> Option<&Path> {
        if self.is_socket { self.text.strip_prefix(UNIX).map(Path::new) } else { None }
    }

    /// Where to listen. None if the host is neither an IP address nor localhost, which stands for 127.0.0.1.
    pub fn bind_address(&self) -> Option<SocketAddr> {
        let address = match self.host.as_str() {
            "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
            host => host.parse().ok()?,
        };
        Some(SocketAddr::new(address, self.port))
    }

    /// Whether both name the same place. localhost and 127.0.0.1 are one; other names are not looked up.
    pub fn same_place(&self, other: &Url) -> bool {
        let named = |url: &Url| match url.bind_address() {
            Some(address) => address.to_string(),
            None => url.text.to_ascii_lowercase(),
        };
        named(self) == named(other)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

/// Host and port of `host:port`, `[address]:port` or `:port`.
fn split_address(address: &str) -> Option<(&str, &str)> {
    if let Some(rest) = address.strip_prefix('[') {
        let (host, port) = rest.split_once("]:")?;
        let valid = host.parse::<std::net::Ipv6Addr>().is_ok();
        return valid.then_some((host, port));
    }
    let (host, port) = address.rsplit_once(':')?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    host.bytes().all(plain).then_some((host, port))
}

/// URLs separated by commas, sorted and without repetitions, as etcd keeps them.
pub(super) fn parse_list(text: &str) -> Result<Vec<Url>, UrlError> {
    let mut urls = text.split(',').map(Url::parse).collect::<Result<Vec<_>, _>>()?;
    urls.sort();
    urls.dedup();
    Ok(urls)
}

/// Origins for CORS: `*`, or URLs, which may be of TLS as well.
pub(super) fn check_origins(text: &str) -> Result<(), UrlError> {
    if text.is_empty() || text == "*" {
        return Ok(());
    }
    for origin in text.split(',') {
        match origin.trim().strip_prefix("https://") {
            Some(rest) => Url::parse(&format!("http://{rest}"))?,
            None => Url::parse(origin)?,
        };
    }
    Ok(())
}

/// URLs separated by commas, for messages.
pub(super) fn join(urls: &[Url]) -> String {
    urls.iter().map(Url::as_str).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read() {
        let url = Url::parse(" http://127.0.0.1:2379 ").unwrap();
        assert_eq!(
            (url.as_str(), url.host(), url.port()),
            ("http://127.0.0.1:2379", "127.0.0.1", 2379)
        );
        assert_eq!(url.bind_address(), Some("127.0.0.1:2379".parse().unwrap()));
        let url = Url::parse("HTTP://[::1]:0").unwrap();
        assert_eq!((url.as_str(), url.host()), ("http://[::1]:0", "::1"));
        assert_eq!(url.bind_address(), Some("[::1]:0".parse().unwrap()));
        assert_eq!(
            Url::parse("http://localhost:1").unwrap().bind_address(),
            "127.0.0.1:1".parse().ok()
        );
        assert_eq!(Url::parse("http://etcd-0:1").unwrap().bind_address(), None);
        assert_eq!(Url::parse("http://:2380").unwrap().host(), "");
        let socket = Url::parse("unix://localhost:1").unwrap();
        assert_eq!(socket.socket_path(), Some(Path::new("localhost:1")));
        assert_eq!((socket.as_str(), socket.bind_address()), ("unix://localhost:1", None));
    }

    #[test]
    fn what_is_no_url_is_refused() {
        for (text, message) in [
            ("garbage", "URL scheme must be http, https, unix, or unixs: garbage"),
            ("", "URL scheme must be http, https, unix, or unixs: "),
            ("ftp://x", "URL scheme must be http, https, unix, or unixs: ftp://x"),
            ("https://a:1", "TLS is not there yet, use http:// instead: https://a:1"),
            ("unix:run", "the URL of a unix socket is unix:// and a path: unix:run"),
            ("unixs:///run/x", "TLS is not there yet, use http:// instead: unixs:///run/x"),
            (
                "http:127.0.0.1:1",
                "URL address does not have the form \"host:port\": http:127.0.0.1:1",
            ),
            (
                "http://127.0.0.1",
                "URL address does not have the form \"host:port\": http://127.0.0.1",
            ),
            ("http://::1:1", "URL address does not have the form \"host:port\": http://::1:1"),
            ("http://u@h:1", "URL address does not have the form \"host:port\": http://u@h:1"),
            ("http://a:1/", "URL must not contain a path: http://a:1/"),
            ("http://a:1?b", "URL must not contain a path: http://a:1?b"),
            ("http://a:", "the port of a URL must be a number of at most 65535: http://a:"),
            ("http://a:+1", "the port of a URL must be a number of at most 65535: http://a:+1"),
            (
                "http://a:99999",
                "the port of a URL must be a number of at most 65535: http://a:99999",
            ),
        ] {
            assert_eq!(Url::parse(text).unwrap_err().to_string(), message, "{text}");
        }
    }

    #[test]
    fn lists_are_sorted_and_unique() {
        let list = parse_list("http://b:1,http://a:1,http://b:1").unwrap();
        assert_eq!(join(&list), "http://a:1,http://b:1");
    }
}
