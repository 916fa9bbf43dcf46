//! `xdp trace`: samples of refused datagrams as they come.

use std::time::{Duration, UNIX_EPOCH};

use clap::Args;
use serde::Serialize;
use xdpfs_proto::admin::v1::{TraceEvent, TraceHeader, TraceRequest};

use super::connection::Connection;
use crate::{
    console::Console,
    failure::{Exit, Failure},
};

/// Show datagrams that the kernel program refuses, as they come.
#[derive(Clone, Copy, Debug, Args)]
#[command(after_help = "\
Each line: when, which reason, by which interface, from where, and what the header says. A forged
datagram's source may be anybody's. Keys, tags and the low half of chunk numbers are never shown.
Under a flood take a sample: all of it costs the server a CPU.

Examples:
  xdpfs-cli xdp trace
  xdpfs-cli xdp trace --sample 1000 --count 20")]
pub(super) struct TraceArguments {
    /// Show one of so many datagrams of each reason, rounded up to a power of two.
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..))]
    sample: u32,
    /// End after so many; by default when interrupted.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

/// An event as JSON.
#[derive(Debug, Serialize)]
struct EventRecord<'a> {
    time: String,
    counter: &'a str,
    interface: &'a str,
    source: &'a str,
    /// `None`: no header of an xdpfs datagram.
    header: Option<HeaderRecord<'a>>,
    /// Events before this one that were lost.
    lost: u64,
}

#[derive(Debug, Serialize)]
struct HeaderRecord<'a> {
    opcode: &'a str,
    node_id: u32,
    node_epoch: u32,
    key_epoch: u32,
    bucket: u32,
    chunk_high: u32,
    expiry: String,
}

/// Asks and shows.
pub(super) async fn run(
    arguments: TraceArguments,
    connection: &mut Connection,
    console: &mut Console,
) -> Result<Exit, Failure> {
    let TraceArguments { sample, count } = arguments;
    let answer = connection.service.trace(TraceRequest { sample }).await;
    let mut events = answer.map_err(|status| connection.failure(&status))?.into_inner();
    let mut shown = 0;
    while count.is_none_or(|count| shown < count) {
        let event = events.message().await.map_err(|status| connection.failure(&status))?;
        let Some(event) = event else {
            return Err(Failure::unavailable("the server has stopped").with_hint("start it again"));
        };
        show(&event, console)?;
        shown += 1;
    }
    Ok(Exit::Done)
}

fn show(event: &TraceEvent, console: &mut Console) -> Result<(), Failure> {
    console.answer(&EventRecord::from(event), || text(event))?;
    console.flush()
}

fn text(event: &TraceEvent) -> String {
    let EventRecord { time, counter, interface, source, header, lost } = EventRecord::from(event);
    let header = header.map_or_else(
        || "no xdpfs header".to_owned(),
        |header| {
            let HeaderRecord { opcode, node_id, node_epoch, key_epoch, bucket, chunk_high, expiry } = header;
            format!(
                "{opcode} node={node_id}/{node_epoch} bucket={bucket} chunk={chunk_high:08x}… key_epoch={key_epoch} \
                 expiry={expiry}"
            )
        },
    );
    let lost = if lost > 0 { format!("({lost} events lost)\n") } else { String::new() };
    format!("{lost}{time} {counter:<17} {interface:<10} {source:<15} {header}\n")
}

impl<'a> From<&'a TraceEvent> for EventRecord<'a> {
    fn from(event: &'a TraceEvent) -> Self {
        // Far beyond any clock there are no dates.
        let time = UNIX_EPOCH + Duration::from_millis(event.unix_ms.min(YEAR_9999_MS));
        Self {
            time: humantime::format_rfc3339_millis(time).to_string(),
            counter: &event.counter,
            interface: &event.interface,
            source: &event.source,
            header: event.header.as_ref().map(HeaderRecord::from),
            lost: event.lost,
        }
    }
}

/// The last moment that has a date of four digits.
const YEAR_9999_MS: u64 = 253_402_300_799_000;

impl<'a> From<&'a TraceHeader> for HeaderRecord<'a> {
    fn from(header: &'a TraceHeader) -> Self {
        let expiry = UNIX_EPOCH + Duration::from_secs(header.expiry.into());
        Self {
            opcode: &header.opcode,
            node_id: header.node_id,
            node_epoch: header.node_epoch,
            key_epoch: header.key_epoch,
            bucket: header.bucket,
            chunk_high: header.chunk_high,
            expiry: humantime::format_rfc3339_seconds(expiry).to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::{Look, tests::Printed};

    fn event(header: Option<TraceHeader>) -> TraceEvent {
        TraceEvent {
            unix_ms: 1_500,
            counter: "bad_tag".into(),
            interface: "eth0".into(),
            source: "10.0.0.1".into(),
            header,
            lost: 2,
        }
    }

    fn header() -> TraceHeader {
        TraceHeader {
            opcode: "GetPiece".into(),
            node_id: 7,
            node_epoch: 2,
            key_epoch: 3,
            bucket: 5,
            chunk_high: 0xaa,
            expiry: 60,
        }
    }

    #[test]
    fn people_get_a_line_for_each_event() {
        let (mut console, printed) = Printed::console(Look::default());
        show(&event(Some(header())), &mut console).unwrap();
        show(&TraceEvent { lost: 0, ..event(None) }, &mut console).unwrap();
        let expect = "\
(2 events lost)
1970-01-01T00:00:01.500Z bad_tag           eth0       10.0.0.1        GetPiece node=7/2 bucket=5 \
chunk=000000aa… key_epoch=3 expiry=1970-01-01T00:01:00Z
1970-01-01T00:00:01.500Z bad_tag           eth0       10.0.0.1        no xdpfs header
";
        assert_eq!(printed.out(), expect);
    }

    #[test]
    fn scripts_get_one_object_for_each_event() {
        let (mut console, printed) = Printed::console(Look { json: true, quiet: false });
        show(&event(Some(header())), &mut console).unwrap();
        let expect = concat!(
            r#"{"time":"1970-01-01T00:00:01.500Z","counter":"bad_tag","interface":"eth0","source":"10.0.0.1","#,
            r#""header":{"opcode":"GetPiece","node_id":7,"node_epoch":2,"key_epoch":3,"bucket":5,"chunk_high":170,"#,
            r#""expiry":"1970-01-01T00:01:00Z"},"lost":2}"#,
            "\n"
        );
        assert_eq!(printed.out(), expect);
    }
}
