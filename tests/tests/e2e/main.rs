//! The end-to-end cases: real processes, judged from outside.

mod bench;
mod containers;
mod ctl;
mod differential;
mod endpoints;
mod etcdctl;
mod gateway;
mod hostile;
mod leases;
mod linearizability;
mod locks;
mod machine_faults;
mod machine_kills;
mod machines;
mod maintenance;
mod membership;
mod membership_differential;
mod metrics;
mod migrating;
mod modules;
mod raw;
mod rehearsing;
mod restoring;
mod shapes;
mod starting;
mod surviving;
mod track_record;
mod tutorial;
mod watch;

use std::process::ExitCode;

use tests::case::Case;

const CASES: &[Case] = &tests::cases![
    differential::same_answers,
    differential::same_leases,
    differential::a_planted_difference_is_found,
    ctl::command_lines_print_the_same,
    ctl::files_are_read_the_same,
    ctl::watches_print_the_same,
    ctl::locks_and_elections,
    ctl::a_mirror_follows,
    shapes::limits_are_etcds,
    shapes::status_and_members_are_etcds,
    shapes::http_is_etcds,
    gateway::answers_as_etcds,
    gateway::curl_is_served,
    gateway::hosts_and_origins_are_checked,
    endpoints::a_file_and_its_listeners,
    endpoints::a_unix_socket,
    endpoints::too_many_pings,
    metrics::names_are_etcds,
    metrics::values_are_true,
    etcdctl::prints_the_same,
    etcdctl::leases_and_locks,
    restoring::etcds_backup_becomes_a_cluster,
    restoring::a_bumped_revision_is_etcds,
    restoring::a_damaged_backup_is_refused,
    restoring::a_migration_under_load,
    migrating::there_and_back,
    starting::version_is_etcds,
    starting::mistakes_are_one_sentence,
    starting::a_port_in_use,
    starting::data_of_another_member,
    starting::foreign_and_half_written_files,
    starting::a_foreign_directory,
    starting::the_ready_line,
    starting::sigterm_hands_leadership_over,
    starting::a_warm_cache,
    tutorial::every_command_prints_what_it_says,
    surviving::kills_under_load,
    surviving::one_member_killed,
    surviving::two_of_five_killed,
    surviving::a_minority_refuses,
    surviving::paused_members,
    surviving::far_behind,
    surviving::a_full_disk,
    surviving::what_ends_etcd,
    track_record::a_watch_goes_on_over_a_snapshot_15271,
    track_record::the_revision_stays_after_a_compaction_17780,
    track_record::a_compacted_read_writes_nothing_18667,
    linearizability::under_kills_and_pauses,
    linearizability::under_leaders_that_wake_up,
    linearizability::of_one_member,
    locks::answers_are_etcds,
    locks::one_owner_at_a_time,
    locks::who_goes_away_is_forgotten,
    leases::refusals_are_etcds,
    leases::over_in_time,
    leases::under_kills_and_pauses,
    leases::survive_restarts_and_snapshots,
    leases::a_hundred_thousand_at_once,
    machines::switched_under_load,
    machines::refusals,
    machines::a_schema_is_raised,
    machine_faults::refused,
    machine_faults::rolled_back,
    machine_kills::at_every_step,
    rehearsing::an_equal_machine,
    rehearsing::another_machine,
    rehearsing::who_goes_away,
    modules::called,
    modules::misbehaving,
    modules::admitting,
    modules::reacting,
    modules::misbehaving_beside_others,
    modules::by_command_line_and_http,
    modules::from_nothing,
    modules::templates,
    modules::in_c,
    modules::observed,
    maintenance::alarms_are_etcds,
    maintenance::a_full_database,
    maintenance::a_fresh_member_is_small,
    maintenance::kills_while_defragmenting,
    maintenance::a_backup_is_etcds,
    maintenance::etcdctl_maintains,
    maintenance::a_member_that_goes_another_way,
    maintenance::damaged_pages,
    maintenance::automatic_compaction,
    membership::grows_and_shrinks_under_load,
    membership::a_lost_member_is_replaced,
    membership::a_newcomer_gets_a_snapshot,
    membership::removed_members_stop,
    membership::a_new_cluster_is_forced,
    membership::learners,
    membership::a_promotion_survives,
    membership::the_leader_moves,
    membership::a_member_moves,
    membership::changes_with_kills,
    membership_differential::refusals_are_etcds,
    membership_differential::etcdctl_prints_the_same,
    hostile::bytes_that_are_no_message,
    hostile::oversized_requests,
    hostile::idle_connections,
    hostile::a_client_that_never_reads,
    watch::same_streams,
    watch::etcds_tools_work,
    watch::requests_and_responses_are_etcds,
    watch::etcds_known_bugs,
    watch::no_leader_ends_the_stream,
    watch::promises_hold_under_kills,
    watch::a_reader_that_stops,
    watch::ten_thousand_streams,
    watch::a_stream_of_many_watchers,
    bench::streams_and_phases,
];

/// Only where there is an image to start: `cargo xtask container` makes one.
const CONTAINER_CASES: &[Case] = &tests::cases![containers::an_image_is_a_cluster];

fn main() -> ExitCode {
    match std::env::var_os(containers::IMAGE) {
        Some(_) => tests::case::run(CONTAINER_CASES),
        None => tests::case::run(CASES),
    }
}
