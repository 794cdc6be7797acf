//! The command line, the environment and the help.

use super::*;

fn read(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Invocation, ConfigError> {
    Config::from_args_and_environment(
        arguments.iter().map(OsString::from),
        environment.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))),
    )
}

fn config(arguments: &[&str]) -> Config {
    match read(arguments, &[]) {
        Ok(Invocation::Serve(config)) => *config,
        other => panic!("{other:?}"),
    }
}

fn refusal(arguments: &[&str]) -> (String, u8) {
    let error = read(arguments, &[]).expect_err("this should be refused");
    (error.to_string(), error.exit_code())
}

#[test]
fn defaults_are_those_of_etcd() {
    let config = config(&[]);
    assert_eq!(config.name, "default");
    assert_eq!(config.data_dir, PathBuf::from("default.etcd"));
    assert_eq!(url::join(&config.listen_client_urls), "http://localhost:2379");
    assert_eq!(url::join(&config.listen_peer_urls), "http://localhost:2380");
    assert_eq!(url::join(&config.advertise_client_urls), "http://localhost:2379");
    assert_eq!(config.member_id, 0x8e9e_05c5_2164_694d);
    assert_eq!((config.snapshot_count, config.quota_backend_bytes), (10_000, 0));
    assert_eq!((config.heartbeat_interval_ms, config.election_timeout_ms), (100, 1000));
    assert_eq!((config.max_request_bytes, config.max_txn_ops), (1_572_864, 128));
    assert_eq!(config.initial_cluster_state, ClusterState::New);
    assert_eq!(
        config.log,
        LogConfig {
            level: LogLevel::Info,
            format: LogFormat::Json,
            outputs: vec![LogOutput::Stderr],
        }
    );
}

/// The flags of etcd 3.7.1 (server/embed/config.go, server/etcdmain/config.go).
const ETCD_FLAGS: &str = "\
    advertise-client-urls auth-token auth-token-ttl auto-compaction-mode \
    auto-compaction-retention auto-tls backend-batch-interval backend-batch-limit \
    backend-bbolt-freelist-type bcrypt-cost bootstrap-defrag-threshold-megabytes \
    cert-file cipher-suites client-cert-allowed-hostname client-cert-auth \
    client-cert-file client-crl-file client-key-file compact-hash-check-time \
    compaction-batch-limit compaction-sleep-interval config-file corrupt-check-time cors \
    data-dir discovery-cacert discovery-cert discovery-dial-timeout discovery-endpoints \
    discovery-fallback discovery-insecure-skip-tls-verify discovery-insecure-transport \
    discovery-keepalive-time discovery-keepalive-timeout discovery-key \
    discovery-password discovery-request-timeout discovery-srv discovery-srv-name \
    discovery-token discovery-user distributed-tracing-address \
    distributed-tracing-instance-id distributed-tracing-sampling-rate \
    distributed-tracing-service-name downgrade-check-time election-timeout \
    enable-distributed-tracing enable-grpc-gateway enable-log-rotation enable-pprof \
    feature-gates force-new-cluster grpc-keepalive-interval grpc-keepalive-min-time \
    grpc-keepalive-timeout heartbeat-interval host-whitelist initial-advertise-peer-urls \
    initial-cluster initial-cluster-state initial-cluster-token \
    initial-election-tick-advance key-file listen-client-http-urls listen-client-urls \
    listen-metrics-urls listen-peer-urls log-format log-level log-outputs \
    log-rotation-config-json logger max-concurrent-streams max-learners \
    max-request-bytes max-snapshots max-txn-ops max-wals memory-mlock metrics name \
    peer-auto-tls peer-cert-allowed-cn peer-cert-allowed-hostname peer-cert-file \
    peer-client-cert-auth peer-client-cert-file peer-client-key-file peer-crl-file \
    peer-key-file peer-skip-client-san-verification peer-trusted-ca-file pre-vote \
    quota-backend-bytes raft-read-timeout raft-write-timeout self-signed-cert-validity \
    snapshot-catchup-entries snapshot-count socket-reuse-address socket-reuse-port \
    strict-reconfig-check tls-max-version tls-min-version trusted-ca-file \
    unsafe-no-fsync v2-deprecation version wal-dir warning-apply-duration \
    warning-unary-request-duration watch-progress-notify-interval";

#[test]
fn every_flag_of_etcd_is_in_the_table() {
    for name in ETCD_FLAGS.split_whitespace() {
        assert!(flags::find(name).is_some(), "{name}");
    }
}

/// A default that its own kind cannot read would be taken for a missing one.
#[test]
fn every_default_has_its_flags_kind() {
    for flag in flags::all().filter(|flag| !flag.default.is_empty()) {
        assert!(flag.parse(flag.default).is_ok(), "{}", flag.name);
    }
    let mut names: Vec<_> = flags::all().map(|flag| flag.name).collect();
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "a flag stands in the table twice");
}

#[test]
fn the_syntax_is_that_of_go() {
    for arguments in [
        &["-name", "x"][..],
        &["--name", "x"],
        &["-name=x"],
        &["--name=x"],
        &["--name=y", "--name", "x"],
        &["--version=false", "--name=x", "--"],
    ] {
        assert_eq!(config(arguments).name, "x", "{arguments:?}");
    }
    // A value may look like a flag, and may contain the sign that separates it.
    assert_eq!(config(&["--name", "--x"]).name, "--x");
    assert_eq!(config(&["--data-dir=a=b"]).data_dir, PathBuf::from("a=b"));
}

#[test]
fn a_command_line_that_cannot_be_read_is_refused() {
    for (arguments, message, exit_code) in [
        (
            &["-x"][..],
            "flag provided but not defined: -x; `instar --help` lists the flags there are",
            2,
        ),
        (&["--name"], "flag needs an argument: -name; write --name=value", 2),
        (&["---x"], "bad flag syntax: ---x; write --name=value", 2),
        (&["-=x"], "bad flag syntax: -=x; write --name=value", 2),
        (
            &["foo"],
            "\"foo\" is not a valid flag; flags begin with a dash, and nothing else is expected",
            1,
        ),
        (
            &["--", "-x"],
            "\"-x\" is not a valid flag; flags begin with a dash, and nothing else is expected",
            1,
        ),
        (
            &["--heartbeat-interval=abc"],
            "invalid value \"abc\" for flag -heartbeat-interval: parse error",
            2,
        ),
        (
            &["--heartbeat-interval=-1"],
            "invalid value \"-1\" for flag -heartbeat-interval: parse error",
            2,
        ),
        (
            &["--snapshot-count=99999999999999999999"],
            "invalid value \"99999999999999999999\" for flag -snapshot-count: value out of range",
            2,
        ),
        (
            &["--version=maybe"],
            "invalid boolean value \"maybe\" for -version: parse error; write true or false",
            2,
        ),
        (
            &["--listen-client-urls=ftp://x"],
            "invalid value \"ftp://x\" for flag -listen-client-urls: URL scheme must be http, https, unix, or unixs: ftp://x",
            2,
        ),
        (
            &["--initial-cluster-state=foo"],
            "invalid value \"foo\" for flag -initial-cluster-state: invalid value, the choices are new, existing",
            2,
        ),
    ] {
        assert_eq!(refusal(arguments), (message.to_owned(), exit_code), "{arguments:?}");
    }
}

#[test]
fn a_configuration_that_cannot_work_is_refused() {
    for (arguments, message) in [
        (
            &["--listen-client-urls=http://127.0.0.1:1"][..],
            "--advertise-client-urls is required when --listen-client-urls is set explicitly",
        ),
        (
            &["--listen-client-urls=http://foo:1", "--advertise-client-urls=http://foo:1"],
            "expected IP in URL for binding (http://foo:1): give --listen-client-urls an IP address or localhost",
        ),
        (
            &["--initial-advertise-peer-urls=http://:2380"],
            "--initial-advertise-peer-urls \"http://:2380\" must be \"host:port\" (unexpected empty host (http://:2380))",
        ),
        (
            &["--election-timeout=400"],
            "--election-timeout[400ms] should be at least as 5 times as --heartbeat-interval[100ms]",
        ),
        (
            &["--election-timeout=60000"],
            "--election-timeout[60000ms] is too long, and should be set less than 50000ms",
        ),
        (&["--heartbeat-interval=0"], "--heartbeat-interval must be >0 (set to 0ms)"),
        (&["--name="], "--name is empty; give the member a name"),
        (
            &["--initial-cluster=b=http://localhost:2380"],
            "couldn't find local name \"default\" in the initial cluster configuration; \
             --initial-cluster has to name this member as --name does",
        ),
        (
            &["--initial-cluster=default=http://localhost:1"],
            "--initial-cluster has http://localhost:1 for \"default\", but --initial-advertise-peer-urls is \
             http://localhost:2380; they have to be the same",
        ),
        (
            &["--initial-cluster="],
            "--initial-cluster names no members; write them as name=http://host:port, separated by commas",
        ),
        (
            &["--log-outputs=default,stdout"],
            "--log-outputs has `default` beside others; `default` has to stand alone",
        ),
        (
            &["--max-request-bytes=4294967295"],
            "--max-request-bytes[4294967295] is too large; it can be at most 536870912",
        ),
    ] {
        assert_eq!(refusal(arguments), (message.to_owned(), 1), "{arguments:?}");
    }
}

#[test]
fn a_cluster_is_named_by_its_flags() {
    let config = config(&[
        "--name=b",
        "--initial-advertise-peer-urls=http://127.0.0.1:2",
        "--initial-cluster=a=http://127.0.0.1:1,b=http://localhost:2,c=http://127.0.0.1:3",
    ]);
    assert_eq!(config.initial_cluster.members.len(), 3);
    assert_eq!(config.initial_cluster.member("b").unwrap().id, config.member_id);
    assert!(config.initial_cluster_is_given);
}

#[test]
fn the_environment_sets_what_flags_do_not() {
    let environment = [
        ("ETCD_NAME", "e"),
        ("ETCD_DATA_DIR", ""),
        ("ETCD_FOO", "1"),
        ("HOME", "/"),
        ("ETCD_VERIFY", "all"),
    ];
    let Ok(Invocation::Serve(config)) = read(&[], &environment) else { panic!("refused") };
    assert_eq!((config.name.as_str(), config.data_dir), ("e", PathBuf::from("e.etcd")));
    assert_eq!(
        config.notices,
        [
            Notice::Unrecognized { variable: "ETCD_FOO".to_owned() },
            Notice::Used { variable: "ETCD_NAME".to_owned(), value: "e".to_owned() },
        ]
    );
    let refused = |arguments: &[&str], environment: &[(&str, &str)]| {
        let error = read(arguments, environment).expect_err("this should be refused");
        (error.to_string(), error.exit_code())
    };
    let conflict = "conflicting environment variable is shadowed by corresponding command-line flag \
                    (either unset environment variable or disable flag)): ETCD_NAME";
    assert_eq!(refused(&["--name=b"], &[("ETCD_NAME", "a")]), (conflict.to_owned(), 1));
    assert_eq!(
        refused(&[], &[("ETCD_HEARTBEAT_INTERVAL", "xx")]),
        ("invalid value \"xx\" for ETCD_HEARTBEAT_INTERVAL: parse error".to_owned(), 1)
    );
    assert_eq!(
        refused(&[], &[("ETCD_CONFIG_FILE", "no/such/file")]),
        (
            "the configuration file no/such/file cannot be used: No such file or directory (os error 2)"
                .to_owned(),
            1
        )
    );
}

#[test]
fn flags_without_effect_are_noted_and_missing_ones_refused() {
    let noted = config(&["--max-wals=7", "--pre-vote", "-vv", "--feature-gates=AllBeta=true"]);
    let without: Vec<&str> = noted
        .notices
        .iter()
        .filter_map(|notice| match notice {
            Notice::WithoutEffect { flag, .. } => Some(*flag),
            _ => None,
        })
        .collect();
    assert_eq!(without, ["feature-gates", "max-wals", "pre-vote"]);
    assert!(noted.notices.contains(&Notice::Ignored { flag: "vv".to_owned() }));
    // What is the default anyway is no reason to refuse.
    config(&["--client-cert-auth=false", "--auth-token=simple", "--auto-tls=false"]);
    for (flag, message) in [
        ("--cert-file=x", "--cert-file cannot be used: TLS is not there yet"),
        ("--peer-auto-tls", "--peer-auto-tls cannot be used: TLS is not there yet"),
        ("--auth-token=jwt", "--auth-token cannot be used: auth is not there yet"),
        (
            "--discovery-srv=x",
            "--discovery-srv cannot be used: discovery is not supported; name the members with --initial-cluster",
        ),
    ] {
        assert_eq!(refusal(&[flag]), (message.to_owned(), 1));
    }
    assert_eq!(
        refusal(&["--feature-gates=Foo=true"]).0,
        "invalid value \"Foo=true\" for flag -feature-gates: unrecognized feature gate: Foo"
    );
    assert_eq!(
        refusal(&["--listen-peer-urls=unix://x"]).0,
        "--listen-peer-urls has the unix socket unix://x, but members reach each other by http://host:port only"
    );
}

#[test]
fn http_and_grpc_are_as_their_flags_say() {
    let defaults = config(&[]);
    assert!(defaults.http.gateway && defaults.http.cors.is_empty());
    assert!(defaults.http.host_whitelist.is_empty() && defaults.http.listen_http_urls.is_empty());
    assert_eq!(defaults.grpc.keepalive_min_time, Duration::from_secs(5));
    assert_eq!(defaults.grpc.keepalive_interval, Duration::from_secs(7_200));
    assert_eq!(defaults.grpc.max_concurrent_streams, u32::MAX);
    let given = config(&[
        "--cors=https://a:1,http://b:2",
        "--host-whitelist=a,b",
        "--enable-grpc-gateway=false",
        "--metrics=extensive",
        "--grpc-keepalive-min-time=0s",
        "--listen-metrics-urls=http://127.0.0.1:1,unix://m.sock",
    ]);
    assert_eq!(given.http.cors, ["https://a:1", "http://b:2"]);
    assert_eq!(given.http.host_whitelist, ["a", "b"]);
    assert!(!given.http.gateway && given.grpc.extensive_metrics);
    assert_eq!(given.grpc.keepalive_min_time, Duration::from_secs(300));
    assert_eq!(url::join(&given.http.listen_metrics_urls), "http://127.0.0.1:1,unix://m.sock");
    assert!(refusal(&["--cors=a"]).0.starts_with("invalid value \"a\" for flag -cors: URL scheme"));
}

fn from_file(text: &str) -> Result<Invocation, ConfigError> {
    let file = tempfile::NamedTempFile::new().expect("a file can be made");
    std::fs::write(file.path(), text).expect("it can be written");
    let path = file.path().to_str().expect("its name is text");
    // Other flags and variables do not count beside a file, however wrong they are.
    read(&["--name=ignored", "--config-file", path], &[("ETCD_HEARTBEAT_INTERVAL", "x")])
}

#[test]
fn a_file_stands_for_the_flags() {
    let text = "name: 'a'\ndata-dir:\nheartbeat-interval: 50\nlisten-client-urls: http://127.0.0.1:1\n\
                grpc-keepalive-min-time: 7000000000\nlog-outputs: [stdout, stderr]\nlogger: zap\n\
                initial-advertise-peer-urls: http://127.0.0.1:2\ninitial-cluster:\nquota-backend-bytes: -1\n\
                enable-grpc-gateway: false\nproxy: 'off'\nmax-wals: 9\ndiscovery-fallback: proxy\n\
                peer-transport-security:\n  cert-file:\n  client-cert-auth: false\n  strange: 1\n";
    let Ok(Invocation::Serve(config)) = from_file(text) else { panic!("{:?}", from_file(text)) };
    assert_eq!((config.name.as_str(), config.data_dir), ("a", PathBuf::from("a.etcd")));
    assert_eq!((config.heartbeat_interval_ms, config.quota_backend_bytes), (50, -1));
    assert_eq!(config.grpc.keepalive_min_time, Duration::from_secs(7));
    assert_eq!(config.log.outputs, [LogOutput::Stderr, LogOutput::Stdout]);
    assert!(!config.http.gateway);
    let unknown = |key: &str| Notice::UnknownKey { key: key.to_owned() };
    for key in ["proxy", "discovery-fallback", "peer-strange"] {
        assert!(config.notices.contains(&unknown(key)), "{key}: {:?}", config.notices);
    }
    // JSON is YAML, and an empty file is one without keys.
    assert!(from_file(r#"{"name": "a", "log-level": "warn"}"#).is_ok());
    assert!(from_file("").is_ok() && from_file("# nothing\n").is_ok());
}

#[test]
fn a_file_that_is_wrong_is_refused() {
    for (text, message) in [
        ("name: 5", "cannot unmarshal a number into name, which is a string"),
        (
            "heartbeat-interval: x",
            "cannot unmarshal a string into heartbeat-interval, which is an integer",
        ),
        ("heartbeat-interval: -1", "invalid value \"-1\" for heartbeat-interval: parse error"),
        (
            "grpc-keepalive-min-time: 5s",
            "cannot unmarshal a string into grpc-keepalive-min-time, which is an integer of nanoseconds",
        ),
        (
            "log-outputs: stderr",
            "cannot unmarshal a string into log-outputs, which is a list of strings",
        ),
        (
            "enable-grpc-gateway: 1",
            "cannot unmarshal a number into enable-grpc-gateway, which is true or false",
        ),
        (
            "initial-cluster-state: old",
            "invalid value \"old\" for initial-cluster-state: invalid value, the choices are new, existing",
        ),
        ("peer-transport-security: 1", "invalid peer-transport-security: it has keys of its own"),
        ("- a", "it is not a list of keys and values"),
    ] {
        let error = from_file(text).expect_err(text).to_string();
        assert!(error.ends_with(&format!("cannot be used: {message}")), "{text}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    let tls = from_file("client-transport-security: {cert-file: x}").expect_err("no TLS");
    assert_eq!(tls.to_string(), "--cert-file cannot be used: TLS is not there yet");
    for text in ["name: [", "name: a\nname: b"] {
        assert_eq!(from_file(text).expect_err(text).to_string().lines().count(), 1, "{text}");
    }
}

#[test]
fn version_and_help_are_printed() {
    let printed = |arguments: &[&str]| match read(arguments, &[("ETCD_NAME", "a")]) {
        Ok(Invocation::Print(text)) => text,
        other => panic!("{other:?}"),
    };
    assert!(printed(&["--version"]).starts_with("etcd Version: 3.7.1\nGit SHA: "));
    assert_eq!(printed(&["--version", "--name=x"]).lines().count(), 5);
    assert_eq!(printed(&["-h"]), printed(&["--help"]));
    let help = printed(&["-h"]);
    for flag in flags::all() {
        assert!(help.contains(&format!("\n  --{}", flag.name)), "{}", flag.name);
    }
}

/// Run it with INSTAR_WRITE_DOCS=1 to write the page anew.
#[test]
fn the_page_of_flags_is_up_to_date() {
    let page = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/flags.md");
    if std::env::var_os("INSTAR_WRITE_DOCS").is_some() {
        std::fs::write(&page, help::document()).expect("docs/flags.md can be written");
    }
    let written = std::fs::read_to_string(&page).expect("docs/flags.md is there");
    assert!(
        written == help::document(),
        "docs/flags.md differs from the table of flags; write it with INSTAR_WRITE_DOCS=1 cargo test -p host config"
    );
}
