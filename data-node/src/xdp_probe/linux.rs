//! The attempts, by aya.

use aya::{
    Ebpf, EbpfError,
    programs::{ProgramError, Xdp, XdpMode, loaded_programs},
};
use rustix::io::Errno;

use super::{NativeError, object};

/// Puts a program that passes everything on the interface of this number, in its driver, and takes it off again. Blocks.
///
/// The caller has seen that no program is there; the kernel sees it, too.
///
/// # Errors
/// See [`NativeError`].
pub fn try_native(interface: u32) -> Result<(), NativeError> {
    let mut ebpf = Ebpf::load(&object::passing_program()).map_err(|error| match error {
        EbpfError::ProgramError(error) => meaning(&error),
        error => NativeError::Other(error.to_string()),
    })?;
    let program = ebpf.program_mut(object::NAME).map(TryInto::<&mut Xdp>::try_into);
    let Some(Ok(program)) = program else {
        return Err(NativeError::Other("the trial program is malformed".to_owned()));
    };
    program.load().map_err(|error| meaning(&error))?;
    let link = program.attach_to_if_index(interface, XdpMode::Driver).map_err(|error| meaning(&error))?;
    program.detach(link).map_err(|error| meaning(&error))
}

/// The name of a loaded program; it may have ended meanwhile, or hide.
#[must_use]
pub fn program_name(id: u32) -> Option<String> {
    let found = loaded_programs().filter_map(Result::ok).find(|program| program.id() == id);
    let name = found.and_then(|program| program.name_as_str().map(str::to_owned));
    name.filter(|name| !name.is_empty())
}

fn meaning(error: &ProgramError) -> NativeError {
    let said = match error {
        ProgramError::SyscallError(error) => &error.io_error,
        ProgramError::LoadError { io_error, .. } => io_error,
        error => return NativeError::Other(error.to_string()),
    };
    match said.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::OPNOTSUPP) => NativeError::Unsupported,
        Some(Errno::RANGE) => NativeError::TooLargeMtu,
        Some(Errno::NOSPC) => NativeError::Queues,
        Some(Errno::BUSY | Errno::EXIST) => NativeError::Occupied,
        Some(Errno::PERM | Errno::ACCESS) => NativeError::Permission,
        _ => NativeError::Other(said.to_string()),
    }
}
