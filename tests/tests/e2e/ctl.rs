//! `instarctl` beside the real etcdctl and etcdutl: the same command lines against the real etcd, whose
//! standard output, standard error and exit code must be equal.

mod runner;
mod scenes;
mod script;

pub use scenes::{
    a_mirror_follows, files_are_read_the_same, locks_and_elections, watches_print_the_same,
};
pub use script::command_lines_print_the_same;
