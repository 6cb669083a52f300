//! Which certificates are accepted as one's own, and what is said of the others.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::pki::{
    Authority, Credentials, IdentityFault, Issued, PkiError, TlsConfigs, Validity, peer_identity,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn today() -> Validity {
    Validity::from_now(DAY)
}

fn credentials(authority: &Authority, issued: &Issued) -> Result<Credentials, PkiError> {
    let root = authority.certificate_pem();
    Credentials::from_pem(&issued.certificate_pem, &issued.key_pem, root, SystemTime::now())
}

fn refusal(result: Result<Credentials, PkiError>) -> PkiError {
    result.expect_err("these credentials must be refused")
}

#[test]
fn an_issued_certificate_names_its_node_and_makes_tls_settings() {
    let authority = Authority::create("blue").unwrap();
    let validity = today();
    let credentials =
        credentials(&authority, &authority.issue("alpha", validity).unwrap()).unwrap();
    assert_eq!(credentials.identity().to_string(), "spiffe://blue/node/alpha");
    let off = validity.not_after.duration_since(credentials.not_after()).unwrap();
    assert!(off < Duration::from_secs(1), "the end of validity is off by {off:?}");

    let tls = TlsConfigs::new(&credentials).unwrap();
    assert_eq!(tls.server.alpn_protocols, [b"quorumd/1".to_vec()]);
    assert_eq!(tls.client.alpn_protocols, [b"quorumd/1".to_vec()]);
    assert_eq!(tls.server.send_tls13_tickets, 0);
    assert_eq!(tls.server.max_early_data_size, 0);
    assert!(!tls.server.session_storage.can_cache(), "sessions of peers are never kept");
    assert!(!tls.client.enable_early_data);
}

#[test]
fn files_round_trip_and_are_private_and_never_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    Authority::create("blue").unwrap().save(directory.path()).unwrap();
    assert_eq!(mode(&at("ca.key")), 0o600);

    let authority = Authority::load(directory.path()).unwrap();
    assert_eq!(authority.cluster(), "blue");
    let issued = authority.issue("alpha", today()).unwrap();
    issued.save(&at("alpha.pem"), &at("alpha.key")).unwrap();
    assert_eq!(mode(&at("alpha.key")), 0o600);
    let loaded = Credentials::load(&at("alpha.pem"), &at("alpha.key"), &at("ca.pem")).unwrap();
    assert_eq!(loaded.identity().name(), "alpha");

    let again = authority.save(directory.path());
    assert!(matches!(again, Err(PkiError::Exists { .. })), "{again:?}");
    let again = issued.save(&at("other.pem"), &at("alpha.key"));
    assert!(matches!(again, Err(PkiError::Exists { .. })), "{again:?}");

    let other = Authority::create("blue").unwrap();
    fs::remove_file(at("ca.pem")).unwrap();
    fs::write(at("ca.pem"), other.certificate_pem()).unwrap();
    let mixed = Authority::load(directory.path()).err();
    assert!(matches!(mixed, Some(PkiError::KeyMismatch { .. })), "{mixed:?}");
}

#[test]
fn what_cannot_work_is_refused_with_file_and_advice() {
    let authority = Authority::create("blue").unwrap();
    let root = authority.certificate_pem();
    let issued = authority.issue("alpha", today()).unwrap();
    let other = authority.issue("beta", today()).unwrap();
    let now = SystemTime::now();
    let with = |certificate: &str, key: &str, root: &str, now| {
        refusal(Credentials::from_pem(certificate, key, root, now))
    };
    let (certificate, key) = (issued.certificate_pem.as_str(), issued.key_pem.as_str());

    let error = with(certificate, key, root, now + 2 * DAY);
    assert!(matches!(error, PkiError::Expired { .. }), "{error}");
    assert!(error.to_string().contains("certificate in memory"), "{error}");
    let error = with(certificate, key, root, now - DAY);
    assert!(matches!(error, PkiError::NotYetValid { .. }), "{error}");
    let error = with(certificate, &other.key_pem, root, now);
    assert!(matches!(error, PkiError::KeyMismatch { .. }), "{error}");
    let error = with(certificate, "no key", root, now);
    assert!(matches!(error, PkiError::Pem { .. }), "{error}");
    let error = with(key, key, root, now);
    assert!(matches!(error, PkiError::Pem { .. }), "{error}");
    let error = with(certificate, key, "", now);
    assert!(matches!(error, PkiError::Pem { .. }), "{error}");
    let impostor = Authority::create("blue").unwrap();
    let error = with(certificate, key, impostor.certificate_pem(), now);
    assert!(matches!(error, PkiError::Issuer { .. }), "{error}");
    let missing = Path::new("/nonexistent/node.pem");
    let error = refusal(Credentials::load(missing, missing, missing));
    assert!(error.to_string().contains("/nonexistent/node.pem"), "{error}");
}

#[test]
fn the_certificate_of_the_authority_names_no_node() {
    let authority = Authority::create("blue").unwrap();
    let der = CertificateDer::from_pem_slice(authority.certificate_pem().as_bytes()).unwrap();
    assert_eq!(peer_identity(&[der]), Err(IdentityFault::NameForm));
    assert_eq!(peer_identity(&[]), Err(IdentityFault::NoCertificate));
    let garbage = CertificateDer::from(vec![0x30, 0x03, 1, 2, 3]);
    assert_eq!(peer_identity(&[garbage]), Err(IdentityFault::Malformed));
}

#[test]
fn names_that_would_need_escaping_are_refused() {
    for name in ["", "a/b", "a b", "\u{e9}", &"x".repeat(254)] {
        assert!(matches!(Authority::create(name).err(), Some(PkiError::Name { .. })), "{name:?}");
    }
    let authority = Authority::create("blue").unwrap();
    assert!(matches!(authority.issue("a/b", today()).err(), Some(PkiError::Name { .. })));
}
