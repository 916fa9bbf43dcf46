//! What may change between two releases: things are added, and nothing else happens to what is there.

use prost_reflect::{DescriptorPool, EnumDescriptor, FieldDescriptor, MessageDescriptor, ServiceDescriptor};

/// What in `later` contradicts `earlier`, in words.
pub(crate) fn breaches(earlier: &DescriptorPool, later: &DescriptorPool) -> Vec<String> {
    let mut found = Vec::new();
    for message in earlier.all_messages() {
        match later.get_message_by_name(message.full_name()) {
            Some(later) => compare_messages(&message, &later, &mut found),
            None => found.push(format!("message {} is gone", message.full_name())),
        }
    }
    for earlier in earlier.all_enums() {
        match later.get_enum_by_name(earlier.full_name()) {
            Some(later) => compare_enums(&earlier, &later, &mut found),
            None => found.push(format!("enum {} is gone", earlier.full_name())),
        }
    }
    for earlier in earlier.services() {
        match later.get_service_by_name(earlier.full_name()) {
            Some(later) => compare_services(&earlier, &later, &mut found),
            None => found.push(format!("service {} is gone", earlier.full_name())),
        }
    }
    found
}

fn compare_messages(earlier: &MessageDescriptor, later: &MessageDescriptor, found: &mut Vec<String>) {
    for field in earlier.fields() {
        let number = field.number();
        match later.get_field(number) {
            Some(same) if shape(&same) == shape(&field) => {}
            Some(other) => {
                found.push(format!("{} was {}, and is {}", field.full_name(), shape(&field), shape(&other)));
            }
            None if later.reserved_ranges().any(|range| range.contains(&number)) => {}
            None => found.push(format!("{} is gone, and {number} is not reserved", field.full_name())),
        }
    }
    for field in later.fields() {
        let is_taken = earlier.reserved_ranges().any(|range| range.contains(&field.number()));
        if is_taken || earlier.reserved_names().any(|name| name == field.name()) {
            found.push(format!("{} takes what was reserved", field.full_name()));
        }
    }
}

/// All that a reader goes by, and the name, since another one would mean something else.
fn shape(field: &FieldDescriptor) -> String {
    let (name, kind) = (field.name(), field.kind());
    let kind = kind
        .as_message()
        .map(|message| message.full_name().to_owned())
        .or_else(|| kind.as_enum().map(|one| one.full_name().to_owned()))
        .unwrap_or_else(|| format!("{kind:?}"));
    let choice = field.containing_oneof().map(|choice| format!(" in {}", choice.name())).unwrap_or_default();
    format!("{name}: {:?} {kind}{choice}", field.cardinality())
}

fn compare_enums(earlier: &EnumDescriptor, later: &EnumDescriptor, found: &mut Vec<String>) {
    for value in earlier.values() {
        let number = value.number();
        match later.get_value(number) {
            Some(same) if same.name() == value.name() => {}
            Some(other) => found.push(format!("{} is {}", value.full_name(), other.name())),
            None if later.reserved_ranges().any(|range| range.contains(&number)) => {}
            None => found.push(format!("{} is gone, and {number} is not reserved", value.full_name())),
        }
    }
}

fn compare_services(earlier: &ServiceDescriptor, later: &ServiceDescriptor, found: &mut Vec<String>) {
    for method in earlier.methods() {
        let signature = |method: &prost_reflect::MethodDescriptor| {
            let (input, output) = (method.input(), method.output());
            let names = [input.full_name(), output.full_name()].map(str::to_owned);
            (names, method.is_client_streaming(), method.is_server_streaming())
        };
        match later.methods().find(|later| later.name() == method.name()) {
            Some(same) if signature(&same) == signature(&method) => {}
            Some(_) => found.push(format!("{} takes or gives something else", method.full_name())),
            None => found.push(format!("{} is gone", method.full_name())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const EARLIER: &str = "
        message M {
          reserved 9;
          reserved 'old';
          uint32 id = 1;
          repeated string names = 2;
          oneof what { bytes data = 3; E kind = 4; }
        }
        enum E { NONE = 0; ONE = 1; }
        service S { rpc Do(M) returns (M); }";

    fn pool(text: &str) -> DescriptorPool {
        let directory = tempfile::tempdir().unwrap();
        let text = format!("syntax = \"proto3\"; package p;{text}");
        fs::write(directory.path().join("p.proto"), text).unwrap();
        let files = protox::compile(["p.proto"], [directory.path()]).unwrap();
        DescriptorPool::from_file_descriptor_set(files).unwrap()
    }

    #[test]
    fn additions_are_no_breach_and_everything_else_is() {
        let check = |from: &str, to: &str, expect: &[&str]| {
            assert!(EARLIER.contains(from), "{from}");
            let found = breaches(&pool(EARLIER), &pool(&EARLIER.replacen(from, to, 1)));
            let fits = found.len() == expect.len()
                && found.iter().zip(expect).all(|(found, expect)| found.contains(expect));
            assert!(fits, "{from} → {to}: {found:?}, not {expect:?}");
        };
        check("uint32 id = 1;", "uint32 id = 1; uint32 more = 80;", &[]);
        check("ONE = 1;", "ONE = 1; TWO = 2;", &[]);
        check("kind = 4;", "kind = 4; M next = 5;", &[]);
        check("returns (M);", "returns (M); rpc More(M) returns (stream M);", &[]);
        check("uint32 id = 1;", "reserved 1;", &[]);
        check("uint32 id = 1;", "", &["p.M.id is gone"]);
        check("uint32 id = 1;", "uint64 id = 1;", &["uint64"]);
        check("uint32 id = 1;", "repeated uint32 id = 1;", &["Repeated"]);
        check("uint32 id = 1;", "optional uint32 id = 1;", &["_id"]);
        check("uint32 id = 1;", "uint32 other = 1;", &["other"]);
        check("uint32 id = 1;", "uint32 id = 6;", &["p.M.id is gone"]);
        check("E kind = 4;", "} E kind = 4; oneof other { M next = 5;", &["kind"]);
        check("bytes data = 3;", "M data = 3;", &["p.M in what"]);
        check("reserved 9;", "uint32 nine = 9;", &["takes what was reserved"]);
        check("reserved 'old';", "uint32 old = 10;", &["takes what was reserved"]);
        check("ONE = 1;", "", &["ONE is gone"]);
        check("ONE = 1;", "UN = 1;", &["is UN"]);
        check("rpc Do(M) returns (M);", "", &["p.S.Do is gone"]);
        check("returns (M);", "returns (stream M);", &["something else"]);
    }
}
