//! Loads the shared object as a script runner does, and calls it.

use std::ffi::{CString, c_char, c_longlong, c_void};
use std::path::Path;

use bywash_packetdrill::abi::PacketdrillInterface;
use libc::{c_int, size_t, socklen_t, timeval};

type Getsockopt = unsafe extern "C" fn(c_int, c_int, c_int, *mut c_void, *mut socklen_t) -> c_int;
type Sendfile = unsafe extern "C" fn(c_int, c_int, *mut libc::off_t, size_t) -> libc::ssize_t;
type Init = unsafe extern "C" fn(*const c_char, *mut PacketdrillInterface);

/// The loaded object.
pub struct Interface {
    pub calls: PacketdrillInterface,
    getsockopt: Getsockopt,
    pub sendfile: Sendfile,
}

// SAFETY: the object may be called by any thread: its interface says so, and takes a lock of its own.
unsafe impl Send for Interface {}
// SAFETY: as above.
unsafe impl Sync for Interface {}

impl Interface {
    pub fn load(object: &Path, flags: &str) -> Result<Self, String> {
        let path = CString::new(object.to_string_lossy().as_bytes()).map_err(|error| error.to_string())?;
        let flags = CString::new(flags).map_err(|error| error.to_string())?;
        let how = libc::RTLD_NOW | libc::RTLD_LOCAL | libc::RTLD_NODELETE | libc::RTLD_DEEPBIND;
        // SAFETY: the object's constructors are Rust's; the path is a C string.
        let handle = unsafe { libc::dlopen(path.as_ptr(), how) };
        if handle.is_null() {
            return Err(format!("cannot load {}", object.display()));
        }
        let symbol = |name: &std::ffi::CStr| {
            // SAFETY: the handle is open, the name a C string.
            let address = unsafe { libc::dlsym(handle, name.as_ptr()) };
            if address.is_null() { Err(format!("no symbol {name:?}")) } else { Ok(address) }
        };
        let mut calls = core::mem::MaybeUninit::uninit();
        // SAFETY: the object's symbols of these names have these types.
        unsafe {
            let init: Init = core::mem::transmute(symbol(c"packetdrill_interface_init")?);
            let getsockopt: Getsockopt = core::mem::transmute(symbol(c"getsockopt")?);
            let sendfile: Sendfile = core::mem::transmute(symbol(c"sendfile")?);
            init(flags.as_ptr(), calls.as_mut_ptr());
            Ok(Self { calls: calls.assume_init(), getsockopt, sendfile })
        }
    }

    /// The virtual clock, microseconds.
    pub fn now(&self) -> i64 {
        let mut time = timeval { tv_sec: 0, tv_usec: 0 };
        // SAFETY: the time is ours.
        unsafe { (self.calls.gettimeofday)(self.calls.userdata, &raw mut time, core::ptr::null_mut()) };
        time.tv_sec * 1_000_000 + time.tv_usec
    }

    pub fn sleep(&self, micros: i64) {
        (self.calls.usleep)(self.calls.userdata, u32::try_from(micros.max(0)).unwrap_or(u32::MAX));
    }

    pub fn inject(&self, packet: &[u8]) {
        // SAFETY: the packet is ours.
        unsafe { (self.calls.netdev_send)(self.calls.userdata, packet.as_ptr().cast(), packet.len()) };
    }

    /// The next packet and when it was sent.
    pub fn receive(&self) -> Option<(i64, Vec<u8>)> {
        let mut buffer = vec![0u8; 1 << 17];
        let (mut len, mut time): (size_t, c_longlong) = (buffer.len(), 0);
        // SAFETY: buffer and places are ours, `len` is the buffer's.
        unsafe {
            (self.calls.netdev_receive)(
                self.calls.userdata,
                buffer.as_mut_ptr().cast(),
                &raw mut len,
                &raw mut time,
            );
        }
        buffer.truncate(len);
        (len > 0).then_some((time, buffer))
    }

    /// The C library's `getsockopt`, as a script's assertion calls it past the interface.
    pub fn getsockopt(&self, fd: c_int, level: c_int, name: c_int, room: usize) -> Option<Vec<u8>> {
        let mut value = vec![0u8; room];
        let mut len = room as socklen_t;
        // SAFETY: value and length are ours.
        let result = unsafe { (self.getsockopt)(fd, level, name, value.as_mut_ptr().cast(), &raw mut len) };
        value.truncate(len as usize);
        (result == 0).then_some(value)
    }
}
