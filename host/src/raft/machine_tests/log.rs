//! A log as raft would have committed it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use openraft::entry::EntryPayload;
use prost::Message;
use proto::etcdserverpb::{DeleteRangeRequest, InternalRaftRequest, PutRequest};
use proto::instar::kv;
use proto::instar::log as pb;
use proto::instar::log::host_command::Kind;
use sha2::{Digest, Sha256};

use crate::raft::machine_commands::MachineDigest;
use crate::raft::types::{Command, Entry, LeaderId, LogId, Member, Membership};

const VOTERS: [u64; 3] = [1, 2, 3];

pub struct Log(Vec<Entry>);

pub fn digest_of(component: &[u8]) -> MachineDigest {
    Sha256::digest(component).into()
}

impl Log {
    /// Begins with the membership.
    pub fn new() -> Self {
        let members: BTreeMap<u64, Member> =
            VOTERS.into_iter().map(|id| (id, Member::default())).collect();
        let membership = Membership::new(vec![BTreeSet::from(VOTERS)], members);
        let mut log = Self(Vec::new());
        log.append(EntryPayload::Membership(membership.expect("a membership")));
        log
    }

    pub fn last_index(&self) -> u64 {
        self.0.len() as u64
    }

    /// The entries of these indices, both ends included.
    pub fn entries(&self, first: u64, last: u64) -> Vec<Entry> {
        let (first, last) = (first as usize, last.min(self.last_index()) as usize);
        if first > last { Vec::new() } else { self.0[first - 1..last].to_vec() }
    }

    fn append(&mut self, payload: EntryPayload<Command, u64, Member>) -> u64 {
        let index = self.last_index() + 1;
        let log_id = LogId { leader_id: LeaderId { term: 1, node_id: 1 }, index };
        self.0.push(openraft::Entry { log_id, payload });
        index
    }

    /// A client's put. Gives its index, as all of these do.
    pub fn put(&mut self, key: &str, value: &str) -> u64 {
        let put = PutRequest {
            key: key.to_owned().into(),
            value: value.to_owned().into(),
            ..PutRequest::default()
        };
        self.etcd(InternalRaftRequest { put: Some(put), ..InternalRaftRequest::default() })
    }

    /// A client's deletion of all keys from one on and before another.
    pub fn delete(&mut self, key: &str, range_end: &str) -> u64 {
        let delete_range = DeleteRangeRequest {
            key: key.to_owned().into(),
            range_end: range_end.to_owned().into(),
            ..DeleteRangeRequest::default()
        };
        let delete_range = Some(delete_range);
        self.etcd(InternalRaftRequest { delete_range, ..InternalRaftRequest::default() })
    }

    fn etcd(&mut self, etcd: InternalRaftRequest) -> u64 {
        let request = kv::Request { kind: Some(kv::request::Kind::Etcd(etcd)) }.encode_to_vec();
        let time_ms = self.last_index();
        let command = Command { request: request.into(), time_ms, ..Command::default() };
        self.append(EntryPayload::Normal(command))
    }

    fn host(&mut self, kind: Kind) -> u64 {
        let request = pb::HostCommand { kind: Some(kind) }.encode_to_vec().into();
        self.append(EntryPayload::Normal(Command { request, for_host: true, ..Command::default() }))
    }

    /// A component's piece, this one of so many.
    pub fn put_piece(&mut self, component: &[u8], number: usize, pieces: usize) -> u64 {
        self.piece(component, (number, pieces), false)
    }

    /// As `put_piece`, of a module.
    pub fn put_module_piece(&mut self, component: &[u8], number: usize, pieces: usize) -> u64 {
        self.piece(component, (number, pieces), true)
    }

    fn piece(
        &mut self,
        component: &[u8],
        (number, pieces): (usize, usize),
        for_module: bool,
    ) -> u64 {
        let bytes = component.len().div_ceil(pieces);
        let (start, end) = (bytes * number, component.len().min(bytes * (number + 1)));
        self.host(Kind::PutChunk(pb::PutChunk {
            digest: Bytes::copy_from_slice(&digest_of(component)),
            size_bytes: component.len() as u64,
            offset: start as u64,
            data: Bytes::copy_from_slice(&component[start..end]),
            for_module,
        }))
    }

    /// The whole of it, in one piece.
    pub fn put_component(&mut self, component: &[u8]) -> u64 {
        self.put_piece(component, 0, 1)
    }

    pub fn ready(&mut self, digest: MachineDigest, member_id: u64) -> u64 {
        let digest = Bytes::copy_from_slice(&digest);
        // All machines here are made of the built-in one.
        let own = guest_kv::describe();
        let tables = own.tables.iter().map(|it| pb::Table {
            id: it.table,
            name: it.name.to_owned(),
            derived: it.kind == guest_kv::tables::TableKind::Derived,
            locked: false,
        });
        self.host(Kind::Ready(pb::Ready {
            digest,
            member_id,
            name: own.name.to_owned(),
            schema_version: own.schema_version,
            tables: tables.collect(),
            ..pb::Ready::default()
        }))
    }

    pub fn ready_on_all(&mut self, digest: MachineDigest) {
        for member_id in VOTERS {
            self.ready(digest, member_id);
        }
    }

    pub fn activate(&mut self, digest: MachineDigest, expected: MachineDigest) -> u64 {
        let expected_active = Bytes::copy_from_slice(&expected);
        let digest = Bytes::copy_from_slice(&digest);
        self.host(Kind::Activate(pb::Activate { digest, expected_active }))
    }

    pub fn roll_back(&mut self, expected: MachineDigest) -> u64 {
        let expected_active = Bytes::copy_from_slice(&expected);
        self.host(Kind::Rollback(pb::Rollback { expected_active }))
    }

    pub fn module_ready(&mut self, name: &str, digest: MachineDigest, member_id: u64) -> u64 {
        self.host(Kind::Ready(pb::Ready {
            digest: Bytes::copy_from_slice(&digest),
            member_id,
            name: name.to_owned(),
            ..pb::Ready::default()
        }))
    }

    /// The whole of a module, found ready by all members.
    pub fn put_module(&mut self, component: &[u8], name: &str) -> MachineDigest {
        let digest = digest_of(component);
        self.put_module_piece(component, 0, 1);
        for member_id in VOTERS {
            self.module_ready(name, digest, member_id);
        }
        digest
    }

    pub fn activate_module(&mut self, name: &str, digest: MachineDigest, prefix: &str) -> u64 {
        self.host(Kind::ActivateModule(pb::ActivateModule {
            name: name.to_owned(),
            digest: Bytes::copy_from_slice(&digest),
            prefixes: vec![prefix.to_owned().into()],
        }))
    }

    pub fn disable_module(&mut self, name: &str) -> u64 {
        self.host(Kind::DisableModule(pb::DisableModule { name: name.to_owned() }))
    }

    pub fn call(&mut self, name: &str, procedure: &str, argument: &str) -> u64 {
        self.host(Kind::CallModule(pb::CallModule {
            name: name.to_owned(),
            procedure: procedure.to_owned(),
            argument: argument.to_owned().into(),
        }))
    }
}
