//! What is counted, and the page that lists it.

use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::*;

fn calls() -> Calls {
    let method = |name: &str, kind| Method { service: "s.S".into(), name: name.into(), kind };
    let table = vec![method("Get", MethodKind::Unary), method("Watch", MethodKind::BidiStream)];
    Calls::new(Arc::new(MethodTable::new(table)), 2, true)
}

#[test]
fn calls_of_all_threads_are_added_up() {
    let calls = calls();
    for thread in [0, 1] {
        let call = calls.begin(thread, "/s.S/Get");
        call.received(10);
        call.sent(20);
        call.handled(thread as u32, Duration::from_millis(3));
    }
    calls.begin(0, "/s.S/None").received(5);
    let text = metrics().render(&Figures { member_id: 0xab, ..Figures::default() }, &calls);
    let text = String::from_utf8(text.unwrap()).unwrap();
    let labels = r#"grpc_method="Get",grpc_service="s.S",grpc_type="unary""#;
    for line in [
        format!("grpc_server_started_total{{{labels}}} 2"),
        format!("grpc_server_msg_received_total{{{labels}}} 2"),
        format!("grpc_server_handled_total{{grpc_code=\"OK\",{labels}}} 1"),
        format!("grpc_server_handled_total{{grpc_code=\"Canceled\",{labels}}} 1"),
        format!("grpc_server_handled_total{{grpc_code=\"DataLoss\",{labels}}} 0"),
        format!("grpc_server_handling_seconds_bucket{{{labels},le=\"0.005\"}} 2"),
        "etcd_network_client_grpc_received_bytes_total 25".to_owned(),
        "etcd_network_client_grpc_sent_bytes_total 40".to_owned(),
        "etcd_server_id{server_id=\"ab\"} 1".to_owned(),
        "# TYPE etcd_server_proposals_committed_total gauge".to_owned(),
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
}

fn document() -> String {
    let mut text = String::from(
        "# Metrics\n\n\
         Made from the metrics that the server registers; a test compares this page with them.\n\n\
         They are served at `/metrics` on the client ports and on `--listen-metrics-urls`. Names, types, labels and \
         help of\n`etcd_`, `grpc_` and `os_` are etcd 3.7.1's. `grpc_server_handling_seconds` has values with \
         `--metrics=extensive` only.\n\n| Metric | Type | Labels | Meaning |\n|---|---|---|---|\n",
    );
    for note in &metrics().notes {
        let labels = note.labels.join(", ");
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| `{}` | {} | {labels} | {} |", note.name, note.kind, note.help);
    }
    text
}

/// Run it with INSTAR_WRITE_DOCS=1 to write the page anew.
#[test]
fn the_page_of_metrics_is_up_to_date() {
    let page = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    if std::env::var_os("INSTAR_WRITE_DOCS").is_some() {
        std::fs::write(&page, document()).expect("docs/metrics.md can be written");
    }
    let written = std::fs::read_to_string(&page).expect("docs/metrics.md is there");
    assert!(
        written == document(),
        "docs/metrics.md differs from the metrics; write it with INSTAR_WRITE_DOCS=1 cargo test -p host metrics"
    );
}
