//! Hosts that aren't Linux: nothing can be asked, and that is said.

use std::{convert::Infallible, io, path::Path};

use crate::{
    Capabilities, Channels, ClockDiscipline, Features, FileSystem, Interface, InterfaceAddress, Release, Room,
};

/// Another network namespace, of which there are none.
#[derive(Debug)]
pub struct NetworkNamespace(Infallible);

impl NetworkNamespace {
    /// Fails.
    ///
    /// # Errors
    /// Always.
    pub fn find(_: i32) -> io::Result<Self> {
        Err(unsupported())
    }

    /// How people know it.
    #[must_use]
    pub fn label(&self) -> &str {
        match self.0 {}
    }

    /// What, before a command, makes it run in there.
    #[must_use]
    pub fn command_prefix(&self) -> String {
        match self.0 {}
    }

    /// Does something in there.
    ///
    /// # Errors
    /// None.
    pub fn run<T: Send>(&self, _: impl FnOnce() -> T + Send) -> io::Result<T> {
        match self.0 {}
    }
}

/// The running kernel's release.
#[must_use]
pub fn release() -> (String, Option<Release>) {
    ("not Linux".to_owned(), None)
}

macro_rules! unsupported {
    ($($name:ident($($argument:ty)?) -> $answer:ty;)*) => {
        $(
            /// Fails.
            ///
            /// # Errors
            /// Always.
            pub fn $name($(_: $argument)?) -> io::Result<$answer> {
                Err(unsupported())
            }
        )*
    };
}

unsupported! {
    addresses() -> Vec<InterfaceAddress>;
    capabilities() -> Capabilities;
    channels(&str) -> Channels;
    clock_discipline() -> ClockDiscipline;
    driver(&str) -> String;
    features(&str) -> Features;
    file_system(&Path) -> FileSystem;
    interface(&str) -> Interface;
    interface_at(u32) -> Interface;
    interfaces() -> Vec<Interface>;
    room(&Path) -> Room;
}

fn unsupported() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "this takes Linux")
}
