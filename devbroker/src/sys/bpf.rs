//! bpf(2): maps of three-word keys and one-word values, cgroup device programs, links and pins.
//!
//! Structures are those of `linux/bpf.h` (`union bpf_attr`, one struct for each command), zeroed in full: the kernel refuses
//! set bits that it does not know and, from 6.17 to 7.2, writes `revision` of a query at offset 56 whatever size was given.

use std::ffi::{CString, c_long};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// `BPF_F_ALLOW_MULTI`.
pub const ALLOW_MULTI: u32 = 1 << 1;
/// `BPF_F_REPLACE`.
pub const REPLACE: u32 = 1 << 2;
/// Length of a name in the kernel, with its final zero.
const NAME: usize = 16;

const MAP_CREATE: c_long = 0;
const MAP_LOOKUP: c_long = 1;
const MAP_UPDATE: c_long = 2;
const MAP_DELETE: c_long = 3;
const MAP_NEXT_KEY: c_long = 4;
const PROG_LOAD: c_long = 5;
const OBJ_PIN: c_long = 6;
const OBJ_GET: c_long = 7;
const PROG_ATTACH: c_long = 8;
const PROG_DETACH: c_long = 9;
const PROG_GET_FD_BY_ID: c_long = 13;
const OBJ_GET_INFO: c_long = 15;
const PROG_QUERY: c_long = 16;
const LINK_CREATE: c_long = 28;
const LINK_GET_FD_BY_ID: c_long = 30;
const LINK_GET_NEXT_ID: c_long = 31;
const LINK_DETACH: c_long = 34;

const MAP_TYPE_HASH: u32 = 1;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const CGROUP_DEVICE: u32 = 6;

/// A structure that the kernel takes as `union bpf_attr`, or fills as an info.
///
/// # Safety
/// Made of integers only, without padding, so that all its bytes are initialised and any bytes are valid.
unsafe trait Plain: Default {}

macro_rules! plain {
    ($(#[$meta:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Debug, Default)]
        struct $name { $($field: $type),* }
        // Padding would make the struct larger than its fields.
        const _: () = assert!(size_of::<$name>() == 0 $(+ size_of::<$type>())*);
        // SAFETY: integers only, and the assertion above shows that nothing lies between them.
        unsafe impl Plain for $name {}
    };
}

plain!(MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    name: [u8; NAME],
});
plain!(MapElem {
    fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64
});
plain!(ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    name: [u8; NAME],
    ifindex: u32,
    expected_attach_type: u32,
});
plain!(Object {
    pathname: u64,
    fd: u32,
    file_flags: u32
});
plain!(Attach {
    target_fd: u32,
    program_fd: u32,
    kind: u32,
    flags: u32,
    replace_fd: u32
});
plain!(ById {
    id: u32,
    next_id: u32,
    open_flags: u32
});
plain!(InfoByFd {
    fd: u32,
    info_len: u32,
    info: u64
});
plain!(Query {
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    pad: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
});
plain!(LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32
});
plain!(RawProgInfo {
    prog_type: u32,
    id: u32,
    tag: [u8; 8],
    jited_len: u32,
    xlated_len: u32,
    jited: u64,
    xlated: u64,
    load_time: u64,
    created_by_uid: u32,
    nr_map_ids: u32,
    map_ids: u64,
    name: [u8; NAME],
});
plain!(RawMapInfo {
    map_type: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    name: [u8; NAME],
});
plain!(RawLinkInfo {
    link_type: u32,
    id: u32,
    prog_id: u32,
    pad: u32,
    cgroup_id: u64,
    attach_type: u32,
    pad2: u32
});

/// One bpf(2) call.
///
/// # Safety
/// Every address in `attr` must be valid for what `command` does with it, for the length that `attr` gives.
unsafe fn bpf<T: Plain>(command: c_long, attr: &mut T) -> io::Result<c_long> {
    // SAFETY: `attr` is a live structure of the given size, all of it initialised (`Plain`); the caller vouches for the
    // addresses in it.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// The descriptor that a successful call returned.
fn owned(result: c_long) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(result).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    // SAFETY: bpf(2) returned this descriptor to us just now; nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn fd(fd: BorrowedFd<'_>) -> u32 {
    // A borrowed descriptor is never negative.
    fd.as_raw_fd().unsigned_abs()
}

fn address<T: ?Sized>(value: &T) -> u64 {
    std::ptr::from_ref(value).cast::<()>().expose_provenance() as u64
}

fn address_mut<T: ?Sized>(value: &mut T) -> u64 {
    std::ptr::from_mut(value).cast::<()>().expose_provenance() as u64
}

fn name(text: &str) -> [u8; NAME] {
    let mut name = [0; NAME];
    for (to, from) in name.iter_mut().take(NAME - 1).zip(text.bytes()) {
        *to = from;
    }
    name
}

fn text(name: [u8; NAME]) -> String {
    let text: Vec<u8> = name.into_iter().take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&text).into_owned()
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// A hash map of three-word keys and one-word values.
#[derive(Debug)]
pub struct Map(OwnedFd);

impl Map {
    /// A new, preallocated map: a later update never waits for memory.
    pub fn create(map_name: &str, max_entries: u32) -> io::Result<Self> {
        let mut attr = MapCreate {
            map_type: MAP_TYPE_HASH,
            key_size: 12,
            value_size: 4,
            max_entries,
            name: name(map_name),
            ..MapCreate::default()
        };
        // SAFETY: the structure holds no address.
        owned(unsafe { bpf(MAP_CREATE, &mut attr) }?).map(Self)
    }

    /// The map pinned at `path`. `InvalidData`: what is pinned there is no map of this shape.
    pub fn pinned(path: &Path) -> io::Result<Self> {
        let map = Self(pinned(path)?);
        let mut raw = RawMapInfo::default();
        info(map.fd(), &mut raw)?;
        // Another kind of object has other things at these places; ours has exactly these four.
        if (raw.map_type, raw.key_size, raw.value_size, raw.map_flags) == (MAP_TYPE_HASH, 12, 4, 0) {
            Ok(map)
        } else {
            Err(io::ErrorKind::InvalidData.into())
        }
    }

    /// Its descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// The value of a key, if there is one.
    pub fn lookup(&self, key: &[u32; 3]) -> io::Result<Option<u32>> {
        let mut value = 0_u32;
        let mut attr = MapElem {
            fd: fd(self.fd()),
            key: address(key),
            value: address_mut(&mut value),
            ..MapElem::default()
        };
        // SAFETY: key and value live through the call and have the map's sizes.
        absent(unsafe { bpf(MAP_LOOKUP, &mut attr) }).map(|found| found.map(|()| value))
    }

    /// Sets the value of a key. E2BIG: the map is full.
    pub fn update(&self, key: &[u32; 3], value: u32) -> io::Result<()> {
        let mut attr = MapElem {
            fd: fd(self.fd()),
            key: address(key),
            value: address(&value),
            ..MapElem::default()
        };
        // SAFETY: key and value live through the call and have the map's sizes; the kernel only reads them.
        unsafe { bpf(MAP_UPDATE, &mut attr) }.map(drop)
    }

    /// Removes a key; whether it was there.
    pub fn delete(&self, key: &[u32; 3]) -> io::Result<bool> {
        let mut attr = MapElem {
            fd: fd(self.fd()),
            key: address(key),
            ..MapElem::default()
        };
        // SAFETY: the key lives through the call and has the map's size; the kernel only reads it.
        absent(unsafe { bpf(MAP_DELETE, &mut attr) }).map(|found| found.is_some())
    }

    /// The key after `key`, or the first.
    pub fn next_key(&self, key: Option<&[u32; 3]>) -> io::Result<Option<[u32; 3]>> {
        let mut next = [0_u32; 3];
        let mut attr = MapElem {
            fd: fd(self.fd()),
            key: key.map_or(0, address),
            value: address_mut(&mut next),
            ..MapElem::default()
        };
        // SAFETY: both keys live through the call and have the map's size.
        absent(unsafe { bpf(MAP_NEXT_KEY, &mut attr) }).map(|found| found.map(|()| next))
    }
}

/// ENOENT is an answer.
fn absent(result: io::Result<c_long>) -> io::Result<Option<()>> {
    match result {
        Ok(_) => Ok(Some(())),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Loads a cgroup device program; with `log` the verifier writes its reasons there.
pub fn program_load(program_name: &str, code: &[[u8; 8]], log: Option<&mut [u8]>) -> io::Result<OwnedFd> {
    // The only helper it calls is open to any licence.
    let licence = c"MIT";
    let length =
        |length: usize| u32::try_from(length).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    let mut attr = ProgLoad {
        prog_type: PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: length(code.len())?,
        insns: address(code),
        license: address(licence),
        name: name(program_name),
        expected_attach_type: CGROUP_DEVICE,
        ..ProgLoad::default()
    };
    if let Some(log) = log {
        attr.log_level = 1;
        attr.log_size = length(log.len())?;
        attr.log_buf = address_mut(log);
    }
    // SAFETY: instructions, licence and log live through the call and have the lengths given.
    owned(unsafe { bpf(PROG_LOAD, &mut attr) }?)
}

/// Gives an object a name in bpffs.
pub fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = Object {
        pathname: address(path.as_c_str()),
        fd: fd(object),
        ..Object::default()
    };
    // SAFETY: the path is a C string that lives through the call.
    unsafe { bpf(OBJ_PIN, &mut attr) }.map(drop)
}

/// The object with this name in bpffs.
pub fn pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = Object {
        pathname: address(path.as_c_str()),
        ..Object::default()
    };
    // SAFETY: the path is a C string that lives through the call.
    owned(unsafe { bpf(OBJ_GET, &mut attr) }?)
}

/// Attaches a device program to a cgroup beside those that are there, or in place of `replace`.
pub fn attach(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    replace: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut attr = Attach {
        target_fd: fd(cgroup),
        program_fd: fd(program),
        kind: CGROUP_DEVICE,
        flags: ALLOW_MULTI | replace.map_or(0, |_| REPLACE),
        replace_fd: replace.map_or(0, fd),
    };
    // SAFETY: the structure holds no address.
    unsafe { bpf(PROG_ATTACH, &mut attr) }.map(drop)
}

/// Takes a device program off a cgroup. ENOENT: it is not there, or only by a link.
pub fn detach(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = Attach {
        target_fd: fd(cgroup),
        program_fd: fd(program),
        kind: CGROUP_DEVICE,
        ..Attach::default()
    };
    // SAFETY: the structure holds no address.
    unsafe { bpf(PROG_DETACH, &mut attr) }.map(drop)
}

/// A link between a device program and a cgroup. It ends with its last descriptor and pin.
pub fn link(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut attr = LinkCreate {
        prog_fd: fd(program),
        target_fd: fd(cgroup),
        attach_type: CGROUP_DEVICE,
        ..LinkCreate::default()
    };
    // SAFETY: the structure holds no address.
    owned(unsafe { bpf(LINK_CREATE, &mut attr) }?)
}

/// Ends a link now. Without this it ends when the kernel comes to it after the last descriptor and pin are gone.
pub fn unlink(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = ById {
        id: fd(link),
        ..ById::default()
    };
    // SAFETY: the structure holds no address; its first word is the link's descriptor.
    unsafe { bpf(LINK_DETACH, &mut attr) }.map(drop)
}

/// Ids of the device programs on just this cgroup, in order; one that is attached twice is there twice.
pub fn query(cgroup: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    // The kernel allows 64 programs for each cgroup and attach type (`BPF_CGROUP_MAX_PROGS`).
    let mut ids = [0_u32; 64];
    let mut attr = Query {
        target_fd: fd(cgroup),
        attach_type: CGROUP_DEVICE,
        prog_ids: address_mut(&mut ids),
        prog_cnt: 64,
        ..Query::default()
    };
    // SAFETY: the array lives through the call and has room for the count given.
    unsafe { bpf(PROG_QUERY, &mut attr) }?;
    let count = usize::try_from(attr.prog_cnt)
        .unwrap_or(usize::MAX)
        .min(ids.len());
    Ok(ids.into_iter().take(count).collect())
}

/// The program with this id, while it exists.
pub fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    let mut attr = ById {
        id,
        ..ById::default()
    };
    // SAFETY: the structure holds no address.
    owned(unsafe { bpf(PROG_GET_FD_BY_ID, &mut attr) }?)
}

/// The link with this id, while it exists.
pub fn link_by_id(id: u32) -> io::Result<OwnedFd> {
    let mut attr = ById {
        id,
        ..ById::default()
    };
    // SAFETY: the structure holds no address.
    owned(unsafe { bpf(LINK_GET_FD_BY_ID, &mut attr) }?)
}

/// The lowest link id above `id`.
pub fn next_link_id(id: u32) -> io::Result<Option<u32>> {
    let mut attr = ById {
        id,
        ..ById::default()
    };
    // SAFETY: the structure holds no address.
    absent(unsafe { bpf(LINK_GET_NEXT_ID, &mut attr) }).map(|found| found.map(|()| attr.next_id))
}

/// Fills an info structure that already holds what the kernel is to read from it.
fn info<T: Plain>(object: BorrowedFd<'_>, out: &mut T) -> io::Result<()> {
    let mut attr = InfoByFd {
        fd: fd(object),
        info_len: u32::try_from(size_of::<T>()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?,
        info: address_mut(out),
    };
    // SAFETY: `out` lives through the call, has the length given and is valid with any bytes (`Plain`). Of the addresses that
    // an info can hold, `program_info` alone sets one, to an array that outlives this call.
    unsafe { bpf(OBJ_GET_INFO, &mut attr) }.map(drop)
}

/// What the kernel tells of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramInfo {
    /// Its id.
    pub id: u32,
    /// The name that its loader gave it, at most 15 bytes; often empty.
    pub name: String,
    /// Ids of the maps it uses, the first eight.
    pub maps: Vec<u32>,
    /// The user who loaded it.
    pub uid: u32,
    /// When, in nanoseconds since boot.
    pub load_time: u64,
}

/// What the kernel tells of `program`.
pub fn program_info(program: BorrowedFd<'_>) -> io::Result<ProgramInfo> {
    let mut maps = [0_u32; 8];
    let mut raw = RawProgInfo {
        nr_map_ids: 8,
        map_ids: address_mut(&mut maps),
        ..RawProgInfo::default()
    };
    info(program, &mut raw)?;
    let count = usize::try_from(raw.nr_map_ids).unwrap_or(usize::MAX);
    Ok(ProgramInfo {
        id: raw.id,
        name: text(raw.name),
        maps: maps.into_iter().take(count).collect(),
        uid: raw.created_by_uid,
        load_time: raw.load_time,
    })
}

/// What the kernel tells of a link to a cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkInfo {
    /// Its id.
    pub id: u32,
    /// The program's id.
    pub program: u32,
    /// The cgroup's id, which is its folder's inode number; absent once the cgroup is gone, and for other kinds of links.
    pub cgroup: Option<u64>,
}

/// What the kernel tells of `link`.
pub fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    /// `BPF_LINK_TYPE_CGROUP`.
    const TYPE_CGROUP: u32 = 3;
    let mut raw = RawLinkInfo::default();
    info(link, &mut raw)?;
    let device = raw.link_type == TYPE_CGROUP && raw.attach_type == CGROUP_DEVICE;
    Ok(LinkInfo {
        id: raw.id,
        program: raw.prog_id,
        cgroup: (device && raw.cgroup_id != 0).then_some(raw.cgroup_id),
    })
}

#[cfg(test)]
mod tests {
    use super::Query;

    /// Kernels 6.17 to 7.2 write eight bytes at offset 56 whatever size they are told.
    #[test]
    fn a_query_has_room_for_what_newer_kernels_write() {
        assert!(size_of::<Query>() >= 64, "{}", size_of::<Query>());
    }
}
