//! What this host is to a controller on another machine: its key, its certificate, and the certificate of the
//! controller's authority, in one file, mode 0600, that changes as a whole.
//!
//! PEM sections (RFC 7468) in this order, after a few lines of text, one of which says when to renew. The key is made
//! here and goes nowhere else.

use rcgen::KeyPair;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tonic::Code;
use weft_proto::fault::Fault;
use weft_proto::v1;

/// The file in the certificate directory.
pub const FILE: &str = "identity.pem";

const RENEW_AFTER: &str = "Renew-After: ";

/// What the file holds.
pub struct Identity {
    /// The host's.
    pub key: PrivateKeyDer<'static>,
    /// The host's.
    pub certificate: CertificateDer<'static>,
    /// The authority's.
    pub authority: CertificateDer<'static>,
    /// Seconds since 1970.
    pub renew_after: u64,
}

fn unusable(code: &str, problem: String, remedy: impl Into<String>) -> Fault {
    Fault::invalid(code, "", problem, remedy).with_status(Code::FailedPrecondition)
}

const JOIN: &str =
    "Make a token with `weft host join-token NAME` where the controller is, and run `weft-switch join TOKEN` here.";

impl Identity {
    /// Reads the file. One that others can read is refused: they may have taken the key.
    ///
    /// # Errors
    /// `not_joined`, `identity_exposed`, `identity_damaged` or `identity_unreadable`.
    pub fn read(directory: &Path) -> Result<Self, Fault> {
        let path = directory.join(FILE);
        let shown = path.display();
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(unusable("not_joined", format!("this machine has not joined: there is no {shown}"), JOIN));
            }
            Err(error) => {
                let problem = format!("{shown} cannot be read: {error}");
                return Err(unusable("identity_unreadable", problem, "Run the switch as the user who owns it."));
            }
        };
        let mode = std::fs::metadata(&path).map_or(0, |found| found.permissions().mode() & 0o777);
        if mode & 0o077 != 0 {
            return Err(unusable(
                "identity_exposed",
                format!("{shown} holds this host's key, and others can read it (mode {mode:o})"),
                format!("If nobody has: chmod 600 {shown}. Else join anew, which makes another key."),
            ));
        }
        Self::parse(&text).ok_or_else(|| {
            let problem = format!("{shown} does not hold a key and two certificates");
            unusable("identity_damaged", problem, JOIN)
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).ok()?;
        let mut certificates = CertificateDer::pem_slice_iter(text.as_bytes());
        let certificate = certificates.next()?.ok()?;
        let authority = certificates.next()?.ok()?;
        let renew_after = text.lines().find_map(|line| line.strip_prefix(RENEW_AFTER))?.trim().parse().ok()?;
        Some(Self { key, certificate, authority, renew_after })
    }
}

/// A key that was just made, and the file that it will lie in: made first, so that a token is not used up where
/// nothing can be written.
pub struct Draft {
    key: KeyPair,
    file: std::fs::File,
    fresh: PathBuf,
    path: PathBuf,
}

impl Draft {
    /// Makes a key, and the directory if it is missing.
    ///
    /// # Errors
    /// `identity_unwritable`.
    pub fn begin(directory: &Path) -> Result<Self, Fault> {
        let fresh = directory.join(format!("{FILE}.new"));
        let made = || -> std::io::Result<std::fs::File> {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
            match std::fs::remove_file(&fresh) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)
        };
        let file = made().map_err(|error| unwritable(directory, &error.to_string()))?;
        let key = KeyPair::generate().map_err(|error| unwritable(directory, &error.to_string()))?;
        Ok(Self { key, file, fresh, path: directory.join(FILE) })
    }

    /// The key as the controller gets it: a point of P-256, uncompressed.
    #[must_use]
    pub fn public_key(&self) -> Vec<u8> {
        self.key.public_key_raw().to_vec()
    }

    /// Puts the file in its place, with what the controller has issued.
    ///
    /// # Errors
    /// `bad_certificate` if that is not what it should be; `identity_unwritable`.
    pub fn finish(mut self, issued: &v1::IssuedCertificate) -> Result<PathBuf, Fault> {
        let text = format!(
            "The identity of a Weft host. It holds a private key: leave it on this machine.\n{RENEW_AFTER}{}\n{}{}{}",
            issued.renew_after,
            self.key.serialize_pem(),
            issued.certificate,
            issued.authority
        );
        if Identity::parse(&text).is_none() {
            let problem = "the controller's answer holds no certificate".to_owned();
            return Err(unusable("bad_certificate", problem, "Use the same version on both sides."));
        }
        let written = self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_all());
        let written = written.and_then(|()| std::fs::rename(&self.fresh, &self.path));
        written.map_err(|error| unwritable(&self.path, &error.to_string()))?;
        Ok(self.path.clone())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // It is gone if it has been put in its place.
        let _ = std::fs::remove_file(&self.fresh);
    }
}

fn unwritable(path: &Path, problem: &str) -> Fault {
    let problem = format!("{} cannot be written: {problem}", path.display());
    let remedy = "Run this as root, or name another directory with --certificate-directory.";
    unusable("identity_unwritable", problem, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(directory: &Path) -> String {
        Identity::read(directory).err().expect("this is no identity").code
    }

    #[test]
    fn a_draft_that_is_not_finished_leaves_no_key_behind_and_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let below = directory.path().join("made/here");
        assert_eq!(code(&below), "not_joined");
        let draft = Draft::begin(&below).unwrap();
        assert_eq!((draft.public_key().len(), draft.public_key()[0]), (65, 4));
        let other = Draft::begin(&below).unwrap();
        assert_ne!(draft.public_key(), other.public_key());
        let empty = v1::IssuedCertificate::default();
        assert_eq!(draft.finish(&empty).unwrap_err().code, "bad_certificate");
        drop(other);
        assert_eq!(std::fs::read_dir(&below).unwrap().count(), 0);
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert_eq!(Draft::begin(&file).err().unwrap().code, "identity_unwritable");
    }

    #[test]
    fn what_others_can_read_or_is_damaged_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        let key = KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap().pem();
        let whole = format!("{RENEW_AFTER}17\n{}{certificate}{certificate}", key.serialize_pem());
        std::fs::write(&path, &whole).unwrap();
        for (mode, exposed) in [(0o644, true), (0o620, true), (0o601, true), (0o600, false), (0o400, false)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            match Identity::read(directory.path()) {
                Ok(identity) => assert!(!exposed && identity.renew_after == 17, "{mode:o}"),
                Err(fault) => {
                    assert_eq!((fault.code.as_str(), exposed), ("identity_exposed", true), "{mode:o}");
                    assert!(fault.remedy.contains("chmod 600"), "{fault}");
                }
            }
        }
        let half = &whole[..whole.rfind("-----BEGIN").unwrap()];
        for text in ["", "-----BEGIN PRIVATE KEY-----", half, whole.trim_start_matches(RENEW_AFTER)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            std::fs::write(&path, text).unwrap();
            assert_eq!(code(directory.path()), "identity_damaged", "{text}");
        }
    }
}
