//! Certificates and keys that are almost right, as files and as what a peer presents.

use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::base::mutants_test::{hammer, mutate, mutate_text};
use crate::pki::{Authority, Credentials, Validity, peer_identity};

#[test]
fn files_that_are_almost_right_are_used_or_refused() {
    let authority = Authority::create("blue").unwrap();
    let validity = Validity::from_now(Duration::from_secs(3_600));
    let issued = authority.issue("alpha", validity).unwrap();
    let whole = [
        issued.certificate_pem.clone(),
        issued.key_pem.clone(),
        authority.certificate_pem().to_owned(),
    ];
    let (mut used, mut refused) = (0, 0);
    hammer("pki files", 150, |rng| {
        let mut parts = whole.clone();
        let place = rng.below(3) as usize;
        parts[place] = mutate_text(rng, &parts[place], &whole[(place + 1) % 3]);
        let [certificate, key, root] = &parts;
        match Credentials::from_pem(certificate, key, root, SystemTime::now()) {
            Ok(credentials) => {
                assert_eq!(credentials.identity().to_string(), "spiffe://blue/node/alpha");
                used += 1;
            }
            Err(error) => {
                assert!(!error.to_string().is_empty(), "refused without a word");
                refused += 1;
            }
        }
    });
    eprintln!("pki files: {used} mutants used, {refused} refused");
}

#[test]
fn certificates_that_are_almost_right_name_a_node_or_nobody() {
    let authority = Authority::create("blue").unwrap();
    let validity = Validity::from_now(Duration::from_secs(3_600));
    let pems = ["alpha", "beta"].map(|name| authority.issue(name, validity).unwrap());
    let ders = pems.map(|issued| {
        CertificateDer::from_pem_slice(issued.certificate_pem.as_bytes()).unwrap().to_vec()
    });
    let (mut named, mut refused) = (0, 0);
    hammer("pki certificates", 2_000, |rng| {
        let mut der = ders[0].clone();
        mutate(rng, &mut der, &ders[1]);
        match peer_identity(&[CertificateDer::from(der)]) {
            Ok(_) => named += 1,
            Err(_) => refused += 1,
        }
    });
    // The name is read after the signature was verified: here it may be any that has the form.
    eprintln!("pki certificates: {named} mutants named, {refused} refused");
}

/// Lengths that lie, in each place of a certificate.
#[test]
fn a_certificate_whose_lengths_lie_is_refused() {
    let authority = Authority::create("blue").unwrap();
    let pem = authority.issue("alpha", Validity::from_now(Duration::from_secs(60))).unwrap();
    let der = CertificateDer::from_pem_slice(pem.certificate_pem.as_bytes()).unwrap().to_vec();
    for place in 0..der.len() {
        for lie in [&[0x84, 0xff, 0xff, 0xff, 0xff][..], &[0x88; 9], &[0x80]] {
            let mut bytes = der.clone();
            bytes.splice(place..=place, lie.iter().copied());
            let _ = peer_identity(&[CertificateDer::from(bytes)]);
        }
    }
}
