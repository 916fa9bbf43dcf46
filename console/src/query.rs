//! What a request asks for, behind the question mark. Pure.
//!
//! Names travel there and not in the path: no browser and no proxy tidies `..` or `//` away.

use percent_encoding::percent_decode_str;

/// Parameters of one request.
const PARAMETERS_MAX: usize = 16;

/// The parameters of a request.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Query(Vec<(String, String)>);

/// A query that makes no sense.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum QueryError {
    #[error("the query is not UTF-8 in percent-encoding")]
    Encoding,
    #[error("the query has no parameter {0}")]
    Missing(&'static str),
    #[error("{0} is not a number")]
    NotANumber(&'static str),
    #[error("the query has more than {PARAMETERS_MAX} parameters")]
    TooMany,
    #[error("a parameter is there twice")]
    Twice,
}

impl Query {
    pub(crate) fn parse(query: Option<&str>) -> Result<Self, QueryError> {
        let mut parameters: Vec<(String, String)> = Vec::new();
        for part in query.unwrap_or_default().split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let (name, value) = (decode(name)?, decode(value)?);
            if parameters.iter().any(|(other, _)| *other == name) {
                return Err(QueryError::Twice);
            }
            if parameters.len() == PARAMETERS_MAX {
                return Err(QueryError::TooMany);
            }
            parameters.push((name, value));
        }
        Ok(Self(parameters))
    }

    /// Empty is as good as absent.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        let value = self.0.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str());
        value.filter(|value| !value.is_empty())
    }

    pub(crate) fn needed(&self, name: &'static str) -> Result<&str, QueryError> {
        self.text(name).ok_or(QueryError::Missing(name))
    }

    pub(crate) fn number(&self, name: &'static str) -> Result<Option<u64>, QueryError> {
        let number = |text: &str| text.parse().map_err(|_| QueryError::NotANumber(name));
        self.text(name).map(number).transpose()
    }
}

/// As forms are encoded: a plus is a blank.
fn decode(text: &str) -> Result<String, QueryError> {
    let text = text.replace('+', " ");
    let decoded = percent_decode_str(&text).decode_utf8().map_err(|_| QueryError::Encoding)?;
    Ok(decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_through_as_they_are() {
        let check = |encoded: &str, expect: &str| {
            let query = Query::parse(Some(&format!("bucket=data&key={encoded}"))).unwrap();
            assert_eq!((query.text("bucket"), query.text("key")), (Some("data"), Some(expect)));
        };
        check("a%2Fb%2F..%2F..%2Fc", "a/b/../../c");
        check("../../etc/passwd", "../../etc/passwd");
        check("%22%3Cscript%3E'", "\"<script>'");
        check("a+b%2Bc", "a b+c");
        check("%C3%BC%F0%9F%90%8B", "ü🐋");
        check("a%0Ab%0D%0Ac", "a\nb\r\nc");
        check("100%25=x", "100%=x");
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(Query::parse(Some("key=%ff")), Err(QueryError::Encoding));
        assert_eq!(Query::parse(Some("key=a&key=b")), Err(QueryError::Twice));
        let many: Vec<_> = (0..17).map(|number| format!("p{number}=")).collect();
        assert_eq!(Query::parse(Some(&many.join("&"))), Err(QueryError::TooMany));
        let query = Query::parse(Some("limit=ten&after=&&")).unwrap();
        assert_eq!(query.number("limit"), Err(QueryError::NotANumber("limit")));
        assert_eq!(query.number("after"), Ok(None));
        assert_eq!(query.needed("bucket"), Err(QueryError::Missing("bucket")));
    }
}
