//! The smallest object file with an XDP program: two instructions that pass everything. It is made here, so that
//! interfaces can be tried by a binary without the kernel program.

/// The program's name.
pub(super) const NAME: &str = "xdpfs_probe";

/// Section names and symbol names, each behind a zero.
const NAMES: &[u8] = b"\0.strtab\0xdp\0license\0.symtab\0xdpfs_probe\0";
const LICENSE: &[u8] = b"Apache-2.0 OR MIT\0";
/// `r0 = XDP_PASS; exit`
const INSTRUCTIONS: [u8; 16] = [0xb7, 0, 0, 0, 2, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];

const ELF_HEADER_LEN: usize = 64;
const SECTION_HEADER_LEN: usize = 64;
const SYMBOL_LEN: usize = 24;
const SECTIONS: u16 = 5;
/// Where the sections are in the table.
const STRTAB: u16 = 1;
const PROGRAM: u16 = 2;

const ET_REL: u16 = 1;
const EM_BPF: u16 = 247;
const SHT_PROGBITS: u32 = 1;
const SHT_SYMTAB: u32 = 2;
const SHT_STRTAB: u32 = 3;
/// Global, and a function.
const GLOBAL_FUNCTION: u8 = 0x12;

/// The object file.
pub(super) fn passing_program() -> Vec<u8> {
    let mut file = vec![0; ELF_HEADER_LEN];
    let mut headers = vec![0; SECTION_HEADER_LEN];
    let mut section = |name: &str, kind: u32, flags: u64, info: [u32; 2], entry_len: usize, bytes: &[u8]| {
        file.resize(file.len().next_multiple_of(8), 0);
        headers.extend(name_at(name).to_ne_bytes());
        headers.extend(kind.to_ne_bytes());
        headers.extend([flags, 0, file.len() as u64, bytes.len() as u64].map(u64::to_ne_bytes).concat());
        headers.extend(info.map(u32::to_ne_bytes).concat());
        headers.extend([8, entry_len as u64].map(u64::to_ne_bytes).concat());
        file.extend_from_slice(bytes);
    };
    section(".strtab", SHT_STRTAB, 0, [0; 2], 0, NAMES);
    // Allocated and executable.
    section("xdp", SHT_PROGBITS, 6, [0; 2], 0, &INSTRUCTIONS);
    section("license", SHT_PROGBITS, 3, [0; 2], 0, LICENSE);
    section(".symtab", SHT_SYMTAB, 0, [STRTAB.into(), 1], SYMBOL_LEN, &symbols());
    file.resize(file.len().next_multiple_of(8), 0);
    let headers_at = file.len();
    file.extend(headers);
    file[..ELF_HEADER_LEN].copy_from_slice(&elf_header(headers_at));
    file
}

fn elf_header(section_headers_at: usize) -> Vec<u8> {
    let data = if cfg!(target_endian = "little") { 1 } else { 2 };
    let mut header = vec![0x7f, b'E', b'L', b'F', 2, data, 1];
    header.resize(16, 0);
    header.extend([ET_REL, EM_BPF].map(u16::to_ne_bytes).concat());
    header.extend(1_u32.to_ne_bytes());
    header.extend([0, 0, section_headers_at as u64].map(u64::to_ne_bytes).concat());
    header.extend(0_u32.to_ne_bytes());
    let sizes = [ELF_HEADER_LEN as u16, 0, 0, SECTION_HEADER_LEN as u16, SECTIONS, STRTAB];
    header.extend(sizes.map(u16::to_ne_bytes).concat());
    header
}

/// The null symbol, and the function.
fn symbols() -> Vec<u8> {
    let mut symbols = vec![0; SYMBOL_LEN];
    symbols.extend(name_at(NAME).to_ne_bytes());
    symbols.extend([GLOBAL_FUNCTION, 0]);
    symbols.extend(PROGRAM.to_ne_bytes());
    symbols.extend([0, INSTRUCTIONS.len() as u64].map(u64::to_ne_bytes).concat());
    symbols
}

/// Where the name begins among the names.
fn name_at(name: &str) -> u32 {
    let name = [b"\0", name.as_bytes(), b"\0"].concat();
    let found = NAMES.windows(name.len()).position(|window| window == name);
    found.map_or(0, |at| at as u32 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_among_the_names() {
        for name in [".strtab", "xdp", "license", ".symtab", NAME] {
            let at = name_at(name) as usize;
            assert!(at > 0 && NAMES[at..].starts_with(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn the_file_holds_its_sections_where_its_header_says() {
        let file = passing_program();
        let u64_at = |at: usize| u64::from_ne_bytes(*file[at..].first_chunk().unwrap()) as usize;
        let headers_at = u64_at(40);
        assert_eq!(file.len(), headers_at + usize::from(SECTIONS) * SECTION_HEADER_LEN);
        let program = headers_at + usize::from(PROGRAM) * SECTION_HEADER_LEN;
        let (offset, len) = (u64_at(program + 24), u64_at(program + 32));
        assert_eq!(file[offset..offset + len], INSTRUCTIONS);
    }
}
