//! `sockaddr` to and from C. An `AF_INET6` socket speaks IPv4 by mapped addresses (RFC 4291 section 2.5.5.2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use libc::{c_int, sockaddr, sockaddr_in, sockaddr_in6, socklen_t};

use crate::errno::Errno;

/// Reads an address; a mapped one becomes IPv4. `None` for `AF_UNSPEC`.
///
/// # Safety
/// `addr` is null or points to `len` readable bytes.
pub(crate) unsafe fn read(addr: *const sockaddr, len: socklen_t) -> Result<Option<SocketAddr>, Errno> {
    let len = len as usize;
    if addr.is_null() || len < size_of::<libc::sa_family_t>() {
        return Err(Errno(libc::EINVAL));
    }
    // SAFETY: there are at least the family's bytes; C does not promise alignment.
    let family = c_int::from(unsafe { addr.cast::<libc::sa_family_t>().read_unaligned() });
    match family {
        libc::AF_UNSPEC => Ok(None),
        libc::AF_INET if len >= size_of::<sockaddr_in>() => {
            // SAFETY: there are as many bytes, and any bytes are a valid `sockaddr_in`.
            let addr = unsafe { addr.cast::<sockaddr_in>().read_unaligned() };
            let ip = Ipv4Addr::from(u32::from_be(addr.sin_addr.s_addr));
            Ok(Some((ip, u16::from_be(addr.sin_port)).into()))
        }
        libc::AF_INET6 if len >= size_of::<sockaddr_in6>() => {
            // SAFETY: there are as many bytes, and any bytes are a valid `sockaddr_in6`.
            let addr = unsafe { addr.cast::<sockaddr_in6>().read_unaligned() };
            let ip = Ipv6Addr::from(addr.sin6_addr.s6_addr);
            let ip = ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4);
            Ok(Some((ip, u16::from_be(addr.sin6_port)).into()))
        }
        libc::AF_INET | libc::AF_INET6 => Err(Errno(libc::EINVAL)),
        _ => Err(Errno(libc::EAFNOSUPPORT)),
    }
}

/// Writes `address` as a socket of family IPv6 (`v6`) or IPv4 sees it, cut to what there is room for; `*len` becomes the
/// whole length. Does nothing without a place to write to.
///
/// # Safety
/// `len` is null or valid for reading and writing; `addr` is null or points to `*len` writable bytes.
pub(crate) unsafe fn write(address: SocketAddr, v6: bool, addr: *mut sockaddr, len: *mut socklen_t) {
    if addr.is_null() || len.is_null() {
        return;
    }
    let bytes = to_bytes(address, v6);
    // SAFETY: `len` is valid for both.
    let room = unsafe { len.read_unaligned() } as usize;
    // SAFETY: `addr` has `room` bytes, of which at most as many are written, from a buffer of our own.
    unsafe {
        core::ptr::copy_nonoverlapping(bytes.as_ptr(), addr.cast::<u8>(), bytes.len().min(room));
        len.write_unaligned(bytes.len() as socklen_t);
    }
}

fn to_bytes(address: SocketAddr, v6: bool) -> Vec<u8> {
    let port = address.port().to_be_bytes();
    match address.ip() {
        IpAddr::V4(ip) if !v6 => {
            let mut bytes = (libc::AF_INET as u16).to_ne_bytes().to_vec();
            bytes.extend_from_slice(&port);
            bytes.extend_from_slice(&ip.octets());
            bytes.resize(size_of::<sockaddr_in>(), 0);
            bytes
        }
        ip => {
            let ip = match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            let mut bytes = (libc::AF_INET6 as u16).to_ne_bytes().to_vec();
            bytes.extend_from_slice(&port);
            bytes.extend_from_slice(&[0; 4]);
            bytes.extend_from_slice(&ip.octets());
            bytes.resize(size_of::<sockaddr_in6>(), 0);
            bytes
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(address: &str, v6: bool) -> (SocketAddr, socklen_t) {
        let (mut bytes, mut len) = ([0u8; 28], 28);
        // SAFETY: the buffer has 28 bytes.
        unsafe { write(address.parse().unwrap(), v6, bytes.as_mut_ptr().cast(), &raw mut len) };
        // SAFETY: as above.
        (unsafe { read(bytes.as_ptr().cast(), len) }.unwrap().unwrap(), len)
    }

    #[test]
    fn addresses_of_both_families_survive_the_round_trip() {
        for (address, v6, len) in
            [("192.0.2.1:80", false, 16), ("[2001:db8::1]:443", true, 28), ("192.0.2.1:80", true, 28)]
        {
            assert_eq!(round_trip(address, v6), (address.parse().unwrap(), len));
        }
    }

    #[test]
    fn a_short_address_is_refused() {
        let bytes = [libc::AF_INET as u8, 0, 0, 0];
        // SAFETY: there are 4 bytes.
        assert_eq!(unsafe { read(bytes.as_ptr().cast(), 4) }, Err(Errno(libc::EINVAL)));
        // SAFETY: null is allowed.
        assert_eq!(unsafe { read(core::ptr::null(), 0) }, Err(Errno(libc::EINVAL)));
    }
}
