//! The trait's attributes as content type and user metadata, and back.
//!
//! Invariant: what was written comes back the same, or the write is refused.

use std::collections::BTreeMap;

use object_store::{Attribute, Attributes, Error};

/// Those that HTTP has headers for are user metadata under the header's name.
const HEADERS: [(&str, Attribute); 4] = [
    ("Cache-Control", Attribute::CacheControl),
    ("Content-Disposition", Attribute::ContentDisposition),
    ("Content-Encoding", Attribute::ContentEncoding),
    ("Content-Language", Attribute::ContentLanguage),
];

/// Content type and user metadata.
pub(crate) type Words = (String, BTreeMap<String, String>);

pub(crate) fn to_words(attributes: &Attributes) -> Result<Words, Error> {
    let (mut content_type, mut metadata) = (String::new(), BTreeMap::new());
    for (attribute, value) in attributes {
        let value = value.as_ref().to_owned();
        let name = match attribute {
            Attribute::ContentType => {
                content_type = value;
                continue;
            }
            Attribute::Metadata(name) if header(name).is_none() => name.as_ref().to_owned(),
            Attribute::Metadata(name) => {
                return Err(unsupported(format!("{name} is an attribute of its own, not metadata")));
            }
            other => match HEADERS.iter().find(|(_, header)| header == other) {
                Some((name, _)) => (*name).to_owned(),
                None => return Err(unsupported(format!("there is no attribute {other:?}"))),
            },
        };
        metadata.insert(name, value);
    }
    Ok((content_type, metadata))
}

pub(crate) fn from_words(content_type: String, metadata: BTreeMap<String, String>) -> Attributes {
    let mut attributes = Attributes::new();
    if !content_type.is_empty() {
        attributes.insert(Attribute::ContentType, content_type.into());
    }
    for (name, value) in metadata {
        let attribute = header(&name).unwrap_or_else(|| Attribute::Metadata(name.into()));
        attributes.insert(attribute, value.into());
    }
    attributes
}

fn header(name: &str) -> Option<Attribute> {
    HEADERS.iter().find(|(header, _)| *header == name).map(|(_, attribute)| attribute.clone())
}

fn unsupported(why: String) -> Error {
    Error::NotSupported { source: why.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_come_back_as_they_were_written() {
        let attributes = Attributes::from_iter([
            (Attribute::CacheControl, "no-store"),
            (Attribute::ContentType, "text/plain"),
            (Attribute::Metadata("cache-control".into()), "a word of the user's"),
        ]);
        let (content_type, metadata) = to_words(&attributes).unwrap();
        assert_eq!(content_type, "text/plain");
        assert_eq!(metadata.keys().collect::<Vec<_>>(), ["Cache-Control", "cache-control"]);
        assert_eq!(from_words(content_type, metadata), attributes);
    }

    #[test]
    fn what_would_come_back_as_something_else_is_refused() {
        for attribute in [Attribute::StorageClass, Attribute::Metadata("Cache-Control".into())] {
            let refused = to_words(&Attributes::from_iter([(attribute.clone(), "x")]));
            assert!(matches!(refused, Err(Error::NotSupported { .. })), "{attribute:?}");
        }
    }
}
