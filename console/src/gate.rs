//! Which requests are heard at all, whoever sends them. Pure.
//!
//! A browser sends what it remembers of a visitor with every request to this server, whoever has caused it. So what
//! another site causes is refused: it could not read the answers, but it could have them made.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderName, header::HOST};

use crate::Names;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Why a request is not heard.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum Unheard {
    /// It was caused by a page of somebody else's.
    #[error("another site has caused this request")]
    CrossSite,
    /// It is for a server of another name.
    #[error(
        "this server does not go by this name: use its address, or the name that the cluster knows it by"
    )]
    WrongName,
}

/// Whether what it asks for may be told to the page that asks. Browsers say where a request comes from; programs don't,
/// and send no more than they are told to.
pub(crate) fn check_site(headers: &HeaderMap) -> Result<(), Unheard> {
    let mut said = headers.get_all(SEC_FETCH_SITE).iter();
    let is_own = said.all(|site| matches!(site.as_bytes(), b"none" | b"same-origin"));
    if is_own { Ok(()) } else { Err(Unheard::CrossSite) }
}

/// Whether the browser has meant this server.
pub(crate) fn check_name(headers: &HeaderMap, names: &Names) -> Result<(), Unheard> {
    let Names::These(names) = names else { return Ok(()) };
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return Err(Unheard::WrongName) };
    let host = host.to_str().map_err(|_| Unheard::WrongName)?;
    let name = without_port(host).to_ascii_lowercase();
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(&name);
    // An address can't be made to stand for another one.
    let is_ours = bare.parse::<IpAddr>().is_ok() || bare == "localhost" || names.contains(bare);
    if is_ours { Ok(()) } else { Err(Unheard::WrongName) }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_other_sites_cause_is_refused() {
        let check = |site: Option<&'static str>, expect| {
            let headers =
                site.into_iter().map(|site| (SEC_FETCH_SITE, site.parse().unwrap())).collect::<HeaderMap>();
            assert_eq!(check_site(&headers), expect, "{site:?}");
        };
        check(None, Ok(()));
        check(Some("none"), Ok(()));
        check(Some("same-origin"), Ok(()));
        check(Some("same-site"), Err(Unheard::CrossSite));
        check(Some("cross-site"), Err(Unheard::CrossSite));
        check(Some("anything"), Err(Unheard::CrossSite));
    }

    #[test]
    fn names_that_could_be_anybodys_are_refused_in_plaintext() {
        let names = Names::These(["meta-1".to_owned()].into());
        let check = |host: &str, expect| {
            let headers = HeaderMap::from_iter([(HOST, host.parse().unwrap())]);
            assert_eq!(check_name(&headers, &names).is_ok(), expect, "{host}");
            assert_eq!(check_name(&headers, &Names::OfCertificate), Ok(()), "{host}");
        };
        for ours in
            ["127.0.0.1:8080", "127.0.0.1", "[::1]:80", "[::1]", "localhost:1", "LOCALHOST", "Meta-1:80"]
        {
            check(ours, true);
        }
        for theirs in
            ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "meta-1.evil", "", ":80"]
        {
            check(theirs, false);
        }
        assert_eq!(check_name(&HeaderMap::new(), &names), Err(Unheard::WrongName));
    }
}
