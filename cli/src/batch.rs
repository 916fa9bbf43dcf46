//! Several things at once, each of which may fail by itself.
//!
//! Invariant: no more than `parallel` jobs are under way, and one that fails does not stop the others, unless nothing
//! can be done at all because no metadata server answers.

use std::future::Future;

use futures::{Stream, StreamExt as _};

use crate::{
    arguments::Parallel,
    console::Console,
    failure::{Exit, Failure},
};

/// How it goes.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    done: u64,
    failed: u64,
    /// The exit code of all failures so far, if it is one and the same.
    exit: Option<Exit>,
    is_hopeless: bool,
}

impl Batch {
    /// Runs the jobs that `jobs` gives, and hands each result to `report` as it comes.
    pub(crate) async fn run<T, F>(
        &mut self,
        parallel: Parallel,
        jobs: impl Stream<Item = F>,
        console: &mut Console,
        mut report: impl FnMut(&mut Console, T) -> Result<(), Failure>,
    ) -> Result<(), Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let results = jobs.buffer_unordered(parallel.parallel.get());
        let mut results = std::pin::pin!(results);
        while let Some(result) = results.next().await {
            match result {
                Ok(result) => {
                    self.done += 1;
                    report(console, result)?;
                }
                Err(failure) => self.fail(console, &failure),
            }
            if self.is_hopeless {
                console.note("no metadata server answers: nothing else is tried");
                break;
            }
        }
        Ok(())
    }

    /// Counts and tells a failure.
    pub(crate) fn fail(&mut self, console: &mut Console, failure: &Failure) {
        self.is_hopeless |= failure.is_unserved && self.done == 0;
        self.exit = match self.exit {
            Some(exit) if exit != failure.exit => Some(Exit::Partial),
            Some(_) | None => Some(failure.exit),
        };
        self.failed += 1;
        console.failure(failure);
    }

    /// Counts something that was done.
    pub(crate) fn succeed(&mut self) {
        self.done += 1;
    }

    /// Whether it was neither done nor failed at anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.done == 0 && self.failed == 0
    }

    /// How many have failed so far.
    pub(crate) fn failed(&self) -> u64 {
        self.failed
    }

    /// How the run ends: by the code of the failures if they agree and nothing was done.
    pub(crate) fn finish(self, console: &mut Console) -> Exit {
        let Some(exit) = self.exit else { return Exit::Done };
        if self.done + self.failed > 1 {
            console.note(&format!("{} of {} failed", self.failed, self.done + self.failed));
        }
        if self.done > 0 { Exit::Partial } else { exit }
    }
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroUsize, time::Duration};

    use futures::{FutureExt as _, stream};
    use xdpfs_client::Error;

    use super::*;
    use crate::console::{Look, tests::Printed};

    const TWO: Parallel = Parallel { parallel: NonZeroUsize::new(2).expect("two is not zero") };

    fn missing() -> Failure {
        Failure::not_found("missing")
    }

    fn unserved() -> Failure {
        let (operation, why) = ("stat an object", String::new());
        Error::Unavailable { operation, attempts: 1, waited: Duration::ZERO, why }.into()
    }

    fn run(results: Vec<Result<u8, Failure>>) -> (Vec<u8>, Exit, String) {
        let (mut console, printed) = Printed::console(Look::default());
        let (mut batch, mut reported) = (Batch::default(), vec![]);
        let jobs = stream::iter(results).map(std::future::ready);
        let report = |_: &mut Console, result| {
            reported.push(result);
            Ok(())
        };
        batch.run(TWO, jobs, &mut console, report).now_or_never().unwrap().unwrap();
        let exit = batch.finish(&mut console);
        (reported, exit, printed.err())
    }

    #[test]
    fn the_exit_code_is_that_of_the_failures_if_all_failed_alike() {
        let check = |results, expect| assert_eq!(run(results).1, expect);
        check(vec![], Exit::Done);
        check(vec![Ok(1), Ok(2)], Exit::Done);
        check(vec![Err(missing())], Exit::NotFound);
        check(vec![Err(missing()), Err(missing())], Exit::NotFound);
        check(vec![Err(missing()), Err(Failure::usage("x"))], Exit::Partial);
        check(vec![Err(missing()), Err(Failure::usage("x")), Err(missing())], Exit::Partial);
        check(vec![Ok(1), Err(missing())], Exit::Partial);
        check(vec![Err(missing()), Ok(1)], Exit::Partial);
    }

    #[test]
    fn one_failure_does_not_stop_the_others() {
        let (reported, exit, said) = run(vec![Err(missing()), Ok(1), Err(missing()), Ok(2), Ok(3)]);
        assert_eq!((reported, exit), (vec![1, 2, 3], Exit::Partial));
        assert_eq!(said.matches("missing").count(), 2);
        assert!(said.contains("2 of 5 failed"), "{said}");
    }

    #[test]
    fn nothing_more_is_tried_if_nobody_serves() {
        let (reported, exit, said) = run(vec![Err(unserved()), Ok(1), Ok(2)]);
        assert_eq!((reported, exit), (vec![], Exit::Unavailable));
        assert!(said.contains("nothing else is tried"), "{said}");
        let (reported, exit, _) = run(vec![Ok(1), Err(unserved()), Ok(2)]);
        assert_eq!((reported, exit), (vec![1, 2], Exit::Partial));
    }
}
