//! Before a member first starts: what it asks the members that may be running already.
//!
//! Nothing has been written then, so whatever is wrong ends the start with a sentence. The sentences begin as etcd's.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use proto::instar::peer as pb;
use proto::instar::peer::peer_client::PeerClient;
use thiserror::Error;
use tonic::transport::Endpoint;

use crate::config::{InitialCluster, Url};
use crate::limits;

/// How long a member of a running cluster may take to tell who the members are; etcd's figure.
const ASK_WITHIN: Duration = Duration::from_secs(10);
/// How long a new member waits for the others to tell that it is not new at all. In a cluster that only begins, nobody
/// answers; and what is missed here, the others tell later (`Node::notice_expulsion`).
const ASK_BRIEFLY: Duration = Duration::from_millis(300);

/// How long the members may take to hear that this one was added: the first to answer may be one that has not applied
/// it yet.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(2);
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// Why a member cannot join a running cluster.
#[derive(Debug, Error)]
pub enum JoinError {
    #[error(
        "cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs \
         ({asked}: {reason}); --initial-cluster has to name members that are running"
    )]
    Unreachable { asked: String, reason: String },
    #[error(
        "error validating peerURLs {running}: member count is unequal; --initial-cluster has to name the members that \
         the cluster has, this one included; add it first (etcdctl member add)"
    )]
    Count { running: String },
    #[error(
        "error validating peerURLs {running}: PeerURLs: no match found for existing member ({id:x}, {urls}); \
         --initial-cluster has to name the members that the cluster has, with their peer URLs"
    )]
    NoMatch { running: String, id: u64, urls: String },
    #[error(
        "too many learner members in cluster: it has {learners}, and --max-learners is {most}; give it the value that \
         the other members have"
    )]
    TooManyLearners { learners: usize, most: u32 },
    #[error(
        "member {0:x} has already been bootstrapped, and its data is not in this data directory; remove it from the \
         cluster and add it as a new member"
    )]
    Bootstrapped(u64),
    #[error("cannot ask the running cluster: {0}")]
    System(#[from] std::io::Error),
}

/// Whose data a joining member begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Joined {
    pub cluster_id: u64,
    pub member_id: u64,
}

/// Finds this member, `name` in the flags, in the running cluster.
///
/// # Errors
/// Nobody answers, or the cluster is not the one that the flags describe.
pub fn join(flags: &InitialCluster, name: &str, max_learners: u32) -> Result<Joined, JoinError> {
    runtime()?.block_on(async {
        let patient_until = Instant::now() + CATCH_UP_WITHIN;
        loop {
            let running = ask_others(flags, name, ASK_WITHIN).await?;
            match find(flags, name, max_learners, &running) {
                Err(JoinError::Count { .. } | JoinError::NoMatch { .. })
                    if Instant::now() < patient_until =>
                {
                    tokio::time::sleep(ASK_AGAIN_AFTER).await;
                }
                found => return found,
            }
        }
    })
}

/// Fails if a member that is about to begin anew with a new cluster was started before: then it has lost its data, and
/// with it what it voted. Members that do not answer, as in a cluster that is only beginning, say nothing.
pub fn was_started_before(flags: &InitialCluster, name: &str) -> Result<(), JoinError> {
    let others = flags.members.iter().any(|member| member.name != name);
    let Some(own) = flags.member(name).filter(|_| others) else { return Ok(()) };
    let Ok(running) = runtime()?.block_on(ask_others(flags, name, ASK_BRIEFLY)) else {
        return Ok(());
    };
    let known = running.members.iter().find(|member| member.id == own.id);
    match known {
        Some(member) if running.cluster_id == flags.cluster_id && has_data(member) => {
            Err(JoinError::Bootstrapped(own.id))
        }
        _ => Ok(()),
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// The first answer of another member that knows the members. All are asked at once.
async fn ask_others(
    flags: &InitialCluster,
    name: &str,
    patience: Duration,
) -> Result<pb::MembersResponse, JoinError> {
    let others = flags.members.iter().filter(|member| member.name != name);
    let urls: Vec<&Url> = others.flat_map(|member| &member.peer_urls).collect();
    let mut answers: FuturesUnordered<_> =
        urls.iter().map(|url| tokio::time::timeout(patience, ask(url))).collect();
    let mut reason = "nobody answers".to_owned();
    while let Some(answer) = answers.next().await {
        match answer {
            Ok(Ok(response)) if !response.members.is_empty() => return Ok(response),
            Ok(Ok(_)) => reason = "it has no members yet".to_owned(),
            Ok(Err(failure)) => reason = failure,
            Err(_) => {}
        }
    }
    let asked = urls.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    Err(JoinError::Unreachable { asked, reason })
}

async fn ask(url: &Url) -> Result<pb::MembersResponse, String> {
    let endpoint = Endpoint::from_shared(url.to_string()).map_err(|error| error.to_string())?;
    let channel = endpoint.connect().await.map_err(|error| format!("{url}: {error}"))?;
    let mut client = PeerClient::new(channel).max_decoding_message_size(limits::PEER_MESSAGE_BYTES);
    let response = client.members(pb::MembersRequest {}).await;
    response.map(tonic::Response::into_inner).map_err(|status| format!("{url}: {status}"))
}

fn has_data(member: &proto::instar::log::Member) -> bool {
    !member.data_incarnation.is_empty()
}

/// Matches the members of the flags with those of the cluster, by their peer URLs: the flags give names only to
/// this member.
fn find(
    flags: &InitialCluster,
    name: &str,
    max_learners: u32,
    running: &pb::MembersResponse,
) -> Result<Joined, JoinError> {
    let listed = || {
        let each = running.members.iter().map(|member| {
            format!("{:x} {} {}", member.id, member.name, member.peer_urls.join(","))
        });
        format!("[{}]", each.collect::<Vec<_>>().join("; "))
    };
    if running.members.len() != flags.members.len() {
        return Err(JoinError::Count { running: listed() });
    }
    let mut own = None;
    for member in &running.members {
        let flag = flags.members.iter().find(|flag| has_urls(&flag.peer_urls, &member.peer_urls));
        match flag {
            Some(flag) if flag.name == name => own = Some(member),
            Some(_) => {}
            None => {
                let (id, urls) = (member.id, member.peer_urls.join(","));
                return Err(JoinError::NoMatch { running: listed(), id, urls });
            }
        }
    }
    let learners = running.members.iter().filter(|member| member.is_learner).count();
    if learners > max_learners as usize {
        return Err(JoinError::TooManyLearners { learners, most: max_learners });
    }
    match own {
        Some(member) if has_data(member) => Err(JoinError::Bootstrapped(member.id)),
        Some(member) => Ok(Joined { cluster_id: running.cluster_id, member_id: member.id }),
        None => Err(JoinError::Count { running: listed() }),
    }
}

fn has_urls(flags: &[Url], urls: &[String]) -> bool {
    let parsed: Vec<Url> = urls.iter().filter_map(|url| Url::parse(url).ok()).collect();
    let covers = |some: &[Url], others: &[Url]| {
        some.iter().all(|url| others.iter().any(|other| url.same_place(other)))
    };
    parsed.len() == urls.len() && covers(flags, &parsed) && covers(&parsed, flags)
}

#[cfg(test)]
mod tests {
    use proto::instar::log::Member;

    use super::*;

    fn member(id: u64, name: &str, url: &str, is_learner: bool, data: &'static [u8]) -> Member {
        Member {
            id,
            name: name.to_owned(),
            peer_urls: vec![url.to_owned()],
            client_urls: Vec::new(),
            is_learner,
            data_incarnation: data.into(),
        }
    }

    fn running(last: Member) -> pb::MembersResponse {
        let members = vec![member(1, "a", "http://127.0.0.1:1", false, b"data of a"), last];
        pb::MembersResponse { cluster_id: 77, members }
    }

    #[test]
    fn a_member_is_found_by_its_peer_urls_and_gets_the_ids_that_the_cluster_has() {
        let flags =
            InitialCluster::parse("x=http://localhost:1,b=http://127.0.0.1:2", "token").unwrap();
        let added = running(member(9, "", "http://127.0.0.1:2", false, b""));
        let joined = find(&flags, "b", 1, &added).unwrap();
        assert_eq!(joined, Joined { cluster_id: 77, member_id: 9 });
    }

    #[test]
    fn what_does_not_match_is_refused_with_etcds_words() {
        let flags =
            InitialCluster::parse("a=http://127.0.0.1:1,b=http://127.0.0.1:2", "token").unwrap();
        let refused = |running: &pb::MembersResponse, most| {
            find(&flags, "b", most, running).unwrap_err().to_string()
        };
        let mut alone = running(member(9, "", "http://127.0.0.1:2", false, b""));
        alone.members.pop();
        let elsewhere = running(member(9, "", "http://127.0.0.1:3", false, b""));
        let learner = running(member(9, "", "http://127.0.0.1:2", true, b""));
        let lost = running(member(9, "b", "http://127.0.0.1:2", false, b"data of b"));
        for (said, words) in [
            (refused(&alone, 1), "member count is unequal"),
            (
                refused(&elsewhere, 1),
                "PeerURLs: no match found for existing member (9, http://127.0.0.1:3)",
            ),
            (refused(&learner, 0), "too many learner members in cluster"),
            (refused(&lost, 1), "member 9 has already been bootstrapped"),
        ] {
            assert!(said.contains(words), "{said}");
        }
    }
}
