//! Gives every request a deadline, once: the handler carries it on into consensus, where expired work is dropped
//! before it is begun.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http::{HeaderMap, Request, Response};
use tonic::Status;
use tower::{Layer, Service};

use crate::{service::Refusal, state_machine::Reason};

const HEADER: &str = "grpc-timeout";
/// The specification allows no more digits.
const DIGITS_MAX: usize = 8;
/// The answer sets out a little before the caller stops listening; at most this much.
const HEAD_START_MAX: Duration = Duration::from_millis(50);

/// When nobody waits for the answer any more. Found among a request's extensions.
#[derive(Clone, Copy, Debug)]
pub(in crate::service) struct Deadline(pub(in crate::service) Instant);

/// Gives each request a [`Deadline`]: its own one, or `max` from now if it has none or a later one.
#[derive(Clone, Copy, Debug)]
pub(in crate::service) struct DeadlineLayer {
    pub(in crate::service) max: Duration,
}

/// A service whose requests have a [`Deadline`].
#[derive(Clone, Debug)]
pub(in crate::service) struct WithDeadline<S> {
    max: Duration,
    inner: S,
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = WithDeadline<S>;

    fn layer(&self, inner: S) -> WithDeadline<S> {
        WithDeadline { max: self.max, inner }
    }
}

impl<S, B, R> Service<Request<B>> for WithDeadline<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    R: Default,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let deadline = Instant::now() + time_left(request.headers(), self.max);
        request.extensions_mut().insert(Deadline(deadline));
        let answer = tokio::time::timeout_at(deadline.into(), self.inner.call(request));
        Box::pin(async move {
            answer.await.unwrap_or_else(|_| {
                let late =
                    Refusal::new(Reason::DeadlineExceeded, "the request was not answered by its deadline");
                Ok(Status::from(late).into_http())
            })
        })
    }
}

fn time_left(headers: &HeaderMap, max: Duration) -> Duration {
    let asked = headers.get(HEADER).and_then(|value| parse(value.to_str().ok()?));
    asked.map_or(max, |asked| (asked - (asked / 20).min(HEAD_START_MAX)).min(max))
}

fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > DIGITS_MAX || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tower::ServiceExt as _;

    use super::*;

    const MAX: Duration = Duration::from_secs(10);

    #[test]
    fn callers_deadline_counts_unless_it_is_too_late() {
        let check = |value: Option<&str>, expect: Duration| {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert(HEADER, value.parse().unwrap());
            }
            assert_eq!(time_left(&headers, MAX), expect, "{value:?}");
        };
        check(None, MAX);
        check(Some("2000000u"), Duration::from_millis(1950));
        check(Some("100m"), Duration::from_millis(95));
        check(Some("0n"), Duration::ZERO);
        check(Some("1H"), MAX);
        check(Some("99999999H"), MAX);
        check(Some("123456789n"), MAX);
        for nonsense in ["", "5", "m", "-1S", "+1S", "1x", "1.5S"] {
            check(Some(nonsense), MAX);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn request_without_an_answer_ends_by_its_deadline() {
        let inner = tower::service_fn(|request: Request<()>| async move {
            let deadline = request.extensions().get::<Deadline>().unwrap();
            assert!(deadline.0 > Instant::now());
            std::future::pending::<Result<Response<()>, Infallible>>().await
        });
        let request = Request::builder().header(HEADER, "50m").body(()).unwrap();
        let response = DeadlineLayer { max: MAX }.layer(inner).oneshot(request).await.unwrap();
        let status = Status::from_header_map(response.headers()).unwrap();
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
    }
}
