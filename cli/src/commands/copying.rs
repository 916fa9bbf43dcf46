//! What `cp` and `mv` share: which object goes where.

use clap::Args;
use futures::{Stream, StreamExt as _, stream};
use xdpfs_client::{CopyOptions, CopyResult, CopyWay, Error, Object, ObjectClient, copy_anywhere, objects};

use crate::{address::Address, failure::Failure};

/// From where to where.
#[derive(Debug, Args)]
pub(crate) struct Route {
    /// The objects.
    #[arg(value_name = "SRC", required = true)]
    sources: Vec<Address>,
    /// A key; or a bucket or BUCKET/PREFIX/, where names are kept.
    #[arg(value_name = "DST")]
    target: Address,
    /// All objects below SRC, read as a directory.
    #[arg(short, long)]
    recursive: bool,
}

/// One object's way.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Leg {
    pub(crate) source: Address,
    pub(crate) target: Address,
}

impl Leg {
    /// Whether both ends are in one bucket, so that no byte has to move.
    pub(crate) fn is_within_bucket(&self) -> bool {
        self.source.bucket == self.target.bucket
    }

    /// Copies the object, the best way that there is.
    pub(crate) async fn copy<C: ObjectClient>(
        &self,
        options: CopyOptions,
        client: &C,
    ) -> Result<CopyResult, Error> {
        let from = (self.source.bucket.as_str(), self.source.key.as_str());
        let to = (self.target.bucket.as_str(), self.target.key.as_str());
        copy_anywhere(client, from, to, options).await
    }
}

/// Bytes that went through this machine.
pub(crate) const fn bytes_moved(way: CopyWay, object: &Object) -> u64 {
    match way {
        CopyWay::Client => object.size,
        CopyWay::Nodes | CopyWay::Shared => 0,
    }
}

/// The same in words.
pub(crate) const fn how(way: CopyWay) -> &'static str {
    match way {
        CopyWay::Client => "through this machine",
        CopyWay::Nodes => "by the data nodes",
        CopyWay::Shared => "no byte moved",
    }
}

impl Route {
    /// How many objects are named; none of those below a directory is.
    pub(crate) fn source_count(&self) -> usize {
        if self.recursive { 0 } else { self.sources.len() }
    }

    /// All legs. Nothing is done unless the whole command line makes sense.
    ///
    /// # Errors
    ///
    /// It makes no sense.
    pub(crate) fn legs<'a, C: ObjectClient>(
        &'a self,
        client: &'a C,
    ) -> Result<impl Stream<Item = Result<Leg, Failure>> + 'a, Failure> {
        if self.recursive {
            let source = self.directory()?;
            let prefix = source.directory();
            let below = objects(client, &source.bucket, &prefix).map(move |object| {
                let object = object.map_err(|error| Failure::from(error).about(source))?;
                let rest = object.key.strip_prefix(&prefix).unwrap_or(&object.key);
                let target = self.target.with_key(format!("{}{rest}", self.target.directory()));
                Ok(Leg { source: source.with_key(object.key), target })
            });
            return Ok(below.left_stream());
        }
        let legs: Vec<_> =
            self.sources.iter().map(|source| self.leg(source).map(Ok)).collect::<Result<_, _>>()?;
        Ok(stream::iter(legs).right_stream())
    }

    fn leg(&self, source: &Address) -> Result<Leg, Failure> {
        if source.is_directory() {
            let hint = format!("write BUCKET/KEY, or -r {source} for all objects below it");
            return Err(Failure::usage(format!("{source} names no object")).with_hint(hint));
        }
        let target = if self.target.is_directory() {
            self.target.with_key(format!("{}{}", self.target.key, source.last_part()))
        } else if self.sources.len() > 1 {
            let hint = format!("write {}/, with a slash, to keep their names below it", self.target);
            let message = format!("several objects cannot all become {}", self.target);
            return Err(Failure::usage(message).with_hint(hint));
        } else {
            self.target.clone()
        };
        Ok(Leg { source: source.clone(), target })
    }

    /// The one directory that a recursive run is about.
    fn directory(&self) -> Result<&Address, Failure> {
        let [source] = self.sources.as_slice() else {
            return Err(Failure::usage("-r takes one SRC").with_hint("run it once for each"));
        };
        let (from, to) = (source.directory(), self.target.directory());
        if source.bucket == self.target.bucket && (to.starts_with(&from) || from.starts_with(&to)) {
            let message = format!("{source} and {} lie within each other", self.target);
            return Err(Failure::usage(message).with_hint("choose a prefix that is beside it"));
        }
        Ok(source)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use futures::{FutureExt as _, TryStreamExt as _};
    use xdpfs_client::mock::MockClient;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        route: Route,
    }

    fn legs(line: &str) -> Result<Vec<String>, Failure> {
        let line = Line::try_parse_from(["x"].into_iter().chain(line.split_whitespace())).unwrap();
        let client = MockClient::new();
        let legs = line.route.legs(&client)?;
        let legs: Vec<Leg> = legs.try_collect().now_or_never().unwrap()?;
        Ok(legs.iter().map(|leg| format!("{} {}", leg.source, leg.target)).collect())
    }

    #[test]
    fn a_directory_keeps_names_and_a_key_is_taken_as_it_is() {
        let check = |line: &str, expect: &[&str]| assert_eq!(legs(line).unwrap(), expect, "{line}");
        check("b/a/x b/y", &["b/a/x b/y"]);
        check("b/a/x c", &["b/a/x c/x"]);
        check("b/a/x c/", &["b/a/x c/x"]);
        check("b/a/x b/d/", &["b/a/x b/d/x"]);
        check("b/x c/y b/d/", &["b/x b/d/x", "c/y b/d/y"]);
    }

    #[test]
    fn routes_that_make_no_sense_are_refused() {
        for bad in
            ["b c", "b/a/ c", "b/x b/y b/z", "-r b/x c/y b/z", "-r b/a b/a/c", "-r b/a/c b/a", "-r b b/x"]
        {
            assert!(legs(bad).is_err(), "{bad}");
        }
    }
}
