use tokio::io::AsyncReadExt as _;

use super::*;
use crate::mock::MockClient;

async fn client(plan: Plan) -> FailingClient<MockClient> {
    let client = FailingClient::new(MockClient::new(), plan);
    client.create_bucket("demo", BucketOptions::default()).await.unwrap();
    client.inner().put_bytes("demo", "key", "0123456789".into(), PutOptions::default()).await.unwrap();
    client
}

async fn read(client: &FailingClient<MockClient>) -> (Vec<u8>, bool) {
    let mut stream = client.get("demo", "key", GetOptions::default()).await.unwrap();
    let mut bytes = vec![];
    let whole = stream.read_to_end(&mut bytes).await.is_ok();
    (bytes, whole)
}

#[tokio::test]
async fn calls_fail_by_their_number() {
    let plan = Plan::default().on(Method::Stat, 2, Fault::Refuse(Error::ChangedWhileReading)).on(
        Method::Delete,
        1,
        Fault::Refuse(Error::NoSpace),
    );
    let client = client(plan).await;
    let results = [1, 2, 3].map(|_| client.stat("demo", "key", None));
    let mut worked = vec![];
    for result in results {
        worked.push(result.await.is_ok());
    }
    assert_eq!(worked, [true, false, true]);
    assert!(matches!(client.clone().delete("demo", "key", None).await, Err(Error::NoSpace)));
    assert!(client.stat("demo", "key", None).await.is_ok(), "a refused call has no effect");
    assert!(client.delete("demo", "key", None).await.is_ok());
}

#[tokio::test]
async fn a_lost_answer_hides_an_effect() {
    let unknown = Error::OutcomeUnknown { operation: "CommitPut", why: "lost".into() };
    let client = client(Plan::default().on(Method::Put, 1, Fault::LoseAnswer(unknown))).await;
    let put = client.put_bytes("demo", "other", "bytes".into(), PutOptions::default()).await;
    assert!(matches!(put, Err(Error::OutcomeUnknown { .. })), "{put:?}");
    assert_eq!(client.stat("demo", "other", None).await.unwrap().size, 5);
}

#[tokio::test]
async fn a_get_is_cut_where_the_plan_says() {
    let cut = |after| Fault::Cut { after, error: Error::ChangedWhileReading };
    let plan =
        Plan::default().on(Method::Get, 1, cut(4)).on(Method::Get, 2, cut(0)).on(Method::Get, 3, cut(10));
    let client = client(plan).await;
    assert_eq!(read(&client).await, (b"0123".to_vec(), false));
    assert_eq!(read(&client).await, (vec![], false));
    assert_eq!(read(&client).await, (b"0123456789".to_vec(), true), "there was nothing left to cut");
    assert_eq!(read(&client).await, (b"0123456789".to_vec(), true));
}
