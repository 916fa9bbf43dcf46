//! Whose a certificate is: a cluster, a role in it and perhaps a name, written as `xdpfs://CLUSTER/ROLE/NAME`.
//!
//! Invariant: a certificate has one such name or none; with two of them it has none.

use std::{fmt, str::FromStr};

use crate::certificate::Certificate;

const SCHEME: &str = "xdpfs://";
/// Bytes of a cluster's or a member's name.
const NAME_LEN_MAX: usize = 63;

/// What the holder of a certificate is to the cluster.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Role {
    /// A host that stands before data nodes.
    Edge,
    /// A process that serves clients on their own behalf. It has no more rights than they have.
    Gateway,
    /// A metadata server.
    Meta,
    /// A data node.
    Node,
}

/// The holder of a certificate.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Principal {
    /// The cluster that it belongs to.
    pub cluster: ClusterName,
    /// What it is there.
    pub role: Role,
    /// Which one: a metadata server's id, for example. None: any of that role.
    pub name: Option<String>,
}

/// A cluster, as certificates name it: up to 63 of a-z, 0-9, `.`, `-` and `_`.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct ClusterName(String);

/// A name that no certificate can have.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NameError {
    /// The cluster's name.
    #[error("{0:?} is no name for a cluster: write up to 63 of a-z, 0-9, '.', '-' and '_'")]
    Cluster(String),
    /// A member's name.
    #[error("{0:?} is no name for a member: write up to 63 of a-z, 0-9, '.', '-' and '_'")]
    Member(String),
    /// The role.
    #[error("{0:?} is no role: write meta, node, edge or gateway")]
    Role(String),
    /// Not of the form at all.
    #[error("{0:?} is not xdpfs://CLUSTER/ROLE or xdpfs://CLUSTER/ROLE/NAME")]
    Shape(String),
}

impl Role {
    /// All of them.
    pub const ALL: &'static [Self] = &[Self::Edge, Self::Gateway, Self::Meta, Self::Node];

    /// Its name in certificates.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Edge => "edge",
            Self::Gateway => "gateway",
            Self::Meta => "meta",
            Self::Node => "node",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl FromStr for Role {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let role = Self::ALL.iter().find(|role| role.label() == text);
        role.copied().ok_or_else(|| NameError::Role(text.to_owned()))
    }
}

impl ClusterName {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ClusterName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if is_plain(text) { Ok(Self(text.to_owned())) } else { Err(NameError::Cluster(text.to_owned())) }
    }
}

impl Principal {
    /// A principal with a name.
    ///
    /// # Errors
    /// The name cannot be one.
    pub fn named(cluster: ClusterName, role: Role, name: &str) -> Result<Self, NameError> {
        if !is_plain(name) {
            return Err(NameError::Member(name.to_owned()));
        }
        Ok(Self { cluster, role, name: Some(name.to_owned()) })
    }

    /// The holder of a certificate; `None` if it names none, or more than one.
    #[must_use]
    pub fn of(certificate: &Certificate) -> Option<Self> {
        let mut ours = certificate.uris.iter().filter(|uri| uri.starts_with(SCHEME));
        let principal = ours.next()?.parse().ok()?;
        ours.next().is_none().then_some(principal)
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.cluster, self.role)?;
        self.name.as_ref().map_or(Ok(()), |name| write!(f, "/{name}"))
    }
}

impl FromStr for Principal {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let shape = || NameError::Shape(text.to_owned());
        let mut parts = text.strip_prefix(SCHEME).ok_or_else(shape)?.split('/');
        let cluster = parts.next().ok_or_else(shape)?.parse()?;
        let role = parts.next().ok_or_else(shape)?.parse()?;
        let principal = match parts.next() {
            Some(name) => Self::named(cluster, role, name)?,
            None => Self { cluster, role, name: None },
        };
        if parts.next().is_some() { Err(shape()) } else { Ok(principal) }
    }
}

fn is_plain(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-_".contains(c);
    // A name becomes a directory's, too.
    !name.is_empty() && name.len() <= NAME_LEN_MAX && !name.starts_with('.') && name.chars().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for good in
            ["xdpfs://red/meta/1", "xdpfs://red.example/node", "xdpfs://r/edge/host-7", "xdpfs://r/gateway"]
        {
            let principal: Principal = good.parse().unwrap();
            assert_eq!(principal.to_string(), good);
        }
    }

    #[test]
    fn other_names_are_refused() {
        let long = format!("xdpfs://{}/meta", "c".repeat(64));
        for bad in [
            "",
            "xdpfs://",
            "xdpfs://red",
            "xdpfs://red/",
            "xdpfs:///meta",
            "xdpfs://red/root",
            "xdpfs://red/META",
            "xdpfs://red/meta/",
            "xdpfs://red/meta/1/2",
            "xdpfs://Red/meta",
            "xdpfs://red/meta/..",
            "xdpfs://red/meta/a%20b",
            "https://red/meta",
            &long,
        ] {
            assert!(bad.parse::<Principal>().is_err(), "{bad}");
        }
    }

    #[test]
    fn two_names_are_none() {
        let of = |uris: &[&str]| {
            let uris = uris.iter().map(|uri| (*uri).to_owned()).collect();
            Principal::of(&Certificate { uris, ..Certificate::default() })
        };
        assert_eq!(of(&["https://other", "xdpfs://red/node"]), Some("xdpfs://red/node".parse().unwrap()));
        assert_eq!(of(&["xdpfs://red/node", "xdpfs://red/meta"]), None);
        assert_eq!(of(&["xdpfs://red/node", "xdpfs://nonsense"]), None);
        assert_eq!(of(&[]), None);
    }
}
