//! A connection to one of the endpoints, and calls over it.
//!
//! The first endpoint that answers serves, beginning with any; where it is lost, requests that only read
//! are sent to another until the command's time is over. Writes are never sent twice.

use std::cell::RefCell;
use std::future::Future;
use std::time::{Duration, Instant};

use proto::etcdserverpb as pb;
use proto::etcdserverpb::auth_client::AuthClient;
use proto::etcdserverpb::cluster_client::ClusterClient;
use proto::etcdserverpb::kv_client::KvClient;
use proto::etcdserverpb::lease_client::LeaseClient;
use proto::etcdserverpb::maintenance_client::MaintenanceClient;
use proto::etcdserverpb::watch_client::WatchClient;
use proto::instar::v1::machine_client::MachineClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Response, Status};

use crate::failure::{self, Failure};
use crate::go;
use crate::settings::{Credentials, Settings, Tls};

/// What a request may have, in bytes, unless a flag says otherwise.
const REQUEST_BYTES_MAX: usize = 2 << 20;
const RESPONSE_BYTES_MAX: usize = i32::MAX as usize;
/// Between two rounds over endpoints of which none answers.
const RETRY_EVERY: Duration = Duration::from_millis(100);
const API_VERSION: &str = "3.7";

pub type Service = InterceptedService<Channel, Headers>;

/// What every request carries.
#[derive(Clone, Debug, Default)]
pub struct Headers {
    token: Option<MetadataValue<Ascii>>,
}

impl Interceptor for Headers {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        metadata.insert("client-api-version", MetadataValue::from_static(API_VERSION));
        if let Some(token) = &self.token {
            metadata.insert("token", token.clone());
        }
        Ok(request)
    }
}

/// Whether a request may be sent again when it is not known what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    Reading,
    Never,
}

#[derive(Debug)]
pub struct Client {
    settings: Settings,
    /// When the command's time is over, if it has one.
    deadline: Option<Instant>,
    channel: RefCell<Channel>,
    headers: RefCell<Headers>,
}

// The limits are the same for each of etcd's services.
macro_rules! with_limits {
    ($($name:ident: $client:ident),* $(,)?) => {$(
        pub fn $name(&self, service: Service) -> $client<Service> {
            let (requests, responses) = self.limits();
            $client::new(service)
                .max_encoding_message_size(requests)
                .max_decoding_message_size(responses)
        }
    )*};
}

impl Client {
    /// Connects within the dial timeout, or as long as the command may take.
    pub async fn connect(settings: &Settings, timeout: Option<Duration>) -> Result<Self, Failure> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let channel = dial(settings, deadline, None).await?;
        let client = Self {
            settings: settings.clone(),
            deadline,
            channel: RefCell::new(channel),
            headers: RefCell::default(),
        };
        client.authenticate().await?;
        Ok(client)
    }

    async fn authenticate(&self) -> Result<(), Failure> {
        let token = match self.settings.credentials.clone() {
            None => return Ok(()),
            Some(Credentials::Token(token)) => token,
            Some(Credentials::Password { user, password }) => {
                let request = pb::AuthenticateRequest { name: user, password };
                let answer = self
                    .call(Repeat::Reading, |service| {
                        let (mut client, request) = (self.auth(service), request.clone());
                        async move { client.authenticate(request).await }
                    })
                    .await;
                match answer {
                    Ok(answer) => answer.token,
                    // Where authentication is off, it does not matter who asks.
                    Err(failure) if failure.message.ends_with("authentication is not enabled") => {
                        return Ok(());
                    }
                    Err(failure) => return Err(failure.with_code(failure::BAD_CONNECTION)),
                }
            }
        };
        let token = token.parse().map_err(|_| {
            Failure::new(failure::BAD_CONNECTION, "the token is no text that a header can have")
        })?;
        self.headers.replace(Headers { token: Some(token) });
        Ok(())
    }

    fn limits(&self) -> (usize, usize) {
        let or = |given: usize, default: usize| if given == 0 { default } else { given };
        (
            or(self.settings.request_bytes_max, REQUEST_BYTES_MAX),
            or(self.settings.response_bytes_max, RESPONSE_BYTES_MAX),
        )
    }

    with_limits! {
        kv: KvClient,
        watch: WatchClient,
        lease: LeaseClient,
        cluster: ClusterClient,
        maintenance: MaintenanceClient,
        machine: MachineClient,
        auth: AuthClient,
    }

    /// The connection, for streams.
    pub fn service(&self) -> Service {
        InterceptedService::new(self.channel.borrow().clone(), self.headers.borrow().clone())
    }

    /// Sends a request and waits for the answer, as long as the command may take.
    pub async fn call<T, F, A>(&self, repeat: Repeat, attempt: F) -> Result<T, Failure>
    where
        F: Fn(Service) -> A,
        A: Future<Output = Result<Response<T>, Status>>,
    {
        loop {
            let status = match before(self.deadline, attempt(self.service())).await? {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) => status,
            };
            let lost = status.code() == Code::Unavailable && repeat == Repeat::Reading;
            if !lost {
                return Err(status.into());
            }
            let why = Some(failure::text(&status));
            tokio::time::sleep(RETRY_EVERY).await;
            let channel = dial(&self.settings, self.deadline, why).await?;
            self.channel.replace(channel);
        }
    }

    /// The endpoints that were given.
    pub fn endpoints(&self) -> &[String] {
        &self.settings.endpoints
    }
}

/// Waits for what may last until the deadline.
async fn before<T>(deadline: Option<Instant>, work: impl Future<Output = T>) -> Result<T, Failure> {
    match deadline {
        None => Ok(work.await),
        Some(deadline) => {
            let answer = tokio::time::timeout_at(deadline.into(), work).await;
            answer.map_err(|_| Failure::deadline())
        }
    }
}

/// Connects to the first endpoint that answers, until the deadline. `why` is the reason for another try.
async fn dial(
    settings: &Settings,
    deadline: Option<Instant>,
    why: Option<String>,
) -> Result<Channel, Failure> {
    if settings.endpoints.is_empty() {
        return Err(Failure::new(failure::BAD_CONNECTION, "etcdclient: no available endpoints"));
    }
    let mut last = why.unwrap_or_default();
    let mut at = rand::random_range(0..settings.endpoints.len());
    let mut left = settings.endpoints.len();
    loop {
        let address = &settings.endpoints[at];
        let endpoint = endpoint(address, settings)?;
        match before(deadline, endpoint.connect()).await {
            Ok(Ok(channel)) => return Ok(channel),
            Ok(Err(error)) => last = format!("{address}: {}", reason(&error)),
            Err(failure) => return Err(failure.with_hint(unreachable_hint(&last, settings))),
        }
        at = (at + 1) % settings.endpoints.len();
        left -= 1;
        if left == 0 {
            left = settings.endpoints.len();
            let pause = before(deadline, tokio::time::sleep(RETRY_EVERY)).await;
            pause.map_err(|failure| failure.with_hint(unreachable_hint(&last, settings)))?;
        }
    }
}

fn unreachable_hint(last: &str, settings: &Settings) -> String {
    match last {
        "" => format!("no answer from {}", settings.endpoints.join(", ")),
        last => format!("cannot connect to {last}; does --endpoints name a server that runs?"),
    }
}

/// The innermost cause of an error, which names what happened.
fn reason(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let text = cause.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

fn endpoint(address: &str, settings: &Settings) -> Result<Endpoint, Failure> {
    let (scheme, rest) = address.split_once("://").unwrap_or(("", address));
    let secure = match scheme {
        "" => settings.tls.is_some(),
        "http" => false,
        "https" => true,
        "unix" | "unixs" => {
            return unix_endpoint(rest, settings);
        }
        other => {
            let message = format!("an endpoint's scheme is http, https or unix, not {other:?}");
            return Err(Failure::new(failure::BAD_CONNECTION, message));
        }
    };
    let rest = rest.split('/').next().unwrap_or_default();
    let uri = format!("{}://{rest}", if secure { "https" } else { "http" });
    let invalid = |error: tonic::transport::Error| {
        Failure::new(failure::BAD_CONNECTION, format!("endpoint {address:?}: {}", reason(&error)))
    };
    let endpoint = with_times(Endpoint::from_shared(uri).map_err(invalid)?, settings);
    match secure {
        false => Ok(endpoint),
        true => {
            let tls = client_tls(settings.tls.clone().unwrap_or_default())?;
            endpoint.tls_config(tls).map_err(invalid)
        }
    }
}

fn unix_endpoint(path: &str, settings: &Settings) -> Result<Endpoint, Failure> {
    let endpoint = Endpoint::from_shared(format!("unix:{path}")).map_err(|error| {
        Failure::new(failure::BAD_CONNECTION, format!("endpoint {path:?}: {}", reason(&error)))
    })?;
    Ok(with_times(endpoint, settings))
}

fn with_times(endpoint: Endpoint, settings: &Settings) -> Endpoint {
    endpoint
        .connect_timeout(settings.dial_timeout)
        .http2_keep_alive_interval(settings.keepalive_time)
        .keep_alive_timeout(settings.keepalive_timeout)
        .tcp_nodelay(true)
}

fn client_tls(tls: Tls) -> Result<ClientTlsConfig, Failure> {
    if tls.skip_verify {
        return Err(Failure::new(
            failure::BAD_CONNECTION,
            "--insecure-skip-tls-verify is not supported: nothing is said to a server that is not verified",
        )
        .with_hint("give the certificate that signed the server's with --cacert"));
    }
    let read = |path: &str| {
        std::fs::read(path).map_err(|error| {
            Failure::new(failure::BAD_ARGUMENTS, go::path_error("open", path, &error))
        })
    };
    let mut config = ClientTlsConfig::new();
    config = match tls.cacert.as_str() {
        "" => config.with_enabled_roots(),
        path => config.ca_certificate(Certificate::from_pem(read(path)?)),
    };
    match (tls.cert.as_str(), tls.key.as_str()) {
        ("", "") => Ok(config),
        ("", _) | (_, "") => {
            let (cert, key) = (&tls.cert, &tls.key);
            let message =
                format!("KeyFile and CertFile must both be present[key: {key}, cert: {cert}]");
            Err(Failure::new(failure::BAD_ARGUMENTS, message))
        }
        (cert, key) => Ok(config.identity(Identity::from_pem(read(cert)?, read(key)?))),
    }
}
