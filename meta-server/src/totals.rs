//! What happened in many runs of a simulation: counts, each with words for it.

/// Makes `Totals` of these counts, of which `simulated_ms` has to be one.
macro_rules! totals {
    ($($name:ident: $words:literal,)*) => {
        /// Counts of all runs.
        #[derive(Clone, Debug, Default, Eq, PartialEq)]
        pub(super) struct Totals {
            $(pub(super) $name: u64,)*
        }

        impl Totals {
            pub(super) fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }

            /// All of them, with their words.
            fn counts(&self) -> impl Iterator<Item = (u64, &'static str)> {
                [$((self.$name, $words),)*].into_iter()
            }
        }

        impl std::fmt::Display for Totals {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.counts().try_for_each(|(count, words)| writeln!(f, "{count:>12}  {words}"))?;
                write!(f, "{:>12.2}  simulated hours", self.simulated_ms as f64 / 3.6e6)
            }
        }
    };
}

pub(crate) use totals;
