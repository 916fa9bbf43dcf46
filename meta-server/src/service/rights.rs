//! What a caller needs for each method: the one table of rights (`docs/security.md`).
//!
//! Invariant: a method that is not in the table does not compile. Which rights are needed never depends on the state; on
//! which bucket, only for the methods of an upload.

use std::borrow::Cow;

use xdpfs_proto::{access::v1 as access, backup::v1 as backup, members::v1 as members, meta::v1 as proto};

use super::{Refusal, name, name::ObjectName};
use crate::state_machine::Right;

/// Of the services that clients call. Their methods' names are not used twice.
const PACKAGES: [&str; 4] = ["xdpfs.access.v1", "xdpfs.backup.v1", "xdpfs.members.v1", "xdpfs.meta.v1"];

macro_rules! methods {
    ($($name:ident => $need:expr,)*) => {
        /// A method that clients call.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub(super) enum Method {
            $($name,)*
        }

        impl Method {
            /// All methods.
            const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its name.
            pub(super) const fn label(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }

            /// The one that a request's path names. None: it is not in the table.
            pub(super) fn of_path(path: &str) -> Option<Self> {
                let (service, name) = path.strip_prefix('/')?.split_once('/')?;
                let is_for_clients = PACKAGES.iter().any(|package| {
                    service.strip_prefix(package).is_some_and(|rest| rest.starts_with('.'))
                });
                Self::ALL.iter().copied().find(|method| is_for_clients && method.label() == name)
            }

            /// What a caller needs for it.
            pub(super) const fn need(self) -> Need {
                match self {
                    $(Self::$name => $need,)*
                }
            }
        }
    };
}

methods! {
    AbortPut => Need::Right(Right::Write),
    AddMember => Need::AdminOfAll,
    BeginCopy => Need::ReadAndWrite,
    BeginPut => Need::Right(Right::Write),
    // With a copy among its operations, that of CopyObject.
    CommitBatch => Need::Right(Right::Write),
    CommitPut => Need::Right(Right::Write),
    ContinueCopy => Need::ReadAndWrite,
    CopyObject => Need::ReadAndWrite,
    CreateAccessKey => Need::AdminOfAll,
    CreateBackup => Need::AdminOfAll,
    CreateBucket => Need::Right(Right::Admin),
    DeleteBucket => Need::Right(Right::Admin),
    DeleteObject => Need::Right(Right::Write),
    DrainNode => Need::AdminOfAll,
    // Like reading the object, of which it tells no more; where nodes are, every key sees by GetClusterStatus.
    ExplainPlacement => Need::Right(Right::Read),
    ExtendPut => Need::Right(Right::Write),
    GetBucket => Need::AnyRight,
    GetClusterStatus => Need::Key,
    GetObject => Need::Right(Right::Read),
    GetRebalanceStatus => Need::AdminOfAll,
    // It names objects of all buckets.
    GetRepairStatus => Need::AdminOfAll,
    HeadObject => Need::Right(Right::Read),
    LabelNode => Need::AdminOfAll,
    ListAccessKeys => Need::AdminOfAll,
    ListMembers => Need::Key,
    // It shows those that the key may list.
    ListBuckets => Need::Key,
    ListObjectVersions => Need::Right(Right::List),
    ListObjects => Need::Right(Right::List),
    PauseRebalance => Need::AdminOfAll,
    // It names objects of all buckets.
    PlanDrain => Need::AdminOfAll,
    PlanRebalance => Need::AdminOfAll,
    PromoteMember => Need::AdminOfAll,
    RemoveMember => Need::AdminOfAll,
    RemoveNode => Need::AdminOfAll,
    ReplaceMember => Need::AdminOfAll,
    // Whoever reads may say that he could not.
    ReportReplicas => Need::Right(Right::Read),
    ReserveMember => Need::AdminOfAll,
    RevokeAccessKey => Need::AdminOfAll,
    RotateKeyEpoch => Need::AdminOfAll,
    ScrubNode => Need::AdminOfAll,
    // It names objects of all buckets.
    TakeInventory => Need::AdminOfAll,
    TransferLeadership => Need::AdminOfAll,
    UpdateBucket => Need::Right(Right::Admin),
    UpdateMember => Need::AdminOfAll,
}

/// What a caller needs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Need {
    /// The right admin on all buckets.
    AdminOfAll,
    /// Some right on the bucket, whichever.
    AnyRight,
    /// A key, whatever it may do.
    Key,
    /// Both rights on the bucket; of two, the one on what is read and the other on what is written.
    ReadAndWrite,
    /// This right on the bucket.
    Right(Right),
}

/// What a request is about.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Place {
    /// The bucket of this name.
    Bucket(String),
    /// No bucket in particular.
    Cluster,
    /// The bucket of this name is read, and what the other place names is written.
    Copy(String, Box<Self>),
    /// The bucket of this upload.
    Upload(u64),
}

/// A request of a client.
pub(super) trait Asks {
    /// Which method takes it.
    const METHOD: Method;

    /// What its caller needs.
    fn need(&self) -> Need {
        Self::METHOD.need()
    }

    /// What it is about.
    ///
    /// # Errors
    ///
    /// It names something that cannot be.
    fn place(&self) -> Result<Place, Refusal>;

    /// What is noted of it, if it is an administrative act: what it is about, and its request id.
    fn act(&self) -> Option<(Cow<'_, str>, &str)> {
        None
    }
}

fn bucket(field: &'static str, name: &str) -> Result<Place, Refusal> {
    name::parse_bucket(field, name).map(Place::Bucket)
}

fn server(id: u64) -> String {
    format!("metaServers/{id}")
}

fn bucket_of(name: &str) -> Result<Place, Refusal> {
    ObjectName::parse(name).map(|name| Place::Bucket(name.bucket))
}

fn copy_of(source: &str, target: Place) -> Result<Place, Refusal> {
    ObjectName::parse(source).map(|name| Place::Copy(name.bucket, Box::new(target)))
}

macro_rules! asks {
    ($($request:path: $method:ident, |$message:ident| $place:expr $(, |$acting:ident| $subject:expr)?;)*) => {
        $(impl Asks for $request {
            const METHOD: Method = Method::$method;

            fn place(&self) -> Result<Place, Refusal> {
                let $message = self;
                $place
            }

            $(fn act(&self) -> Option<(Cow<'_, str>, &str)> {
                let $acting = self;
                Some(($subject.into(), &$acting.request_id))
            })?
        })*
    };
}

asks! {
    members::AddMemberRequest: AddMember, |_request| Ok(Place::Cluster), |request| server(request.id);
    members::ListMembersRequest: ListMembers, |_request| Ok(Place::Cluster);
    members::PromoteMemberRequest: PromoteMember, |_request| Ok(Place::Cluster), |request| server(request.id);
    members::RemoveMemberRequest: RemoveMember, |_request| Ok(Place::Cluster), |request| server(request.id);
    members::ReplaceMemberRequest: ReplaceMember, |_request| Ok(Place::Cluster), |request| format!("{} by {}", server(request.old_id), request.new_id);
    members::ReserveMemberRequest: ReserveMember, |_request| Ok(Place::Cluster), |request| "";
    members::TransferLeadershipRequest: TransferLeadership, |_request| Ok(Place::Cluster), |request| server(request.id);
    members::UpdateMemberRequest: UpdateMember, |_request| Ok(Place::Cluster), |request| server(request.id);
    proto::AbortPutRequest: AbortPut, |request| Ok(Place::Upload(request.upload_id));
    proto::BeginCopyRequest: BeginCopy, |request| copy_of(&request.source, bucket_of(&request.destination)?);
    proto::BeginPutRequest: BeginPut, |request| bucket_of(&request.name);
    proto::CommitPutRequest: CommitPut, |request| Ok(Place::Upload(request.upload_id));
    proto::ContinueCopyRequest: ContinueCopy, |request| {
        let source = request.source.as_ref().map_or("", |source| source.name.as_str());
        copy_of(source, Place::Upload(request.upload_id))
    };
    proto::CopyObjectRequest: CopyObject, |request| bucket_of(&request.source);
    access::CreateAccessKeyRequest: CreateAccessKey, |_request| Ok(Place::Cluster), |request| request.label.as_str();
    backup::CreateBackupRequest: CreateBackup, |_request| Ok(Place::Cluster), |request| "";
    proto::CreateBucketRequest: CreateBucket, |request| bucket("name", &request.name), |request| request.name.as_str();
    proto::DeleteBucketRequest: DeleteBucket, |request| bucket("name", &request.name), |request| request.name.as_str();
    proto::DeleteObjectRequest: DeleteObject, |request| bucket_of(&request.name);
    proto::DrainNodeRequest: DrainNode, |_request| Ok(Place::Cluster), |request| request.name.as_str();
    proto::ExplainPlacementRequest: ExplainPlacement, |request| bucket_of(&request.name);
    proto::ExtendPutRequest: ExtendPut, |request| Ok(Place::Upload(request.upload_id));
    proto::GetBucketRequest: GetBucket, |request| bucket("name", &request.name);
    proto::GetClusterStatusRequest: GetClusterStatus, |_request| Ok(Place::Cluster);
    proto::GetObjectRequest: GetObject, |request| bucket_of(&request.name);
    proto::GetRebalanceStatusRequest: GetRebalanceStatus, |_request| Ok(Place::Cluster);
    proto::GetRepairStatusRequest: GetRepairStatus, |_request| Ok(Place::Cluster);
    proto::HeadObjectRequest: HeadObject, |request| bucket_of(&request.name);
    proto::LabelNodeRequest: LabelNode, |_request| Ok(Place::Cluster), |request| request.name.as_str();
    access::ListAccessKeysRequest: ListAccessKeys, |_request| Ok(Place::Cluster);
    proto::ListBucketsRequest: ListBuckets, |_request| Ok(Place::Cluster);
    proto::ListObjectVersionsRequest: ListObjectVersions, |request| bucket("parent", &request.parent);
    proto::ListObjectsRequest: ListObjects, |request| bucket("parent", &request.parent);
    proto::PauseRebalanceRequest: PauseRebalance, |_request| Ok(Place::Cluster), |request| "";
    proto::PlanDrainRequest: PlanDrain, |_request| Ok(Place::Cluster);
    proto::PlanRebalanceRequest: PlanRebalance, |_request| Ok(Place::Cluster);
    proto::RemoveNodeRequest: RemoveNode, |_request| Ok(Place::Cluster), |request| request.name.as_str();
    proto::ReportReplicasRequest: ReportReplicas, |request| bucket("parent", &request.parent);
    access::RevokeAccessKeyRequest: RevokeAccessKey, |_request| Ok(Place::Cluster), |request| request.name.as_str();
    access::RotateKeyEpochRequest: RotateKeyEpoch, |_request| Ok(Place::Cluster), |request| "";
    proto::ScrubNodeRequest: ScrubNode, |_request| Ok(Place::Cluster), |request| request.name.as_str();
    proto::UpdateBucketRequest: UpdateBucket, |request| bucket("name", &request.name), |request| request.name.as_str();
}

impl Asks for proto::TakeInventoryRequest {
    const METHOD: Method = Method::TakeInventory;

    fn place(&self) -> Result<Place, Refusal> {
        Ok(Place::Cluster)
    }

    /// Looking is none, nor is to go on.
    fn act(&self) -> Option<(Cow<'_, str>, &str)> {
        (self.collect && self.number == 0).then_some(("".into(), &self.request_id))
    }
}

impl Asks for proto::CommitBatchRequest {
    const METHOD: Method = Method::CommitBatch;

    fn need(&self) -> Need {
        let is_copy = |operation: &proto::BatchOperation| {
            matches!(operation.kind, Some(proto::batch_operation::Kind::Copy(_)))
        };
        if self.operations.iter().any(is_copy) { Method::CopyObject.need() } else { Self::METHOD.need() }
    }

    fn place(&self) -> Result<Place, Refusal> {
        bucket("parent", &self.parent)
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;

    /// So that no method is forgotten: the table has every method of the services that clients call, and no other.
    #[test]
    fn table_has_every_method_of_the_services() {
        let files = FileDescriptorSet::decode(xdpfs_proto::FILE_DESCRIPTOR_SET).unwrap().file;
        let services =
            files.iter().filter(|file| PACKAGES.contains(&file.package())).flat_map(|file| &file.service);
        let mut offered: Vec<_> =
            services.flat_map(|service| &service.method).map(|method| method.name().to_owned()).collect();
        offered.sort_unstable();
        let mut known: Vec<_> = Method::ALL.iter().map(|method| method.label().to_owned()).collect();
        known.sort_unstable();
        assert_eq!(offered, known);
    }

    #[test]
    fn batch_with_a_copy_reads_too() {
        use proto::batch_operation::Kind;
        let need = |kinds: Vec<Kind>| {
            let operations =
                kinds.into_iter().map(|kind| proto::BatchOperation { kind: Some(kind) }).collect();
            proto::CommitBatchRequest { operations, ..Default::default() }.need()
        };
        let delete = Kind::Delete(proto::BatchDelete::default());
        assert_eq!(need(vec![]), Need::Right(Right::Write));
        assert_eq!(need(vec![delete.clone()]), Need::Right(Right::Write));
        assert_eq!(need(vec![delete, Kind::Copy(proto::BatchCopy::default())]), Need::ReadAndWrite);
    }

    #[test]
    fn request_says_what_it_is_about() {
        let name = || "buckets/photos/objects/a/b".to_owned();
        let photos = Ok(Place::Bucket("photos".into()));
        assert_eq!(proto::GetObjectRequest { name: name(), ..Default::default() }.place(), photos);
        assert_eq!(proto::BeginPutRequest { name: name(), ..Default::default() }.place(), photos);
        let list = proto::ListObjectsRequest { parent: "buckets/photos".into(), ..Default::default() };
        assert_eq!(list.place(), photos);
        assert!(proto::GetObjectRequest { name: "photos/a".into(), ..Default::default() }.place().is_err());
        let commit = proto::CommitPutRequest { upload_id: 7, ..Default::default() };
        assert_eq!(commit.place(), Ok(Place::Upload(7)));
        assert_eq!(commit.act(), None);
        let create = proto::CreateBucketRequest {
            name: "buckets/x".into(),
            request_id: "id".into(),
            ..Default::default()
        };
        assert_eq!(create.act(), Some(("buckets/x".into(), "id")));
        for (number, collect, is_act) in [(0, true, true), (0, false, false), (7, true, false)] {
            let take = proto::TakeInventoryRequest { number, collect, request_id: "id".into() };
            assert_eq!(take.act().is_some(), is_act, "{take:?}");
        }
    }
}
