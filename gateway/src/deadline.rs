//! When a caller stops waiting, as it has said in `grpc-timeout`.

use std::time::Duration;

use tokio::time::Instant;
use tonic::metadata::MetadataMap;

const NAME: &str = "grpc-timeout";
/// The specification of gRPC over HTTP/2 allows no more digits.
const DIGITS_MAX: usize = 8;
/// So much earlier than the caller stops listening the answer sets out; of a short wait a twentieth.
const HEAD_START_MAX: Duration = Duration::from_millis(50);

/// When a call is to have ended; `None`: its caller waits as long as it takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Option<Instant>);

impl Deadline {
    /// That of a call with this metadata, which arrives now.
    pub(crate) fn of(metadata: &MetadataMap) -> Self {
        let asked = metadata.get(NAME).and_then(|value| parse(value.to_str().ok()?));
        Self(asked.map(|asked| Instant::now() + (asked - (asked / 20).min(HEAD_START_MAX))))
    }

    /// Resolves when it has passed.
    pub(crate) async fn passed(self) {
        match self.0 {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }
}

/// What makes no sense is as if nothing had been said.
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let is_number = digits.len() <= DIGITS_MAX && digits.bytes().all(|byte| byte.is_ascii_digit());
    let count: u64 = is_number.then(|| digits.parse().ok())??;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        let check = |text: &str, expect| assert_eq!(parse(text), expect, "{text}");
        check("10S", Some(Duration::from_secs(10)));
        check("1500m", Some(Duration::from_millis(1500)));
        check("99999999H", Some(Duration::from_secs(99_999_999 * 3600)));
        for nonsense in ["", "S", "5", "-1S", "1.5S", "123456789n", "5 S", "1é"] {
            check(nonsense, None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn answer_sets_out_before_the_caller_stops_listening() {
        let metadata = |text: &str| {
            let mut metadata = MetadataMap::new();
            metadata.insert(NAME, text.parse().unwrap());
            metadata
        };
        let started = Instant::now();
        Deadline::of(&metadata("10S")).passed().await;
        assert_eq!(started.elapsed(), Duration::from_millis(9950));
        let never = Deadline::of(&MetadataMap::new()).passed();
        assert!(tokio::time::timeout(Duration::from_secs(9999), never).await.is_err());
    }
}
