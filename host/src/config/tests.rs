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

/// A default that its own kind cannot read would be taken for a missing one.
#[test]
fn every_default_has_its_flags_kind() {
    for flag in flags::FLAGS.iter().filter(|flag| !flag.default.is_empty()) {
        assert!(flag.parse(flag.default).is_ok(), "{}", flag.name);
    }
    let mut names: Vec<_> = flags::FLAGS.iter().map(|flag| flag.name).collect();
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
    assert!(refused(&[], &[("ETCD_CONFIG_FILE", "x")]).0.starts_with("ETCD_CONFIG_FILE is set"));
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
    for flag in flags::FLAGS {
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
