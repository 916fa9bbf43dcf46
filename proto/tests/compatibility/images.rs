//! Messages with every field set, written by one release and read by another.

use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage as _,
    Value, prost::Message as _,
};

/// Messages within messages are filled down to here; some hold their own kind.
const DEPTH_MAX: u32 = 4;

/// Which of the two reads.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Reader {
    /// It may meet fields that it does not know.
    Earlier,
    /// It knows all of them.
    Later,
}

/// Has each message that both know written by `writer` and read by `reader`. Gives how many there were.
pub(crate) fn exchange(writer: &DescriptorPool, reader: &DescriptorPool, is: Reader) -> usize {
    let mut count = 0;
    for written_as in writer.all_messages().filter(|message| !message.is_map_entry()) {
        let Some(read_as) = reader.get_message_by_name(written_as.full_name()) else { continue };
        let choices = written_as.oneofs().map(|choice| choice.fields().len()).max().unwrap_or(1);
        for choice in 0..choices {
            let name = format!("{} (choice {choice})", written_as.full_name());
            let written = filled(&written_as, choice, 0);
            let bytes = written.encode_to_vec();
            let read = DynamicMessage::decode(read_as.clone(), &bytes[..])
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            if is == Reader::Later {
                assert_eq!(read.unknown_fields().count(), 0, "{name} has fields that are not known any more");
                assert_eq!(read.encode_to_vec(), bytes, "{name} is not written as it was read");
            }
            assert_same(&name, &written, &read);
            count += 1;
        }
    }
    count
}

/// What both know has the same value.
fn assert_same(name: &str, written: &DynamicMessage, read: &DynamicMessage) {
    for field in read.descriptor().fields() {
        let Some(same) = written.descriptor().get_field(field.number()) else { continue };
        let (before, after) = (written.get_field(&same), read.get_field(&field));
        assert_eq!(written.has_field(&same), read.has_field(&field), "{name}: {}", field.full_name());
        match (&*before, &*after) {
            (Value::Message(before), Value::Message(after)) => assert_same(name, before, after),
            (Value::List(before), Value::List(after)) => {
                assert_eq!(before.len(), after.len(), "{name}: {}", field.full_name());
                for pair in before.iter().zip(after) {
                    match pair {
                        (Value::Message(before), Value::Message(after)) => assert_same(name, before, after),
                        (before, after) => assert_eq!(before, after, "{name}: {}", field.full_name()),
                    }
                }
            }
            (before, after) => assert_eq!(before, after, "{name}: {}", field.full_name()),
        }
    }
}

/// A message with every field set; of those of which only one can be, the one with this number among them.
fn filled(message: &MessageDescriptor, choice: usize, depth: u32) -> DynamicMessage {
    let mut filled = DynamicMessage::new(message.clone());
    for field in message.fields() {
        let is_chosen = field.containing_oneof().is_none_or(|among| {
            among.fields().nth(choice % among.fields().len()).is_some_and(|chosen| chosen == field)
        });
        let is_too_deep = depth >= DEPTH_MAX && field.kind().as_message().is_some();
        if is_chosen && !is_too_deep {
            filled.set_field(&field, value(&field, choice, depth));
        }
    }
    filled
}

fn value(field: &FieldDescriptor, choice: usize, depth: u32) -> Value {
    if let Some(entry) = field.kind().as_message().filter(|_| field.is_map()) {
        let (key, value) = (entry.map_entry_key_field(), entry.map_entry_value_field());
        let value = scalar(&value.kind(), field.number(), choice, depth);
        return Value::Map([(map_key(&key.kind(), field.number()), value)].into());
    }
    let one = || scalar(&field.kind(), field.number(), choice, depth);
    if field.is_list() { Value::List(vec![one(), one()]) } else { one() }
}

fn map_key(kind: &Kind, number: u32) -> MapKey {
    match scalar(kind, number, 0, 0) {
        Value::Bool(key) => MapKey::Bool(key),
        Value::I32(key) => MapKey::I32(key),
        Value::I64(key) => MapKey::I64(key),
        Value::U32(key) => MapKey::U32(key),
        Value::U64(key) => MapKey::U64(key),
        Value::String(key) => MapKey::String(key),
        other => panic!("no map has such keys: {other:?}"),
    }
}

fn scalar(kind: &Kind, number: u32, choice: usize, depth: u32) -> Value {
    match kind {
        Kind::Double => Value::F64(f64::from(number) + 0.5),
        Kind::Float => Value::F32(number as f32 + 0.5),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(-(number as i32)),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(-i64::from(number) << 33),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(number + 1_000_000),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(u64::from(number) << 33),
        Kind::Bool => Value::Bool(true),
        Kind::String => Value::String(format!("text {number}")),
        Kind::Bytes => Value::Bytes(vec![0xff, number as u8, 0].into()),
        Kind::Message(message) => Value::Message(filled(message, choice, depth + 1)),
        Kind::Enum(values) => Value::EnumNumber(values.values().last().map_or(0, |value| value.number())),
    }
}
