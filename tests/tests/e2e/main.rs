//! The end-to-end cases: real processes, judged from outside.

mod differential;
mod etcdctl;
mod hostile;
mod linearizability;
mod membership;
mod membership_differential;
mod raw;
mod shapes;
mod starting;
mod surviving;

use std::process::ExitCode;

fn main() -> ExitCode {
    tests::case::run(&tests::cases![
        differential::same_answers,
        differential::a_planted_difference_is_found,
        shapes::limits_are_etcds,
        shapes::status_and_members_are_etcds,
        shapes::http_is_etcds,
        etcdctl::prints_the_same,
        starting::version_is_etcds,
        starting::mistakes_are_one_sentence,
        starting::a_port_in_use,
        starting::data_of_another_member,
        starting::foreign_and_half_written_files,
        starting::a_foreign_directory,
        starting::the_ready_line,
        starting::sigterm_hands_leadership_over,
        starting::a_warm_cache,
        surviving::kills_under_load,
        surviving::one_member_killed,
        surviving::two_of_five_killed,
        surviving::a_minority_refuses,
        surviving::paused_members,
        surviving::far_behind,
        surviving::a_full_disk,
        surviving::what_ends_etcd,
        linearizability::under_kills_and_pauses,
        linearizability::of_one_member,
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
    ])
}
