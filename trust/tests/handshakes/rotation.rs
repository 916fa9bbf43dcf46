use std::fs;

use xdpfs_trust::{Audience, Mismatch};

use crate::scene::{Ca, ask, call, channel, eventually, follow, open, serve};

const META: &str = "xdpfs://red/meta/1";

#[tokio::test]
async fn new_certificates_are_used_and_broken_ones_are_not() {
    let (ca, next) = (Ca::new("red"), Ca::new("red"));
    let member = ca.member(META);
    let service = serve(&member, Audience::Anyone).await;
    let connected = channel(service.address, Some(ca.client()));
    ask(connected.clone()).await.unwrap();

    fs::write(member.join("server.pem"), "half a certif").unwrap();
    // Two looks, and some: enough to have done something rash.
    tokio::time::sleep(xdpfs_trust::LOOK_EVERY * 5 / 2).await;
    assert_eq!(call(service.address, Some(ca.client())).await, Ok(()));

    next.write(&member, META, next.authority.certificates_pem(), |_| {});
    let is_new = async || call(service.address, Some(next.client())).await.ok();
    eventually("the new certificate", is_new).await;
    assert_eq!(call(service.address, Some(ca.client())).await, Err(Mismatch::UnknownIssuer));
    ask(connected).await.expect("a connection that is open stays open");
}

#[tokio::test]
async fn one_authority_takes_anothers_place_without_a_moment_in_which_nobody_is_trusted() {
    let (old, new) = (Ca::new("red"), Ca::new("red"));
    let (server, client) = (old.member(META), old.member("xdpfs://red/meta/2"));
    let service = serve(&server, Audience::MetaServers).await;
    let dialing = follow(&client).dialing();
    let both = format!("{}{}", old.authority.certificates_pem(), new.authority.certificates_pem());
    let works = async || assert_eq!(call(service.address, Some(dialing.clone())).await, Ok(()));
    works().await;
    // Both are trusted everywhere before anybody shows a new certificate.
    for member in [&server, &client] {
        fs::write(member.join("ca.pem"), &both).unwrap();
        works().await;
    }
    let stranger = new.member("xdpfs://red/meta/3");
    fs::write(stranger.join("ca.pem"), &both).unwrap();
    let stranger = open(&stranger);
    let is_trusted = async || call(service.address, Some(stranger.dialing())).await.ok();
    eventually("trust in the new authority", is_trusted).await;
    let trusts_new = new.client();
    new.write(&server, META, &both, |_| {});
    let is_new = async || {
        works().await;
        // It gets as far as being asked for a certificate of its own.
        matches!(call(service.address, Some(trusts_new.clone())).await, Err(Mismatch::RefusesUs(_)))
            .then_some(())
    };
    eventually("the server's new certificate", is_new).await;

    let connected = channel(service.address, Some(open(&client).dialing()));
    ask(connected.clone()).await.unwrap();
    let left_behind = open(&client);
    new.write(&client, "xdpfs://red/meta/2", &both, |_| {});
    fs::write(server.join("ca.pem"), new.authority.certificates_pem()).unwrap();
    let is_refused = async || call(service.address, Some(left_behind.dialing())).await.err();
    let refusal = eventually("the end of the old authority", is_refused).await;
    assert!(matches!(refusal, Mismatch::RefusesUs(_)), "{refusal:?}");
    // What rested on it ends, too, open as it was.
    let is_over = async || ask(connected.clone()).await.err();
    eventually("the end of the old connection", is_over).await;
    eventually("the client's new certificate", async || {
        call(service.address, Some(dialing.clone())).await.ok()
    })
    .await;
}
