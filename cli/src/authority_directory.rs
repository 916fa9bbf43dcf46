//! The directory of a cluster's authority: its key and certificate, and one directory for each member, which that
//! member is given and nothing else of it.
//!
//! Invariant: a file is there whole or not at all, a member's certificate last of all, and what is there is replaced
//! only by whoever asked for that.

use std::{
    fmt,
    fs::{self, Permissions},
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use tempfile::NamedTempFile;
use xdpfs_trust::{
    Authority, CA_FILE, CERTIFICATE_FILE, Certificate, KEY_FILE, NameError, Principal, Request, Role,
};

use crate::failure::{Failure, message_of};

const CA_KEY_FILE: &str = "ca.key";
/// A metadata server and a gateway answer to these, too, for whoever is on their own host.
const OWN_HOSTS: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
/// Certificates are for everybody; keys stay as they are made, for their owner alone.
const PUBLIC: u32 = 0o644;

/// An authority where it is kept.
#[derive(Debug)]
pub(crate) struct AuthorityDirectory {
    root: PathBuf,
    authority: Authority,
}

/// A member of a cluster, as its directory is called: `meta-1`, `node`, `node-a`, `edge-b`, `gateway-c`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct MemberName {
    role: Role,
    name: Option<String>,
}

impl AuthorityDirectory {
    /// Whether there is an authority.
    pub(crate) fn is_there(root: &Path) -> Result<bool, Failure> {
        let [key, certificate] = [CA_KEY_FILE, CA_FILE].map(|file| root.join(file));
        match (key.exists(), certificate.exists()) {
            (false, false) => Ok(false),
            (true, true) => Ok(true),
            (is_key, _) => {
                let (is, missing) = if is_key { (&key, &certificate) } else { (&certificate, &key) };
                Err(Failure::machine(format!("{} is there without {}", is.display(), missing.display()))
                    .with_hint(
                        "bring the other one back; if no certificate was ever made with it, remove it",
                    ))
            }
        }
    }

    /// Makes an authority for a new cluster.
    pub(crate) fn make(root: &Path, cluster: &str) -> Result<Self, Failure> {
        let authority = Authority::make(cluster).map_err(|error| Failure::usage(message_of(&error)))?;
        make_directory(root)?;
        write(root, CA_KEY_FILE, authority.key_pem().as_bytes(), None)?;
        write(root, CA_FILE, authority.certificates_pem().as_bytes(), Some(PUBLIC))?;
        Ok(Self { root: root.to_owned(), authority })
    }

    /// Opens the one that is there.
    pub(crate) fn open(root: &Path) -> Result<Self, Failure> {
        let (certificates, key) = (read(&root.join(CA_FILE))?, read(&root.join(CA_KEY_FILE))?);
        let authority = Authority::open(&certificates, &key).map_err(|error| {
            Failure::machine(format!("{}: {}", root.join(CA_KEY_FILE).display(), message_of(&error)))
        })?;
        Ok(Self { root: root.to_owned(), authority })
    }

    /// The cluster's name.
    pub(crate) fn cluster(&self) -> &str {
        self.authority.cluster().as_str()
    }

    /// Where a member's files are.
    pub(crate) fn directory_of(&self, member: &MemberName) -> PathBuf {
        self.root.join(member.to_string())
    }

    /// The member's certificate, if it has one.
    pub(crate) fn certificate_of(&self, member: &MemberName) -> Result<Option<Certificate>, Failure> {
        let path = self.directory_of(member).join(CERTIFICATE_FILE);
        if !path.exists() {
            return Ok(None);
        }
        let first = xdpfs_trust::first_certificate(read(&path)?.as_bytes());
        let makes_no_sense = || Failure::machine(format!("{} holds no certificate", path.display()));
        first.map(Some).ok_or_else(makes_no_sense)
    }

    /// Makes a key and a certificate for the member; what it had is replaced.
    pub(crate) fn certify(
        &self,
        member: &MemberName,
        hosts: &[String],
        lifetime: Duration,
    ) -> Result<PathBuf, Failure> {
        let principal = member.principal(&self.authority)?;
        let mut hosts = hosts.to_vec();
        if is_called(member.role) {
            hosts.extend(OWN_HOSTS.map(ToOwned::to_owned));
        }
        let mut seen = Vec::new();
        hosts.retain(|host| {
            !seen.contains(host) && {
                seen.push(host.clone());
                true
            }
        });
        let request = Request::new(principal, hosts).lasting(lifetime);
        let issued = self.authority.issue(&request).map_err(|error| Failure::usage(message_of(&error)))?;
        let directory = self.directory_of(member);
        make_directory(&directory)?;
        write(&directory, CA_FILE, self.authority.certificates_pem().as_bytes(), Some(PUBLIC))?;
        write(&directory, KEY_FILE, issued.key_pem.as_bytes(), None)?;
        write(&directory, CERTIFICATE_FILE, issued.certificate_pem.as_bytes(), Some(PUBLIC))?;
        Ok(directory)
    }
}

/// Whether clients connect to it, so that its certificate has to name its hosts.
pub(crate) const fn is_called(role: Role) -> bool {
    matches!(role, Role::Gateway | Role::Meta)
}

impl MemberName {
    /// A member with a name, or all of a role without one.
    pub(crate) fn new(role: Role, name: Option<&str>) -> Result<Self, NameError> {
        let member = Self { role, name: name.map(ToOwned::to_owned) };
        let in_any_cluster = "any".parse()?;
        name.map(|name| Principal::named(in_any_cluster, role, name)).transpose()?;
        Ok(member)
    }

    pub(crate) const fn role(&self) -> Role {
        self.role
    }

    fn principal(&self, authority: &Authority) -> Result<Principal, Failure> {
        let cluster = authority.cluster().clone();
        match &self.name {
            Some(name) => {
                Principal::named(cluster, self.role, name).map_err(|error| Failure::usage(error.to_string()))
            }
            None => Ok(Principal { cluster, role: self.role, name: None }),
        }
    }
}

impl fmt::Display for MemberName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.role)?;
        self.name.as_ref().map_or(Ok(()), |name| write!(f, "-{name}"))
    }
}

impl FromStr for MemberName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.split_once('-') {
            Some((role, name)) => Self::new(role.parse()?, Some(name)),
            None => Self::new(text.parse()?, None),
        }
    }
}

fn make_directory(path: &Path) -> Result<(), Failure> {
    fs::create_dir_all(path).map_err(|error| Failure::local(format_args!("make {}", path.display()), &error))
}

fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|error| Failure::local(format_args!("read {}", path.display()), &error))
}

fn write(directory: &Path, file: &str, content: &[u8], mode: Option<u32>) -> Result<(), Failure> {
    let path = directory.join(file);
    let written = replace(directory, &path, content, mode);
    written.map_err(|error| Failure::local(format_args!("write {}", path.display()), &error))
}

fn replace(directory: &Path, path: &Path, content: &[u8], mode: Option<u32>) -> io::Result<()> {
    let mut draft = NamedTempFile::new_in(directory)?;
    draft.write_all(content)?;
    if let Some(mode) = mode {
        draft.as_file().set_permissions(Permissions::from_mode(mode))?;
    }
    draft.as_file().sync_all()?;
    draft.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn members_are_called_as_their_directories() {
        for good in ["meta-1", "node", "node-rack-7", "edge-a.b", "gateway", "gateway-c"] {
            assert_eq!(good.parse::<MemberName>().unwrap().to_string(), good);
        }
        for bad in ["", "root", "node-", "node-..", "meta-A", "node-a/b"] {
            assert!(bad.parse::<MemberName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_are_their_owners_alone() {
        let root = tempfile::tempdir().unwrap();
        let directory = AuthorityDirectory::make(root.path(), "red").unwrap();
        let member = directory.certify(&"meta-1".parse().unwrap(), &["meta-1".into()], YEAR).unwrap();
        assert_eq!((mode(&root.path().join(CA_KEY_FILE)), mode(&root.path().join(CA_FILE))), (0o600, 0o644));
        assert_eq!((mode(&member.join(KEY_FILE)), mode(&member.join(CERTIFICATE_FILE))), (0o600, 0o644));
        xdpfs_trust::Trust::open(&member, &[Role::Meta]).unwrap();
    }

    #[test]
    fn authority_is_found_again() {
        let root = tempfile::tempdir().unwrap();
        assert!(!AuthorityDirectory::is_there(root.path()).unwrap());
        AuthorityDirectory::make(root.path(), "red").unwrap();
        assert!(AuthorityDirectory::is_there(root.path()).unwrap());
        let again = AuthorityDirectory::open(root.path()).unwrap();
        let member = "node".parse().unwrap();
        assert_eq!((again.cluster(), again.certificate_of(&member).unwrap()), ("red", None));
        let hosts = ["a".to_owned(), "a".to_owned()];
        again.certify(&member, &hosts, YEAR).unwrap();
        assert_eq!(again.certificate_of(&member).unwrap().unwrap().dns_names, ["a"]);
        fs::remove_file(root.path().join(CA_FILE)).unwrap();
        assert!(AuthorityDirectory::is_there(root.path()).unwrap_err().message.contains("without"));
    }
}
