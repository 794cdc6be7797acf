//! tonic's own clients, which know nothing of how this server is made.

use proto::etcdserverpb::kv_client::KvClient;
use proto::etcdserverpb::maintenance_client::MaintenanceClient;
use tonic::Code;
use tonic::transport::Endpoint;

use super::*;

#[tokio::test]
async fn tonic_is_served() {
    let running = start();
    let url = format!("http://{}", running.address);
    let channel = Endpoint::from_shared(url).unwrap().connect().await.unwrap();
    let mut kv = KvClient::new(channel.clone());
    let response = kv.put(put("k", 1_000_000)).await.unwrap().into_inner();
    assert_eq!(response.header.unwrap().member_id, 0xa1);

    let large = pb::RangeRequest { limit: 3_000_000, ..range(KEY_THAT_IS_LARGE) };
    let response = kv.range(large).await.unwrap().into_inner();
    assert_eq!(response.kvs[0].value.len(), 3_000_000);

    let mut stream = kv.range_stream(range("k")).await.unwrap().into_inner();
    let mut count = 0;
    while stream.message().await.unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, 3);

    let status = kv.put(put("", 1)).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::InvalidArgument, "etcdserver: key is not provided")
    );

    let mut maintenance = MaintenanceClient::new(channel);
    assert_eq!(
        maintenance.status(pb::StatusRequest {}).await.unwrap().into_inner().version,
        "3.7.1"
    );
    let alarms = maintenance.alarm(pb::AlarmRequest::default()).await.unwrap().into_inner();
    assert_eq!(alarms.alarms, []);
    let activate = pb::AlarmRequest { action: 1, ..Default::default() };
    maintenance.alarm(activate).await.unwrap();
    assert_eq!(running.fake.raised.load(Ordering::SeqCst), 1);
    maintenance.defragment(pb::DefragmentRequest {}).await.unwrap();

    let mut tasks = Vec::new();
    for _ in 0..200 {
        let mut kv = kv.clone();
        tasks.push(tokio::spawn(async move { kv.put(put("k", 100)).await.unwrap() }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(running.fake.revision.load(Ordering::SeqCst), 202);
    running.server.stop(Duration::ZERO);
}
