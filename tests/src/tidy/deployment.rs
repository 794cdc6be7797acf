//! What the container files, units and manifests name must be there: flags, variables, metrics.

/// The words of a text that begin so.
fn words<'t>(text: &'t str, prefix: &'t str) -> impl Iterator<Item = &'t str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    text.split(move |c| !is_part(c)).filter(move |word| word.starts_with(prefix))
}

/// Variables and flags of the server that `flags`, the documentation of all of them, does not have.
pub fn unknown_flags(text: &str, flags: &str) -> Vec<String> {
    let is_known = |word: &&str| flags.contains(&format!("`{word}`"));
    let variables = words(text, "ETCD_").filter(|word| !is_known(word));
    // What other programs take is on the lines that call them.
    let own = text.lines().filter(|line| line.contains("ETCD_NAME)") || line.contains("- --"));
    let given = own.flat_map(|line| words(line, "--")).filter(|word| !is_known(word));
    variables.chain(given).map(str::to_owned).collect()
}

/// Metrics that a dashboard asks for, and `metrics`, the documentation of all of them, does not have.
pub fn unknown_metrics(dashboard: &str, metrics: &str) -> Vec<String> {
    let asked = ["etcd_", "instar_", "grpc_server", "process_"].into_iter();
    let asked = asked.flat_map(|prefix| words(dashboard, prefix));
    let unknown = asked.filter(|word| {
        let name = word.trim_end_matches("_bucket");
        !word.contains("grpc_type") && !metrics.contains(&format!("`{name}`"))
    });
    unknown.map(str::to_owned).collect()
}
