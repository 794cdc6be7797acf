//! What the global flags and the environment say: where to connect, as whom, how to print.

use std::time::Duration;

use crate::command_line::{Invocation, Value};
use crate::failure::{self, Failure};
use crate::logging;
use crate::output::{Format, Output};

const ENVIRONMENT: &str = "ETCDCTL_";
/// Variables that commands read themselves.
const OWN_VARIABLES: [&str; 2] = ["ETCDCTL_WATCH_KEY", "ETCDCTL_WATCH_RANGE_END"];

/// Who is asking.
#[derive(Clone, Debug)]
pub enum Credentials {
    Password { user: String, password: String },
    Token(String),
}

#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// Files, or empty.
    pub cert: String,
    pub key: String,
    pub cacert: String,
    pub skip_verify: bool,
}

#[derive(Clone, Debug)]
pub struct Settings {
    pub endpoints: Vec<String>,
    pub dial_timeout: Duration,
    pub keepalive_time: Duration,
    pub keepalive_timeout: Duration,
    /// 0 for the default.
    pub request_bytes_max: usize,
    pub response_bytes_max: usize,
    /// TLS where an endpoint does not say: given by any of the flags.
    pub tls: Option<Tls>,
    pub credentials: Option<Credentials>,
    pub output: Output,
}

impl Settings {
    /// Takes what the environment sets into the invocation, and reads everything.
    pub fn read(invocation: &mut Invocation) -> Result<Self, Failure> {
        read_environment(invocation)?;
        let format = Format::parse(&invocation.text("write-out"))?;
        let endpoints = invocation.list("endpoints");
        let endpoints = endpoints.iter().map(|endpoint| endpoint.trim().to_owned()).collect();
        if !invocation.text("discovery-srv").is_empty() {
            return Err(Failure::error("looking up endpoints by DNS SRV records is not supported")
                .with_hint("give the addresses with --endpoints"));
        }
        let bytes = |name: &str| usize::try_from(invocation.integer(name)).unwrap_or(0);
        Ok(Self {
            endpoints,
            dial_timeout: invocation.duration("dial-timeout"),
            keepalive_time: invocation.duration("keepalive-time"),
            keepalive_timeout: invocation.duration("keepalive-timeout"),
            request_bytes_max: bytes("max-request-bytes"),
            response_bytes_max: bytes("max-recv-bytes"),
            tls: tls(invocation)?,
            credentials: credentials(invocation)?,
            output: Output::new(format, invocation.flag("hex")),
        })
    }

    /// The same, for one endpoint.
    pub fn at(&self, endpoint: &str) -> Self {
        Self { endpoints: vec![endpoint.to_owned()], ..self.clone() }
    }
}

fn tls(invocation: &Invocation) -> Result<Option<Tls>, Failure> {
    for name in ["cert", "key", "cacert"] {
        if invocation.is_given(name) && invocation.text(name).is_empty() {
            let message = format!("empty string is passed to --{name} option");
            return Err(Failure::arguments(message));
        }
    }
    let tls = Tls {
        cert: invocation.text("cert"),
        key: invocation.text("key"),
        cacert: invocation.text("cacert"),
        skip_verify: invocation.flag("insecure-skip-tls-verify"),
    };
    let wanted = !tls.cert.is_empty()
        || !tls.key.is_empty()
        || !tls.cacert.is_empty()
        || tls.skip_verify
        || !invocation.flag("insecure-transport");
    Ok(wanted.then_some(tls))
}

fn credentials(invocation: &Invocation) -> Result<Option<Credentials>, Failure> {
    let (user, token) = (invocation.text("user"), invocation.text("auth-jwt-token"));
    if !token.is_empty() {
        return Ok(Some(Credentials::Token(token)));
    }
    password_of(&user, &invocation.text("password"), "Password: ")
}

/// `name:password`, or a name and a password, which is asked for if need be.
pub fn password_of(
    user: &str,
    password: &str,
    prompt: &str,
) -> Result<Option<Credentials>, Failure> {
    if user.is_empty() {
        return Ok(None);
    }
    let (user, password) = match (password, user.split_once(':')) {
        ("", Some((user, password))) => (user.to_owned(), password.to_owned()),
        ("", None) => (user.to_owned(), rpassword::prompt_password(prompt)?),
        (password, _) => (user.to_owned(), password.to_owned()),
    };
    Ok(Some(Credentials::Password { user, password }))
}

fn variable(flag: &str) -> String {
    format!("{ENVIRONMENT}{}", flag.to_uppercase().replace('-', "_"))
}

/// `ETCDCTL_…`, for flags that the command line does not set. One that it does set is a conflict.
fn read_environment(invocation: &mut Invocation) -> Result<(), Failure> {
    let flags: Vec<_> = invocation.inherited().collect();
    let mut known: Vec<String> = OWN_VARIABLES.iter().map(|name| (*name).to_owned()).collect();
    for flag in flags {
        let name = variable(flag.name);
        let Ok(text) = std::env::var(&name) else { continue };
        if invocation.is_given(flag.name) {
            logging::log("fatal", CONFLICT, &[("environment-variable", &name)]);
            return Err(Failure::silent(failure::ERROR));
        }
        // etcdctl, too, passes over a value that it cannot read.
        if let Ok(value) = Value::parse(flag.kind, &text)
            && !text.is_empty()
        {
            invocation.set(flag.name, value);
        }
        known.push(name);
    }
    for (name, value) in std::env::vars().filter(|(name, _)| name.starts_with(ENVIRONMENT)) {
        if !known.contains(&name) {
            let variable = format!("{name}={value}");
            let fields = [("environment-variable", variable.as_str())];
            logging::log("warn", "unrecognized environment variable", &fields);
        }
    }
    Ok(())
}

const CONFLICT: &str = "conflicting environment variable is shadowed by corresponding command-line flag \
                        (either unset environment variable or disable flag))";
