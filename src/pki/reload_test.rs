//! What may take the place of a running node's credentials, and what is said of their ends.

use std::time::{Duration, SystemTime};

use crate::pki::{Authority, Credentials, Expiry, ExpiryKind, Issued, LiveTls, PkiError, Validity};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn issue(authority: &Authority, name: &str, days: u32) -> Issued {
    authority.issue(name, Validity::from_now(days * DAY)).expect("a good name")
}

fn credentials(issued: &Issued, trusted: &[&Authority]) -> Result<Credentials, PkiError> {
    let roots: String = trusted.iter().map(|authority| authority.certificate_pem()).collect();
    let now = SystemTime::now();
    Credentials::from_pem(&issued.certificate_pem, &issued.key_pem, &roots, now)
}

fn chain(credentials: &Credentials) -> &[rustls::pki_types::CertificateDer<'static>] {
    &credentials.certified.cert
}

#[test]
fn credentials_are_replaced_as_a_whole_and_followers_are_told() {
    let old = Authority::create("blue").unwrap();
    let new = Authority::create("blue").unwrap();
    let first = credentials(&issue(&old, "alpha", 1), &[&old]).unwrap();
    let live = LiveTls::new(&first).unwrap();
    let mut follower = live.follow();
    assert!(!live.differ(&first));
    let before = live.current();
    assert!(before.verify(chain(&first), SystemTime::now()).is_ok());

    let second = credentials(&issue(&new, "alpha", 1), &[&old, &new]).unwrap();
    assert!(before.verify(chain(&second), SystemTime::now()).is_err());
    assert!(live.differ(&second));
    live.replace(&second).unwrap();
    assert!(follower.changes.has_changed().unwrap());
    let both = follower.current();
    assert!(!follower.changes.has_changed().unwrap());
    for peer in [&first, &second] {
        assert!(
            both.verify(chain(peer), SystemTime::now()).is_ok(),
            "both roots are in the bundle"
        );
    }
    assert!(both.verify(&[], SystemTime::now()).is_err());
    assert!(
        both.verify(chain(&first), SystemTime::now() + 2 * DAY).is_err(),
        "it has expired then"
    );

    let third = credentials(&issue(&new, "alpha", 1), &[&new]).unwrap();
    live.replace(&third).unwrap();
    assert!(follower.current().verify(chain(&first), SystemTime::now()).is_err());
    for config in [before, both, live.current()] {
        assert!(!config.server.session_storage.can_cache(), "no session outlives its settings");
    }
}

#[test]
fn a_certificate_of_another_node_or_cluster_changes_nothing() {
    let blue = Authority::create("blue").unwrap();
    let first = credentials(&issue(&blue, "alpha", 1), &[&blue]).unwrap();
    let live = LiveTls::new(&first).unwrap();
    let mut follower = live.follow();
    let green = Authority::create("green").unwrap();
    for other in [
        credentials(&issue(&blue, "beta", 1), &[&blue]).unwrap(),
        credentials(&issue(&green, "alpha", 1), &[&green]).unwrap(),
    ] {
        let error = live.replace(&other).unwrap_err();
        assert!(matches!(error, PkiError::OtherNode { .. }), "{error}");
        assert!(error.to_string().contains("spiffe://blue/node/alpha"), "{error}");
    }
    assert!(!live.differ(&first));
    assert!(!follower.changes.has_changed().unwrap());
    assert!(follower.current().verify(chain(&first), SystemTime::now()).is_ok());
}

#[test]
fn a_new_certificate_without_its_authority_is_no_credentials() {
    let old = Authority::create("blue").unwrap();
    let new = Authority::create("blue").unwrap();
    let early = credentials(&issue(&old, "alpha", 1), &[&new]).unwrap_err();
    assert!(matches!(early, PkiError::Issuer { .. }), "{early}");
}

#[test]
fn ends_are_told_from_thirty_days_on_and_more_urgently_as_they_come() {
    let authority = Authority::create("blue").unwrap();
    let issued = issue(&authority, "alpha", 40);
    let live = LiveTls::new(&credentials(&issued, &[&authority]).unwrap()).unwrap();
    let expiries = live.expiries();
    let kinds: Vec<ExpiryKind> = expiries.iter().map(|expiry| expiry.kind).collect();
    assert_eq!(kinds, [ExpiryKind::Own, ExpiryKind::Authority]);
    let own = &expiries[0];
    let end = own.not_after;
    let second = Duration::from_secs(1);
    for (now, urgency) in [
        (end - 31 * DAY, 0),
        (end - 30 * DAY - second, 0),
        (end - 30 * DAY, 1),
        (end - 7 * DAY, 2),
        (end - DAY, 3),
        (end, 3),
        (end + second, 4),
    ] {
        assert_eq!(own.urgency(now), urgency, "{:?} before its end", end.duration_since(now));
    }
    assert_eq!(own.left(end - second), Some(second));
    assert_eq!(own.left(end + second), None);
    let epoch = Expiry { not_after: SystemTime::UNIX_EPOCH, ..own.clone() };
    assert_eq!(epoch.date(), "1970-01-01T00:00:00Z");
    let said = expiries[1].to_string();
    assert!(said.contains("quorumd authority of blue"), "{said}");
}
