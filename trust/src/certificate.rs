//! What a certificate says: until when, and whose it is.
//!
//! Invariant: this reads and does not trust. It is asked only about certificates that rustls has verified, and about
//! this process's own.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str,
};

use crate::der::Reader;

const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const ISSUER_UNIQUE_ID: u8 = 0x81;
const SUBJECT_UNIQUE_ID: u8 = 0x82;
const EXTENSIONS: u8 = 0xa3;
/// `id-ce-subjectAltName`, 2.5.29.17.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
const DNS_NAME: u8 = 0x82;
const URI: u8 = 0x86;
const IP_ADDRESS: u8 = 0x87;
/// Names of one certificate.
const NAMES_MAX: usize = 256;

/// What a certificate says of its subject.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Certificate {
    /// Seconds since the Unix epoch from which it holds.
    pub not_before: u64,
    /// The last second in which it holds.
    pub not_after: u64,
    /// Hosts that it names.
    pub dns_names: Vec<String>,
    /// Addresses that it names.
    pub addresses: Vec<IpAddr>,
    /// URIs that it names.
    pub uris: Vec<String>,
}

impl Certificate {
    /// Reads a certificate; `None` if it is none.
    #[must_use]
    pub fn read(der: &[u8]) -> Option<Self> {
        let mut certificate = Reader::new(Reader::new(der).expect(SEQUENCE)?);
        let mut signed = Reader::new(certificate.expect(SEQUENCE)?);
        signed.take(VERSION);
        signed.expect(INTEGER)?;
        signed.expect(SEQUENCE)?;
        let _issuer = signed.expect(SEQUENCE)?;
        let mut validity = Reader::new(signed.expect(SEQUENCE)?);
        let mut read =
            Self { not_before: time(&mut validity)?, not_after: time(&mut validity)?, ..Self::default() };
        let _subject = signed.expect(SEQUENCE)?;
        let _public_key = signed.expect(SEQUENCE)?;
        signed.take(ISSUER_UNIQUE_ID);
        signed.take(SUBJECT_UNIQUE_ID);
        if let Some(extensions) = signed.take(EXTENSIONS) {
            read.names_in(extensions)?;
        }
        Some(read)
    }

    fn names_in(&mut self, extensions: &[u8]) -> Option<()> {
        let mut extensions = Reader::new(Reader::new(extensions).expect(SEQUENCE)?);
        while !extensions.is_at_end() {
            let mut extension = Reader::new(extensions.expect(SEQUENCE)?);
            let id = extension.expect(OBJECT_IDENTIFIER)?;
            extension.take(BOOLEAN);
            let value = extension.expect(OCTET_STRING)?;
            if id == SUBJECT_ALT_NAME {
                self.read_names(value)?;
            }
        }
        Some(())
    }

    fn read_names(&mut self, value: &[u8]) -> Option<()> {
        let mut names = Reader::new(Reader::new(value).expect(SEQUENCE)?);
        for _ in 0..NAMES_MAX {
            if names.is_at_end() {
                return Some(());
            }
            let name = names.next()?;
            match name.tag {
                DNS_NAME => self.dns_names.push(str::from_utf8(name.content).ok()?.to_owned()),
                URI => self.uris.push(str::from_utf8(name.content).ok()?.to_owned()),
                IP_ADDRESS => self.addresses.push(address(name.content)?),
                // Names of other kinds mean nothing here.
                _ => {}
            }
        }
        None
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|bytes| IpAddr::from(Ipv4Addr::from(bytes)));
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(|bytes| Ipv6Addr::from(bytes).into())).ok()
}

/// Seconds since the Unix epoch.
fn time(reader: &mut Reader<'_>) -> Option<u64> {
    let element = reader.next()?;
    let digits = element.content.strip_suffix(b"Z")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |digits: &[u8]| digits.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    let (year, rest) = match element.tag {
        UTC_TIME => {
            let (year, rest) = digits.split_at_checked(2)?;
            let year = number(year);
            // RFC 5280 §4.1.2.5.1.
            (if year >= 50 { 1900 + year } else { 2000 + year }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = digits.split_at_checked(4)?;
            (number(year), rest)
        }
        _ => return None,
    };
    if rest.len() != 10 || year < 1970 {
        return None;
    }
    let part = |at: usize| number(&rest[at..at + 2]);
    let (month, day, hour, minute, second) = (part(0), part(2), part(4), part(6), part(8));
    let is_good =
        (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second < 61;
    is_good.then(|| days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second)
}

/// Days from the Unix epoch to a day of the Gregorian calendar, counting years from March, so that leap days come last.
const fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month = (month + 9) % 12;
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let days = year * 365 + year / 4 - year / 100 + year / 400 + day_of_year;
    // Days from the first of March of the year 0.
    days - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::authority::{Authority, Request};

    #[test]
    fn times_are_seconds_since_the_epoch() {
        let check = |tag: u8, text: &str, expect: Option<u64>| {
            let mut der = vec![tag, text.len() as u8];
            der.extend(text.as_bytes());
            assert_eq!(time(&mut Reader::new(&der)), expect, "{text}");
        };
        check(UTC_TIME, "700101000000Z", Some(0));
        check(UTC_TIME, "700301000001Z", Some(59 * 86_400 + 1));
        check(UTC_TIME, "000229120000Z", Some(951_825_600));
        check(UTC_TIME, "491231235959Z", Some(2_524_607_999));
        check(GENERALIZED_TIME, "20500101000000Z", Some(2_524_608_000));
        check(GENERALIZED_TIME, "99991231235959Z", Some(253_402_300_799));
        for bad in
            ["", "Z", "70010100000Z", "701301000000Z", "700101240000Z", "70010100000aZ", "7001010000+100"]
        {
            check(UTC_TIME, bad, None);
        }
        check(GENERALIZED_TIME, "00000101000000Z", None);
    }

    #[test]
    fn certificate_says_whose_it_is_and_until_when() {
        let authority = Authority::make("red").unwrap();
        let mut request = Request::new("xdpfs://red/meta/1".parse().unwrap(), ["meta-1", "10.0.0.1", "::1"]);
        (request.not_before, request.not_after) = (1_700_000_000, 2_600_000_000);
        let issued = authority.issue(&request).unwrap();
        let read = Certificate::read(&issued.certificate).unwrap();
        let expect = Certificate {
            not_before: 1_700_000_000,
            not_after: 2_600_000_000,
            dns_names: vec!["meta-1".into()],
            addresses: vec!["10.0.0.1".parse().unwrap(), "::1".parse().unwrap()],
            uris: vec!["xdpfs://red/meta/1".into()],
        };
        assert_eq!(read, expect);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _any = Certificate::read(&bytes);
        }

        #[test]
        fn no_damage_makes_it_panic(at in any::<prop::sample::Index>(), value in any::<u8>(), cut in any::<prop::sample::Index>()) {
            static CERTIFICATE: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
                let request = Request::new("xdpfs://red/meta/1".parse().unwrap(), ["meta-1"]);
                Authority::make("red").unwrap().issue(&request).unwrap().certificate.to_vec()
            });
            let mut damaged = CERTIFICATE.clone();
            *at.get_mut(&mut damaged[..]) = value;
            let _any = Certificate::read(&damaged);
            let _any = Certificate::read(&damaged[..cut.index(damaged.len())]);
        }
    }
}
