//! The members that `--initial-cluster` names, and the ids that follow from them.
//!
//! Ids are etcd's (server/etcdserver/api/membership): the same flags give the same ids as there.

use std::collections::BTreeMap;

use sha1::{Digest, Sha1};

use super::url::{Url, UrlError};

/// The cluster as it is started for the first time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitialCluster {
    pub cluster_id: u64,
    /// In the order of their ids.
    pub members: Vec<InitialMember>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitialMember {
    pub id: u64,
    pub name: String,
    /// Sorted; never empty.
    pub peer_urls: Vec<Url>,
}

/// Why a text names no cluster that can be started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    #[error(
        "--initial-cluster is wrong at {name:?}: {source}; write it as name=http://host:port, separated by commas"
    )]
    Url { name: String, source: UrlError },
    #[error(
        "--initial-cluster names no members; write them as name=http://host:port, separated by commas"
    )]
    Empty,
    #[error("--initial-cluster has the URL {0} twice; every member needs peer URLs of its own")]
    DuplicateUrl(Url),
    #[error(
        "two members of --initial-cluster have the same id {0:x}; change --initial-cluster-token or the peer URLs"
    )]
    DuplicateId(u64),
}

impl InitialCluster {
    /// Reads the value of `--initial-cluster`; `token` is that of `--initial-cluster-token`.
    ///
    /// # Errors
    /// Says what is wrong with `text`.
    pub fn parse(text: &str, token: &str) -> Result<InitialCluster, ClusterError> {
        let mut urls: BTreeMap<&str, Vec<Url>> = BTreeMap::new();
        for pair in text.split(',').filter(|pair| !pair.is_empty()) {
            let (name, url) = pair.split_once('=').unwrap_or((pair, ""));
            let url = Url::parse(url)
                .map_err(|source| ClusterError::Url { name: name.to_owned(), source })?;
            urls.entry(name).or_default().push(url);
        }
        if urls.is_empty() {
            return Err(ClusterError::Empty);
        }
        let mut all: Vec<&Url> = urls.values().flatten().collect();
        all.sort();
        if let Some(pair) = all.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(ClusterError::DuplicateUrl(pair[0].clone()));
        }
        let mut members: Vec<InitialMember> = urls
            .into_iter()
            .map(|(name, mut peer_urls)| {
                peer_urls.sort();
                InitialMember { id: member_id(&peer_urls, token), name: name.to_owned(), peer_urls }
            })
            .collect();
        members.sort_by_key(|member| member.id);
        if let Some(pair) = members.windows(2).find(|pair| pair[0].id == pair[1].id) {
            return Err(ClusterError::DuplicateId(pair[0].id));
        }
        Ok(InitialCluster { cluster_id: cluster_id(&members), members })
    }

    /// The member of that name.
    pub fn member(&self, name: &str) -> Option<&InitialMember> {
        self.members.iter().find(|member| member.name == name)
    }
}

/// The first 8 bytes of the SHA-1 of the sorted peer URLs and the token.
fn member_id(peer_urls: &[Url], token: &str) -> u64 {
    let mut hash = Sha1::new();
    for url in peer_urls {
        hash.update(url.as_str());
    }
    hash.update(token);
    first_eight_bytes(hash)
}

/// The id of a member that is added to a running cluster: the time stands where the token does, so that whoever
/// returns with the same URLs is another member. The URLs have to be sorted.
pub fn added_member_id(peer_urls: &[Url], unix_seconds: u64) -> u64 {
    member_id(peer_urls, &unix_seconds.to_string())
}

/// The first 8 bytes of the SHA-1 of the sorted member ids, each in 8 bytes.
fn cluster_id(members: &[InitialMember]) -> u64 {
    let mut hash = Sha1::new();
    for member in members {
        hash.update(member.id.to_be_bytes());
    }
    first_eight_bytes(hash)
}

fn first_eight_bytes(hash: Sha1) -> u64 {
    hash.finalize().iter().take(8).fold(0, |id, byte| id << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ids are what etcd 3.7.1 logged when it was started with these flags.
    #[test]
    fn ids_are_those_of_etcd() {
        let text = "a=http://127.0.0.1:31380,b=http://127.0.0.1:31381,c=http://127.0.0.1:31382,\
                    a=http://localhost:31380";
        let cluster = InitialCluster::parse(text, "tok").unwrap();
        assert_eq!(cluster.cluster_id, 0xb855_452c_8f05_f3cb);
        assert_eq!(cluster.member("a").unwrap().id, 0xd6ea_680a_31da_96ea);
        assert_eq!(cluster.member("b").unwrap().id, 0xfc9f_ef47_e161_7660);
        assert_eq!(cluster.member("c").unwrap().id, 0x96fa_d011_ecea_9fa8);
        assert!(cluster.members.is_sorted_by_key(|member| member.id));

        let cluster =
            InitialCluster::parse("default=http://localhost:2380", "etcd-cluster").unwrap();
        assert_eq!(cluster.members[0].id, 0x8e9e_05c5_2164_694d);
        assert_eq!(cluster.cluster_id, 0xcdf8_1819_4e3a_8c32);
    }

    #[test]
    fn what_is_no_cluster_is_refused() {
        for (text, message) in [
            (
                "",
                "--initial-cluster names no members; write them as name=http://host:port, separated by commas",
            ),
            (
                "a",
                "--initial-cluster is wrong at \"a\": URL scheme must be http, https, unix, or unixs: ; \
                 write it as name=http://host:port, separated by commas",
            ),
            (
                "a=http://a:1,b=http://b:1,c=http://a:1",
                "--initial-cluster has the URL http://a:1 twice; every member needs peer URLs of its own",
            ),
        ] {
            assert_eq!(InitialCluster::parse(text, "t").unwrap_err().to_string(), message);
        }
    }
}
