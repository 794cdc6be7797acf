//! What commands print: every answer in every format that etcdctl has for it.

mod fields;
mod json;
mod machines;
mod modules;
mod protobuf;
pub mod shadow;
mod simple;
mod table;

use std::io::Write as _;
use std::time::Duration;

use proto::etcdserverpb as pb;
use proto::instar::v1::{Machines, Modules, ShadowReport};

pub use json::string as json_string;

use crate::failure::{self, Failure};
use crate::go;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Simple,
    Fields,
    Json,
    Protobuf,
    Table,
}

impl Format {
    pub fn parse(name: &str) -> Result<Self, Failure> {
        Ok(match name {
            "simple" => Self::Simple,
            "fields" => Self::Fields,
            "json" => Self::Json,
            "protobuf" => Self::Protobuf,
            "table" => Self::Table,
            _ => return Err(Failure::new(failure::BAD_FEATURE, "unsupported output format")),
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Fields => "fields",
            Self::Json => "json",
            Self::Protobuf => "protobuf",
            Self::Table => "table",
        }
    }

    pub fn unsupported(self) -> Failure {
        let message = format!("{} not supported as output format", self.name());
        Failure::new(failure::BAD_FEATURE, message)
    }
}

/// Whether an endpoint is well.
#[derive(Clone, Debug)]
pub struct Health {
    pub endpoint: String,
    pub is_healthy: bool,
    /// `None` where nothing was sent.
    pub took: Option<Duration>,
    pub error: String,
}

impl Health {
    fn took(&self) -> String {
        self.took.map(go::duration).unwrap_or_default()
    }
}

/// What `snapshot status` finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotStatus {
    pub hash: u32,
    pub revision: i64,
    pub keys: u64,
    pub bytes: u64,
    pub version: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileHash {
    pub hash: u32,
    pub revision: i64,
    pub compact_revision: i64,
}

/// An answer, with what its text says beside it.
#[derive(Clone, Debug)]
pub enum Answer {
    Get(pb::RangeResponse),
    Put(pb::PutResponse),
    Delete(pb::DeleteRangeResponse),
    Txn(pb::TxnResponse),
    Watch(pb::WatchResponse),
    Grant(pb::LeaseGrantResponse),
    Revoke {
        id: i64,
        response: pb::LeaseRevokeResponse,
    },
    KeepAlive(pb::LeaseKeepAliveResponse),
    TimeToLive {
        response: pb::LeaseTimeToLiveResponse,
        keys: bool,
    },
    Leases(pb::LeaseLeasesResponse),
    MemberAdd(pb::MemberAddResponse),
    MemberRemove {
        id: u64,
        response: pb::MemberRemoveResponse,
    },
    MemberUpdate {
        id: u64,
        response: pb::MemberUpdateResponse,
    },
    MemberPromote {
        id: u64,
        response: pb::MemberPromoteResponse,
    },
    MemberList(pb::MemberListResponse),
    Health(Vec<Health>),
    Status(Vec<(String, pb::StatusResponse)>),
    HashKv(Vec<(String, pb::HashKvResponse)>),
    MoveLeader {
        from: u64,
        to: u64,
        response: pb::MoveLeaderResponse,
    },
    Downgrade {
        action: &'static str,
        response: pb::DowngradeResponse,
    },
    Alarm(pb::AlarmResponse),
    Machines(Machines),
    Shadow(ShadowReport),
    Modules(Modules),
    RoleAdd {
        role: String,
        response: pb::AuthRoleAddResponse,
    },
    RoleGet {
        role: String,
        response: pb::AuthRoleGetResponse,
    },
    RoleDelete {
        role: String,
        response: pb::AuthRoleDeleteResponse,
    },
    RoleList(pb::AuthRoleListResponse),
    RoleGrant {
        role: String,
        response: pb::AuthRoleGrantPermissionResponse,
    },
    RoleRevoke {
        role: String,
        key: String,
        range_end: Vec<u8>,
        response: pb::AuthRoleRevokePermissionResponse,
    },
    UserAdd {
        user: String,
        response: pb::AuthUserAddResponse,
    },
    UserGet {
        user: String,
        response: pb::AuthUserGetResponse,
    },
    UserList(pb::AuthUserListResponse),
    UserPassword(pb::AuthUserChangePasswordResponse),
    UserGrant {
        user: String,
        role: String,
        response: pb::AuthUserGrantRoleResponse,
    },
    UserRevoke {
        user: String,
        role: String,
        response: pb::AuthUserRevokeRoleResponse,
    },
    UserDelete {
        user: String,
        response: pb::AuthUserDeleteResponse,
    },
    AuthStatus(pb::AuthStatusResponse),
    SnapshotStatus(SnapshotStatus),
    FileHash(FileHash),
}

/// Where answers go: standard output, in one format.
#[derive(Clone, Debug)]
pub struct Output {
    pub format: Format,
    pub hex: bool,
    /// Of `simple`: values without their keys.
    pub value_only: bool,
}

impl Output {
    pub fn new(format: Format, hex: bool) -> Self {
        Self { format, hex, value_only: false }
    }

    pub fn print(&self, answer: &Answer) -> Result<(), Failure> {
        let bytes = match self.format {
            Format::Simple => simple::render(answer, self),
            Format::Fields => fields::render(answer, self.hex)?.into_bytes(),
            Format::Json => json::render(answer, self.hex).into_bytes(),
            Format::Protobuf => protobuf::render(answer)?,
            Format::Table => table::render(answer)?.into_bytes(),
        };
        write_out(&bytes)
    }
}

/// Writes to standard output. Who has closed it has read enough.
pub fn write_out(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(bytes).and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            Err(Failure::silent(failure::ERROR))
        }
        written => Ok(written?),
    }
}

/// Writes a line to standard output.
pub fn line(text: impl AsRef<str>) -> Result<(), Failure> {
    write_out(format!("{}\n", text.as_ref()).as_bytes())
}
