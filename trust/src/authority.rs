//! The cluster's own certificate authority: one key that says who belongs to the cluster. It is used when certificates
//! are made, by the command line tool, and no server ever has it.

use std::{
    fmt,
    net::IpAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, string::Ia5String,
};
use rustls::{
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use time::OffsetDateTime;

use crate::{
    certificate::Certificate,
    principal::{ClusterName, NameError, Principal},
};

/// What the authority's own certificate says instead of a member's name.
const SCHEME: &str = "xdpfs://";
/// How long an authority lasts.
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How long a certificate lasts unless something else is asked for.
pub const LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);
/// Clocks of hosts differ: a certificate holds from a little before it is made.
const BACKDATED: Duration = Duration::from_secs(3600);

/// A cluster's authority.
pub struct Authority {
    cluster: ClusterName,
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    certificates_pem: String,
}

/// What a certificate is to say.
#[derive(Clone, Debug)]
pub struct Request {
    /// Whose it is.
    pub principal: Principal,
    /// The hosts at which its holder is reached: names and addresses.
    pub hosts: Vec<String>,
    /// Seconds since the Unix epoch.
    pub not_before: u64,
    /// Seconds since the Unix epoch.
    pub not_after: u64,
}

/// A certificate and its key.
pub struct Issued {
    /// The certificate.
    pub certificate: CertificateDer<'static>,
    /// The same as PEM.
    pub certificate_pem: String,
    /// The key as PEM: a secret.
    pub key_pem: String,
}

/// Why there is no authority or no certificate.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The authority's certificate is not one that this program makes.
    #[error("the authority's certificate is not one of an xdpfs cluster")]
    Foreign,
    /// A host can be in no certificate.
    #[error("{0:?} is neither the name of a host nor an address")]
    Host(String),
    /// The key belongs to another certificate.
    #[error("the key does not belong to the authority's certificate")]
    Key,
    /// A name can be in no certificate.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The key or the certificate is damaged.
    #[error("the authority's key or certificate cannot be read")]
    Malformed,
    /// A certificate cannot be made.
    #[error("the certificate cannot be made")]
    Make(#[from] rcgen::Error),
}

impl Request {
    /// For a member that is reached at `hosts`, from now on and for as long as usual.
    pub fn new<H: Into<String>>(principal: Principal, hosts: impl IntoIterator<Item = H>) -> Self {
        let now = now();
        Self {
            principal,
            hosts: hosts.into_iter().map(Into::into).collect(),
            not_before: now.saturating_sub(BACKDATED.as_secs()),
            not_after: now + LIFETIME.as_secs(),
        }
    }

    /// The same with another lifetime.
    #[must_use]
    pub fn lasting(self, lifetime: Duration) -> Self {
        Self { not_after: now() + lifetime.as_secs(), ..self }
    }
}

impl Authority {
    /// Makes a new authority with a new key.
    ///
    /// # Errors
    /// The cluster cannot be called so, or the system has no randomness.
    pub fn make(cluster: &str) -> Result<Self, AuthorityError> {
        let cluster: ClusterName = cluster.parse()?;
        let key = KeyPair::generate()?;
        let mut params = params(&cluster)?;
        let now = now();
        params.not_before = timestamp(now.saturating_sub(BACKDATED.as_secs()))?;
        params.not_after = timestamp(now + AUTHORITY_LIFETIME.as_secs())?;
        params.subject_alt_names = vec![SanType::URI(ia5(&format!("{SCHEME}{cluster}"))?)];
        let certificate = params.self_signed(&key)?;
        Ok(Self {
            issuer: Issuer::new(params, key),
            certificate: certificate.der().clone(),
            certificates_pem: certificate.pem(),
            cluster,
        })
    }

    /// An authority that was made before, from its key and from certificates, one of which is its own.
    ///
    /// # Errors
    /// None of them is, or something is damaged.
    pub fn open(certificates_pem: &str, key_pem: &str) -> Result<Self, AuthorityError> {
        let mut outcome = AuthorityError::Malformed;
        for certificate in CertificateDer::pem_slice_iter(certificates_pem.as_bytes()) {
            let certificate = certificate.map_err(|_| AuthorityError::Malformed)?;
            let key =
                PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|_| AuthorityError::Malformed)?;
            let chain = vec![certificate.clone()];
            if CertifiedKey::from_der(chain, key, &ring::default_provider()).is_err() {
                outcome = AuthorityError::Key;
                continue;
            }
            let read = Certificate::read(&certificate).ok_or(AuthorityError::Malformed)?;
            let cluster = read.uris.iter().find_map(|uri| uri.strip_prefix(SCHEME));
            let cluster: ClusterName = cluster.ok_or(AuthorityError::Foreign)?.parse()?;
            let issuer = Issuer::new(params(&cluster)?, KeyPair::from_pem(key_pem)?);
            let certificates_pem = certificates_pem.to_owned();
            return Ok(Self { cluster, issuer, certificate, certificates_pem });
        }
        Err(outcome)
    }

    /// The cluster whose members it names.
    #[must_use]
    pub const fn cluster(&self) -> &ClusterName {
        &self.cluster
    }

    /// Its certificate, which all members and clients have.
    #[must_use]
    pub const fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The same as PEM, with those of other authorities that it was opened with.
    #[must_use]
    pub fn certificates_pem(&self) -> &str {
        &self.certificates_pem
    }

    /// Its key as PEM: the cluster's greatest secret.
    #[must_use]
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Makes a key and a certificate for it.
    ///
    /// # Errors
    /// A host makes no sense, or the system has no randomness.
    pub fn issue(&self, request: &Request) -> Result<Issued, AuthorityError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, request.principal.to_string());
        params.not_before = timestamp(request.not_before)?;
        params.not_after = timestamp(request.not_after)?;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let hosts = request.hosts.iter().map(|host| host_name(host));
        params.subject_alt_names = hosts.collect::<Result<_, _>>()?;
        params.subject_alt_names.push(SanType::URI(ia5(&request.principal.to_string())?));
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Issued {
            certificate_pem: certificate.pem(),
            certificate: certificate.der().clone(),
            key_pem: key.serialize_pem(),
        })
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued").field("certificate", &self.certificate_pem).finish_non_exhaustive()
    }
}

/// What makes an authority: the same each time, since members' certificates name it by that.
fn params(cluster: &ClusterName) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("xdpfs cluster {cluster}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn host_name(host: &str) -> Result<SanType, AuthorityError> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let is_name = rustls::pki_types::DnsName::try_from(host).is_ok();
    if is_name { Ok(SanType::DnsName(ia5(host)?)) } else { Err(AuthorityError::Host(host.to_owned())) }
}

fn ia5(text: &str) -> Result<Ia5String, AuthorityError> {
    Ok(Ia5String::try_from(text)?)
}

fn timestamp(seconds: u64) -> Result<OffsetDateTime, AuthorityError> {
    let seconds = i64::try_from(seconds).ok();
    let time = seconds.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    time.ok_or(AuthorityError::Make(rcgen::Error::Time))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authority_goes_on_with_its_key() {
        let first = Authority::make("red").unwrap();
        let other = Authority::make("red").unwrap();
        let both = format!("{}{}", other.certificates_pem(), first.certificates_pem());
        let again = Authority::open(&both, &first.key_pem()).unwrap();
        assert_eq!((again.cluster(), again.certificate()), (first.cluster(), first.certificate()));
        assert!(format!("{again:?}").len() < 100, "{again:?}");
    }

    #[test]
    fn key_of_another_authority_is_refused() {
        let (first, other) = (Authority::make("red").unwrap(), Authority::make("red").unwrap());
        let error = Authority::open(first.certificates_pem(), &other.key_pem()).unwrap_err();
        assert!(matches!(error, AuthorityError::Key), "{error:?}");
        assert!(Authority::open("", &other.key_pem()).is_err());
        assert!(Authority::open(first.certificates_pem(), "nonsense").is_err());
        let member = first.issue(&Request::new("xdpfs://red/node".parse().unwrap(), [""; 0])).unwrap();
        assert!(
            Authority::open(&member.certificate_pem, &member.key_pem).is_err(),
            "a member is no authority"
        );
    }

    #[test]
    fn hosts_that_make_no_sense_are_named() {
        let authority = Authority::make("red").unwrap();
        for bad in ["", "a b", "http://a", "a:7001", "ü"] {
            let request = Request::new("xdpfs://red/meta/1".parse().unwrap(), [bad]);
            let error = authority.issue(&request).unwrap_err();
            assert!(matches!(error, AuthorityError::Host(_)), "{bad:?}: {error:?}");
        }
    }
}
