//! The few of libbpf's calls that this driver makes, with owned descriptors and `io::Error`s.
//!
//! Why libbpf and not a loader in Rust (aya): `xsk-rs` links libbpf through libxdp anyway, and `libbpf-sys` is the
//! bindings of that same copy (`links = "bpf"` makes a second one impossible), so that it costs no further code.

use core::ffi::{CStr, c_int, c_void};
use std::ffi::CString;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use libbpf_sys as sys;

/// `-errno` or a value, as libbpf returns them.
fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result) }
}

/// A new descriptor, or `-errno`.
fn owned(result: c_int) -> io::Result<OwnedFd> {
    let fd = check(result)?;
    // SAFETY: the call returned a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A structure of integers, nested integers and pointers, all zero, with its size in the first field where libbpf asks
/// for it.
fn zeroed<T: Copy>() -> T {
    // SAFETY: only called for libbpf's plain option and information structures, for which all-zero is a value.
    unsafe { mem::zeroed() }
}

/// A program and its maps in the kernel. Dropping the object closes what was not taken from it.
pub(crate) struct Object {
    object: ptr::NonNull<sys::bpf_object>,
}

/// Why an object could not be loaded.
pub(crate) struct LoadError {
    pub source: io::Error,
    /// The last lines of what the verifier said.
    pub log: String,
}

/// Room for the verifier's log: enough for the end of a refusal, which is what matters.
const LOG_BYTES: usize = 256 * 1024;
/// Lines of it that go into the error.
const LOG_LINES: usize = 12;

impl Object {
    /// Loads the program and creates its maps; `adjust` may change the maps' sizes before.
    pub fn load(elf: &[u8], adjust: impl Fn(&Self) -> io::Result<()>) -> Result<Self, LoadError> {
        silence();
        let mut log = vec![0u8; LOG_BYTES];
        let mut options: sys::bpf_object_open_opts = zeroed();
        options.sz = size_of::<sys::bpf_object_open_opts>() as _;
        options.kernel_log_buf = log.as_mut_ptr().cast();
        options.kernel_log_size = LOG_BYTES as _;
        let fail = |source| LoadError { source, log: String::new() };
        // SAFETY: `elf` and `options` are valid for the call; libbpf copies what it needs of `elf`, and `log` outlives
        // the object's loading, the only time it is written.
        let object =
            unsafe { sys::bpf_object__open_mem(elf.as_ptr().cast(), elf.len() as _, &raw const options) };
        let Some(object) = ptr::NonNull::new(object) else { return Err(fail(io::Error::last_os_error())) };
        let object = Self { object };
        adjust(&object).map_err(fail)?;
        // SAFETY: the object is open and not yet loaded.
        check(unsafe { sys::bpf_object__load(object.object.as_ptr()) })
            .map_err(|source| LoadError { source, log: log_tail(&log) })?;
        Ok(object)
    }

    fn map(&self, name: &CStr) -> io::Result<*mut sys::bpf_map> {
        // SAFETY: the object is open.
        let map = unsafe { sys::bpf_object__find_map_by_name(self.object.as_ptr(), name.as_ptr()) };
        if map.is_null() { Err(io::Error::from_raw_os_error(libc::ENOENT)) } else { Ok(map) }
    }

    /// Sets a map's size before the object is loaded.
    pub fn set_max_entries(&self, name: &CStr, entries: u32) -> io::Result<()> {
        // SAFETY: the map belongs to this object.
        check(unsafe { sys::bpf_map__set_max_entries(self.map(name)?, entries) }).map(|_| ())
    }

    /// A descriptor of its own for a map.
    pub fn map_fd(&self, name: &CStr) -> io::Result<OwnedFd> {
        // SAFETY: the map belongs to this object, whose descriptor stays open during the borrow.
        let fd = unsafe { BorrowedFd::borrow_raw(check(sys::bpf_map__fd(self.map(name)?))?) };
        fd.try_clone_to_owned()
    }

    /// A descriptor of its own for the program.
    pub fn program_fd(&self, name: &CStr) -> io::Result<OwnedFd> {
        // SAFETY: the object is open; the descriptor stays so during the borrow.
        let fd = unsafe {
            let program = sys::bpf_object__find_program_by_name(self.object.as_ptr(), name.as_ptr());
            if program.is_null() {
                return Err(io::Error::from_raw_os_error(libc::ENOENT));
            }
            BorrowedFd::borrow_raw(check(sys::bpf_program__fd(program))?)
        };
        fd.try_clone_to_owned()
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        // SAFETY: opened in `load` and closed only here.
        unsafe { sys::bpf_object__close(self.object.as_ptr()) };
    }
}

/// libbpf would print to stderr; everything it could say is in the errors.
fn silence() {
    // SAFETY: a null function switches printing off; libbpf exchanges the pointer atomically.
    unsafe { sys::libbpf_set_print(None) };
}

fn log_tail(log: &[u8]) -> String {
    let text = CStr::from_bytes_until_nul(log).map(|text| text.to_string_lossy()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

/// What the kernel knows of a program.
pub(crate) struct ProgramInfo {
    pub name: String,
    pub maps: Vec<u32>,
}

/// What the kernel knows of a map.
pub(crate) struct MapInfo {
    pub name: String,
    pub kind: u32,
    pub key_size: u32,
    pub value_size: u32,
    pub max_entries: u32,
}

/// Most maps of a program that are looked at; the steering program has seven.
const PROGRAM_MAPS_MAX: usize = 64;

pub(crate) fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers are passed.
    owned(unsafe { sys::bpf_prog_get_fd_by_id(id) })
}

pub(crate) fn map_by_id(id: u32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers are passed.
    owned(unsafe { sys::bpf_map_get_fd_by_id(id) })
}

pub(crate) fn program_info(program: BorrowedFd<'_>) -> io::Result<ProgramInfo> {
    let mut maps = vec![0u32; PROGRAM_MAPS_MAX];
    let mut info: sys::bpf_prog_info = zeroed();
    info.nr_map_ids = PROGRAM_MAPS_MAX as u32;
    info.map_ids = maps.as_mut_ptr() as u64;
    let mut len = size_of::<sys::bpf_prog_info>() as u32;
    // SAFETY: `info` is a valid place of `len` bytes, and its `map_ids` points to `nr_map_ids` integers.
    check(unsafe { sys::bpf_prog_get_info_by_fd(program.as_raw_fd(), &raw mut info, &raw mut len) })?;
    maps.truncate(info.nr_map_ids as usize);
    Ok(ProgramInfo { name: text(&info.name), maps })
}

pub(crate) fn map_info(map: BorrowedFd<'_>) -> io::Result<MapInfo> {
    let mut info: sys::bpf_map_info = zeroed();
    let mut len = size_of::<sys::bpf_map_info>() as u32;
    // SAFETY: `info` is a valid place of `len` bytes.
    check(unsafe { sys::bpf_map_get_info_by_fd(map.as_raw_fd(), &raw mut info, &raw mut len) })?;
    Ok(MapInfo {
        name: text(&info.name),
        kind: info.type_,
        key_size: info.key_size,
        value_size: info.value_size,
        max_entries: info.max_entries,
    })
}

fn text(name: &[core::ffi::c_char]) -> String {
    name.iter().take_while(|&&c| c != 0).map(|&c| char::from(c as u8)).collect()
}

/// What is attached to an interface, and what its driver can do with XDP.
#[derive(Clone, Copy, Default)]
pub(crate) struct XdpQuery {
    /// One of `XDP_ATTACHED_*`.
    pub mode: u8,
    /// The program, 0 when there is none.
    pub program: u32,
    /// The driver's `NETDEV_XDP_ACT_*`; 0 also when the kernel does not say (before 6.3).
    pub features: u64,
    /// Frames a packet may span in zero-copy mode, 0 when unknown.
    pub zero_copy_frames_max: u32,
}

/// Asks rtnetlink for the attached program and the `netdev` generic netlink family for the features.
pub(crate) fn xdp_query(ifindex: u32) -> io::Result<XdpQuery> {
    silence();
    let mut query: sys::bpf_xdp_query_opts = zeroed();
    query.sz = size_of::<sys::bpf_xdp_query_opts>() as _;
    // SAFETY: `query` is a valid place and says its size.
    check(unsafe { sys::bpf_xdp_query(ifindex as c_int, 0, &raw mut query) })?;
    let program = [query.prog_id, query.drv_prog_id, query.skb_prog_id, query.hw_prog_id]
        .into_iter()
        .find(|&id| id != 0)
        .unwrap_or(0);
    Ok(XdpQuery {
        mode: query.attach_mode,
        program,
        features: query.feature_flags,
        zero_copy_frames_max: query.xdp_zc_max_segs,
    })
}

/// Attaches a program to an interface for as long as the returned link, or another descriptor of it, is open.
pub(crate) fn xdp_link(program: BorrowedFd<'_>, ifindex: u32, flags: u32) -> io::Result<OwnedFd> {
    let mut options: sys::bpf_link_create_opts = zeroed();
    options.sz = size_of::<sys::bpf_link_create_opts>() as _;
    options.flags = flags;
    // SAFETY: `options` is valid for the call and says its size.
    owned(unsafe {
        sys::bpf_link_create(program.as_raw_fd(), ifindex as c_int, sys::BPF_XDP, &raw const options)
    })
}

/// The XDP link that holds program `program`, or `None` when there is none (any more).
pub(crate) fn xdp_link_of(program: u32) -> io::Result<Option<OwnedFd>> {
    let mut id = 0;
    loop {
        // SAFETY: `id` is a valid place.
        match check(unsafe { sys::bpf_link_get_next_id(id, &raw mut id) }) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            Err(error) => return Err(error),
        }
        // SAFETY: no pointers are passed.
        let link = match owned(unsafe { sys::bpf_link_get_fd_by_id(id) }) {
            Ok(link) => link,
            // It went away between the two calls.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EAGAIN)) => continue,
            Err(error) => return Err(error),
        };
        let mut info: sys::bpf_link_info = zeroed();
        let mut len = size_of::<sys::bpf_link_info>() as u32;
        // SAFETY: `info` is a valid place of `len` bytes.
        check(unsafe { sys::bpf_link_get_info_by_fd(link.as_raw_fd(), &raw mut info, &raw mut len) })?;
        if info.type_ == sys::BPF_LINK_TYPE_XDP && info.prog_id == program {
            return Ok(Some(link));
        }
    }
}

/// Makes a program keep a map that its code does not use, so that the map is found with it.
pub(crate) fn bind_map(program: BorrowedFd<'_>, map: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both are descriptors, and no options are passed.
    check(unsafe { sys::bpf_prog_bind_map(program.as_raw_fd(), map.as_raw_fd(), ptr::null()) }).map(|_| ())
}

/// Creates a ring that a program can put records into; `bytes` must be a power of two and whole pages.
pub(crate) fn create_ring(bytes: u32) -> io::Result<OwnedFd> {
    let name = c"bw_copy_ring";
    // SAFETY: the name is a C string, and no options are passed.
    owned(unsafe { sys::bpf_map_create(sys::BPF_MAP_TYPE_RINGBUF, name.as_ptr(), 0, 0, bytes, ptr::null()) })
}

/// Types that are plain bytes without padding, so that they may go to and come from a map.
///
/// # Safety
/// The type is `repr(C)` or primitive, has no padding, and every bit pattern is a value of it.
pub(crate) unsafe trait Pod: Copy {}
// SAFETY: primitive integers and arrays of them.
unsafe impl Pod for u32 {}
// SAFETY: as above.
unsafe impl Pod for u64 {}

/// Sets the entry of `key`. The sizes must be those of the map, which `Maps` checks once.
pub(crate) fn update<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K, value: &V) -> io::Result<()> {
    let (key, value): (*const K, *const V) = (key, value);
    // SAFETY: both point to plain bytes of the map's sizes.
    check(unsafe { sys::bpf_map_update_elem(map.as_raw_fd(), key.cast(), value.cast(), 0) }).map(|_| ())
}

/// The entry of `key`.
pub(crate) fn lookup<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<V> {
    let mut value: V = zeroed();
    let key: *const K = key;
    // SAFETY: both point to plain bytes of the map's sizes.
    check(unsafe { sys::bpf_map_lookup_elem(map.as_raw_fd(), key.cast(), (&raw mut value).cast()) })?;
    Ok(value)
}

/// The entry of `key` on each possible CPU.
pub(crate) fn lookup_per_cpu<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<Vec<V>> {
    // SAFETY: no pointers are passed.
    let cpus = check(unsafe { sys::libbpf_num_possible_cpus() })?;
    debug_assert!(size_of::<V>().is_multiple_of(8), "the kernel pads values to 8 bytes");
    let mut values: Vec<V> = vec![zeroed(); cpus as usize];
    let key: *const K = key;
    // SAFETY: the kernel writes one value a possible CPU, for which there is room.
    check(unsafe { sys::bpf_map_lookup_elem(map.as_raw_fd(), key.cast(), values.as_mut_ptr().cast()) })?;
    Ok(values)
}

/// Removes the entry of `key`; that there is none is no error.
pub(crate) fn delete<K: Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<()> {
    let key: *const K = key;
    // SAFETY: `key` points to plain bytes of the map's key size.
    match check(unsafe { sys::bpf_map_delete_elem(map.as_raw_fd(), key.cast()) }) {
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
        _ => Ok(()),
    }
}

/// The key behind `key` in the map's own order, or the first one; `None` at the end.
pub(crate) fn next_key<K: Pod>(map: BorrowedFd<'_>, key: Option<&K>) -> io::Result<Option<K>> {
    let mut next: K = zeroed();
    let key = key.map_or(ptr::null(), |key| -> *const K { key });
    // SAFETY: `key` is null or points to plain bytes of the map's key size, and `next` is a place of that size.
    match check(unsafe { sys::bpf_map_get_next_key(map.as_raw_fd(), key.cast(), (&raw mut next).cast()) }) {
        Ok(_) => Ok(Some(next)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A ring of records that a program writes, read by one consumer.
pub(crate) struct RecordRing {
    ring: ptr::NonNull<sys::ring_buffer>,
    /// Where the callback finds what takes the records; allocated here, because libbpf keeps the pointer.
    sink: ptr::NonNull<Sink>,
    fd: OwnedFd,
}

/// Takes the bytes of one record during [`RecordRing::consume`].
type Sink = Option<ptr::NonNull<dyn FnMut(&[u8])>>;

impl RecordRing {
    /// Of the ring map `fd`.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let sink = ptr::NonNull::from(Box::leak(Box::new(None)));
        // SAFETY: `fd` is a ring map; the context is freed after the ring.
        let ring = unsafe {
            sys::ring_buffer__new(fd.as_raw_fd(), Some(take_record), sink.as_ptr().cast(), ptr::null())
        };
        let Some(ring) = ptr::NonNull::new(ring) else {
            let error = io::Error::last_os_error();
            // SAFETY: leaked above, and libbpf did not keep it.
            drop(unsafe { Box::from_raw(sink.as_ptr()) });
            return Err(error);
        };
        Ok(Self { ring, sink, fd })
    }

    /// Hands up to `max` records to `sink`.
    pub fn consume(&mut self, max: usize, sink: &mut dyn FnMut(&[u8])) {
        // SAFETY: only the lifetime is erased; the pointer is taken back below, before `sink`'s borrow ends.
        let erased = unsafe {
            mem::transmute::<ptr::NonNull<dyn FnMut(&[u8]) + '_>, ptr::NonNull<dyn FnMut(&[u8])>>(
                ptr::NonNull::from(sink),
            )
        };
        // SAFETY: the sink is allocated as long as `self` lives and only read by `take_record`, during the call between
        // the two writes; the ring was made in `new` with it as context.
        unsafe {
            self.sink.write(Some(erased));
            sys::ring_buffer__consume_n(self.ring.as_ptr(), max as _);
            self.sink.write(None);
        }
    }
}

/// libbpf's callback for one record.
unsafe extern "C" fn take_record(context: *mut c_void, data: *mut c_void, len: sys::size_t) -> c_int {
    // SAFETY: the context is the sink of the ring, which nobody else touches while records are consumed.
    let sink = unsafe { *context.cast::<Sink>() };
    if let Some(mut sink) = sink {
        // SAFETY: `consume` has the closure borrowed mutably for the whole call, and libbpf hands out `len` bytes.
        unsafe { (sink.as_mut())(core::slice::from_raw_parts(data.cast(), len as usize)) };
    }
    0
}

impl AsFd for RecordRing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for RecordRing {
    fn drop(&mut self) {
        // SAFETY: both made in `new` and freed only here, the ring first because it refers to the sink.
        unsafe {
            sys::ring_buffer__free(self.ring.as_ptr());
            drop(Box::from_raw(self.sink.as_ptr()));
        }
    }
}

/// Runs a program once on a packet as if it had come in on queue `queue` of interface `ifindex`; returns its verdict.
#[cfg(feature = "testing")]
pub(crate) fn test_run(program: BorrowedFd<'_>, packet: &[u8], ifindex: u32, queue: u32) -> io::Result<u32> {
    let mut context: sys::xdp_md = zeroed();
    context.data_end = packet.len() as u32;
    context.ingress_ifindex = ifindex;
    context.rx_queue_index = queue;
    let mut options: sys::bpf_test_run_opts = zeroed();
    options.sz = size_of::<sys::bpf_test_run_opts>() as _;
    options.data_in = packet.as_ptr().cast();
    options.data_size_in = packet.len() as u32;
    options.ctx_in = (&raw const context).cast();
    options.ctx_size_in = size_of::<sys::xdp_md>() as u32;
    options.repeat = 1;
    // SAFETY: the options say where the packet and the context are and how long.
    check(unsafe { sys::bpf_prog_test_run_opts(program.as_raw_fd(), &raw mut options) })?;
    Ok(options.retval)
}

/// Loads a program that passes every packet: `r0 = XDP_PASS; exit`.
#[cfg(feature = "testing")]
pub(crate) fn load_pass_all(name: &CStr) -> io::Result<OwnedFd> {
    let code: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];
    let instructions = code.as_ptr().cast();
    // SAFETY: two instructions of 8 bytes, C strings, and no options.
    owned(unsafe {
        let (license, count) = (c"MIT OR Apache-2.0", code.len() as _);
        sys::bpf_prog_load(
            sys::BPF_PROG_TYPE_XDP,
            name.as_ptr(),
            license.as_ptr(),
            instructions,
            count,
            ptr::null_mut(),
        )
    })
}

/// A C string of an interface's name; names with a NUL do not exist.
pub(crate) fn c_name(name: &str) -> io::Result<CString> {
    CString::new(name).map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))
}
