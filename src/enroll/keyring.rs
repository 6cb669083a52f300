//! The keys of authorities on this host: the one that signs, and while it is exchanged the next.
//!
//! ```text
//! DIR/ca.pem  ca.key         the authority
//! DIR/next/ca.pem  ca.key    the one that will take its place
//! DIR/next/active            since when the next one signs
//! ```
//!
//! When it is exchanged is decided in `rotation.rs`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use crate::enroll::enrolment::AuthorityOptions;
use crate::enroll::rotation::pin_in_force;
use crate::node::{Node, NodeStatus};
use crate::pki::{Authority, CheckedRequest, Pin, PkiError, Validity, replace_file};

/// The key of an authority, in memory.
pub(super) struct Signer {
    authority: Authority,
    life: Duration,
}

impl Signer {
    /// Signs a certificate for the node `name`.
    pub(super) fn sign(&self, request: &CheckedRequest, name: &str) -> Result<String, PkiError> {
        self.authority.sign(request, name, Validity::of_life(self.life))
    }

    /// The pin of its key.
    pub(super) fn pin(&self) -> Pin {
        self.authority.pin()
    }
}

/// The keys that this daemon signs with: one, or none.
#[derive(Default)]
pub(super) struct Keyring {
    options: Option<AuthorityOptions>,
    signer: RwLock<Option<Arc<Signer>>>,
}

impl Keyring {
    /// What the configuration names.
    pub(super) fn load(options: Option<&AuthorityOptions>) -> Result<Self, PkiError> {
        let Some(options) = options else { return Ok(Self::default()) };
        let next = options.directory.join("next");
        let is_active = next.join("active").exists();
        let directory = if is_active { &next } else { &options.directory };
        let signer = Some(Arc::new(signer(options, directory)?));
        Ok(Self { options: Some(options.clone()), signer: RwLock::new(signer) })
    }

    /// Whether there is a key at all.
    pub(super) fn has_key(&self) -> bool {
        self.signer.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// The key of the authority, if this node may use it now: only a voter, because learners are on
    /// many hosts, and less guarded ones; and only the authority that is in force.
    pub(super) fn signer(&self, node: &Node, status: &NodeStatus) -> Option<Arc<Signer>> {
        let signer = self.signer.read().unwrap_or_else(PoisonError::into_inner).clone()?;
        let own = status.replica.node;
        let votes = status.replica.members.iter().any(|member| member.node == own && member.voter);
        let is_in_force = pin_in_force(node).is_none_or(|pin| pin == signer.pin().to_string());
        let is_ours = signer.authority.cluster() == status.cluster_name;
        (votes && is_in_force && is_ours).then_some(signer)
    }

    /// Whether there is a key, of an authority that is in force no more.
    pub(super) fn is_outdated(&self, node: &Node) -> bool {
        let signer = self.signer.read().unwrap_or_else(PoisonError::into_inner).clone();
        let pin = signer.map(|signer| signer.pin().to_string());
        pin.is_some_and(|pin| pin_in_force(node).is_some_and(|in_force| in_force != pin))
    }

    /// Makes the next authority, on disk, or finds the one of an attempt before: its pin and its
    /// certificate.
    pub(super) fn prepare(&self, cluster: &str) -> Result<(Pin, String), String> {
        let (options, next) = self.places()?;
        let present = Authority::load(&options.directory).map_err(|error| error.to_string())?;
        if let Ok(found) = Authority::load(&next)
            && found.pin() != present.pin()
        {
            return Ok((found.pin(), found.certificate_pem().to_owned()));
        }
        let failed = |error: std::io::Error| format!("cannot use {}: {error}", next.display());
        if next.exists() {
            fs::remove_dir_all(&next).map_err(failed)?;
        }
        fs::create_dir(&next).map_err(failed)?;
        let made = Authority::create(cluster).map_err(|error| error.to_string())?;
        made.save(&next).map_err(|error| error.to_string())?;
        Ok((made.pin(), made.certificate_pem().to_owned()))
    }

    /// From now on the next authority signs.
    pub(super) fn activate(&self) -> Result<(), String> {
        let (options, next) = self.places()?;
        let signer = signer(options, &next).map_err(|error| error.to_string())?;
        replace_file(&next.join("active"), 0o600, "").map_err(|error| error.to_string())?;
        *self.signer.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(signer));
        Ok(())
    }

    /// The next authority is the only one. May be repeated at any point: while `active` is there,
    /// what is in `next` counts.
    pub(super) fn promote(&self) -> Result<(), String> {
        let (options, next) = self.places()?;
        if !next.join("active").exists() {
            return Ok(());
        }
        let failed = |error: std::io::Error| format!("cannot use {}: {error}", next.display());
        for (file, mode) in [("ca.key", 0o600), ("ca.pem", 0o644)] {
            let content = fs::read_to_string(next.join(file)).map_err(failed)?;
            let replaced = replace_file(&options.directory.join(file), mode, &content);
            replaced.map_err(|error| error.to_string())?;
        }
        fs::remove_file(next.join("active")).map_err(failed)?;
        fs::remove_dir_all(&next).map_err(failed)
    }

    fn places(&self) -> Result<(&AuthorityOptions, PathBuf), String> {
        let options = self.options.as_ref().ok_or("this node has no authority (`ca`)")?;
        Ok((options, options.directory.join("next")))
    }
}

fn signer(options: &AuthorityOptions, directory: &Path) -> Result<Signer, PkiError> {
    let authority = Authority::load(directory)?;
    Ok(Signer { authority, life: Duration::from_micros(options.life.as_micros()) })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{AuthorityOptions, Keyring};
    use crate::base::Span;
    use crate::pki::Authority;

    #[test]
    fn a_crash_between_any_two_steps_leaves_one_whole_authority() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_owned();
        let options = AuthorityOptions { directory: path.clone(), life: Span::from_secs(60) };
        let old = Authority::create("blue").unwrap();
        old.save(&path).unwrap();
        let load = || Keyring::load(Some(&options)).unwrap();
        let pin = || load().signer.into_inner().unwrap().unwrap().pin();
        let (new, _) = load().prepare("blue").unwrap();
        assert_eq!(load().prepare("blue").unwrap().0, new, "the same one after a crash");
        assert_eq!(pin(), old.pin(), "it does not sign yet");
        load().activate().unwrap();
        assert_eq!(pin(), new);
        // The key was replaced, and its certificate was not.
        fs::copy(path.join("next/ca.key"), path.join("ca.key")).unwrap();
        assert_eq!(pin(), new);
        load().promote().unwrap();
        assert!(!path.join("next").exists());
        assert_eq!(pin(), new);
        assert_eq!(Authority::load(&path).unwrap().pin(), new);
        // What is left of a rotation that is over is not taken for the next.
        fs::create_dir(path.join("next")).unwrap();
        for file in ["ca.pem", "ca.key"] {
            fs::copy(path.join(file), path.join("next").join(file)).unwrap();
        }
        assert_ne!(load().prepare("blue").unwrap().0, new);
    }
}
