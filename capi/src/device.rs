//! The MTU of the device that scripts call `tun0`: packets do not pass it here, but `ip link set tun0 mtu` is how scripts choose.

use libc::c_char;

/// The device's MTU in this process's network namespace, if there is such a device.
pub(crate) fn mtu() -> Option<usize> {
    // SAFETY: all-zero bytes are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { core::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(c"tun0".to_bytes()) {
        *place = *byte as c_char;
    }
    // SAFETY: calls without pointers but that to `request`, which the kernel fills in; the descriptor is closed once.
    let result = unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        let result = libc::ioctl(fd, libc::SIOCGIFMTU, &raw mut request);
        libc::close(fd);
        result
    };
    // SAFETY: this request's answer is the MTU.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    usize::try_from(mtu).ok().filter(|_| result == 0)
}
