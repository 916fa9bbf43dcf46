//! What a simulation has done, a line each: segments of connections, what servers and clients say of themselves, and the
//! clients' operations.
//!
//! Invariant: nothing is left out of a segment but what its checksum stands for, so that two runs that have the same trace
//! have sent the same bytes.

use std::{
    collections::BTreeMap,
    fmt::{Debug, Write as _},
    fs::File,
    io::{BufWriter, Write as _},
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::{Mutex, OnceLock, PoisonError},
};

use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id},
};
use tracing_subscriber::{
    Layer, Registry,
    layer::{Context, SubscriberExt as _},
    registry::LookupSpan,
};

use super::machine;
use crate::storage::crc32c;

/// What the simulated network says of itself.
const NETWORK: &str = "turmoil";
/// Characters by which the simulated network writes a segment that is full, or nearly.
const BULK: usize = 15_000 * "0xFF, ".len();

static TRACE: OnceLock<Mutex<Trace>> = OnceLock::new();

struct Trace {
    file: Option<BufWriter<File>>,
    /// How often each of the servers' and clients' messages was said.
    counts: BTreeMap<String, u64>,
    /// Large segments that were sent, by where to.
    bulk: BTreeMap<IpAddr, u64>,
}

/// Writes to this file from here on; without one, only counts.
pub(super) fn begin(file: Option<&Path>) {
    let file = file.map(|file| BufWriter::new(File::create(file).expect("a trace can be written")));
    let is_first =
        TRACE.set(Mutex::new(Trace { file, counts: BTreeMap::new(), bulk: BTreeMap::new() })).is_ok();
    assert!(is_first, "a process has one simulation");
    tracing::subscriber::set_global_default(Registry::default().with(Recording)).expect("it is the first");
}

/// Notes what somebody does.
pub(super) fn note(who: &str, what: &str) {
    with(|trace| trace.write(who, what));
}

/// How often this message was said.
pub(super) fn count(message: &str) -> u64 {
    with(|trace| trace.counts.get(message).copied()).unwrap_or_default()
}

/// How many large segments were sent to this host.
pub(super) fn bulk(to: IpAddr) -> u64 {
    with(|trace| trace.bulk.get(&to).copied()).unwrap_or_default()
}

/// Everything is in the file.
pub(super) fn flush() {
    with(|trace| trace.file.as_mut().map(|file| file.flush().expect("a trace can be written")));
}

fn with<T: Default>(act: impl FnOnce(&mut Trace) -> T) -> T {
    let trace = TRACE.get().map(|trace| trace.lock().unwrap_or_else(PoisonError::into_inner));
    trace.map(|mut trace| act(&mut trace)).unwrap_or_default()
}

impl Trace {
    fn write(&mut self, who: &str, what: &str) {
        let Some(file) = &mut self.file else { return };
        let ms = machine::elapsed().as_millis();
        writeln!(file, "{ms:>6} {who:<8} {what}").expect("a trace can be written");
    }
}

struct Recording;

/// The host that a span belongs to.
struct Host(String);

fn is_of_interest(metadata: &Metadata<'_>) -> bool {
    if metadata.is_span() {
        return metadata.name() == "node";
    }
    match metadata.target().split("::").next() {
        Some(NETWORK) => true,
        Some(target) => target.starts_with("xdpfs") && *metadata.level() <= Level::DEBUG,
        None => false,
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Recording {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        is_of_interest(metadata)
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut words = Words::default();
        attributes.record(&mut words);
        if let (Some(span), Some(name)) = (context.span(id), words.host) {
            span.extensions_mut().insert(Host(name));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let of_network = event.metadata().target() == NETWORK;
        let mut words = Words { of_network, ..Words::default() };
        event.record(&mut words);
        let host = context.lookup_current().and_then(|span| Some(span.extensions().get::<Host>()?.0.clone()));
        let who = host.as_deref().unwrap_or("-");
        with(|trace| {
            if of_network {
                // The steps themselves are the times before every line.
                if let Some(to) = words.bulk_to.filter(|_| words.message == "Send") {
                    *trace.bulk.entry(to.ip()).or_default() += 1;
                }
                if !words.message.starts_with("step ") {
                    trace.write(who, &format!("{}{}", words.message, words.fields));
                }
                return;
            }
            trace.write(who, &format!("{} {}{}", event.metadata().level(), words.message, words.fields));
            *trace.counts.entry(words.message).or_default() += 1;
        });
    }
}

#[derive(Default)]
struct Words {
    of_network: bool,
    host: Option<String>,
    message: String,
    fields: String,
    dst: Option<SocketAddr>,
    /// Where it goes to, if it is a large segment.
    bulk_to: Option<SocketAddr>,
}

impl Visit for Words {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "name" {
            self.host = Some(value.to_owned());
        }
        self.record_debug(field, &value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let value = format!("{value:?}");
        let written = match field.name() {
            "message" => {
                self.message = value;
                return;
            }
            "protocol" if self.of_network => {
                let (kind, bytes) = value.split_once('[').unwrap_or((&value, ""));
                self.bulk_to = self.dst.filter(|_| bytes.len() >= BULK);
                write!(self.fields, " {} {} {:08x}", kind.trim(), bytes.len(), crc32c(bytes.as_bytes()))
            }
            "src" | "dst" if self.of_network => {
                self.dst = value.parse().ok();
                write!(self.fields, " {value}")
            }
            name => write!(self.fields, " {name}={value}"),
        };
        written.expect("a string takes everything");
    }
}
