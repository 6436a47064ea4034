//! Ports of addresses shared with the kernel: a port that the stack opens passes the kernel by, so a service of the
//! kernel's on it would lose its clients (think of ssh). A kernel socket that is bound, and never listens, finds that out
//! before the port is opened, and keeps UDP ports for the stack as long as it lives.

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::OwnedFd;

use bywash::config::Cidr;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, bind, socket, sockopt};

use crate::error::AppError;

/// Ports kept from the kernel's programs, until dropped.
#[derive(Debug, Default)]
pub struct Reservation(Vec<OwnedFd>);

/// A protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP: taken where a socket listens; connections that are ending do not count.
    Tcp,
    /// UDP: taken where a socket is bound.
    Udp,
}

impl Reservation {
    /// Reserves `port` of every address; `ifindex` is the interface that has them.
    ///
    /// # Errors
    /// [`AppError::Unsuccessful`] where a program has it, with how to find out which.
    pub fn add(
        &mut self,
        addresses: &[Cidr],
        ifindex: u32,
        protocol: Protocol,
        port: u16,
    ) -> Result<(), AppError> {
        for cidr in addresses {
            match reserve(cidr.addr, ifindex, protocol, port) {
                Ok(socket) => self.0.push(socket),
                Err(Errno::ADDRINUSE) => return Err(taken(protocol, port, cidr.addr)),
                // No right to low ports, or an address that went away meanwhile: the port cannot be looked at.
                Err(error) => tracing::warn!(
                    "cannot tell whether a program of the kernel's uses {protocol:?} port {port} of {}: {}",
                    cidr.addr,
                    io::Error::from(error)
                ),
            }
        }
        Ok(())
    }
}

fn reserve(addr: IpAddr, ifindex: u32, protocol: Protocol, port: u16) -> Result<OwnedFd, Errno> {
    let (family, addr) = match addr {
        IpAddr::V4(_) => (AddressFamily::INET, SocketAddr::new(addr, port)),
        // Link-local addresses need the interface (RFC 4007); the others do not mind.
        IpAddr::V6(addr) => (AddressFamily::INET6, SocketAddrV6::new(addr, port, 0, ifindex).into()),
    };
    let kind = if protocol == Protocol::Tcp { SocketType::STREAM } else { SocketType::DGRAM };
    let socket = socket(family, kind, None)?;
    if protocol == Protocol::Tcp {
        sockopt::set_socket_reuseaddr(&socket, true)?; // else connections in TIME-WAIT would be in the way
    }
    bind(&socket, &addr)?;
    Ok(socket)
}

fn taken(protocol: Protocol, port: u16, addr: IpAddr) -> AppError {
    let (name, option) = match protocol {
        Protocol::Tcp => ("TCP", 't'),
        Protocol::Udp => ("UDP", 'u'),
    };
    AppError::Unsuccessful(format!(
        "{name} port {port} of {addr} is taken by a program on the kernel's stack (`ss -{option}lnp sport = {port}` shows \
         it), which would lose its clients; end it, or use another --port, or an --address of the stack's own"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    fn add(addr: &str, protocol: Protocol, port: u16) -> Result<Reservation, AppError> {
        let mut reservation = Reservation::default();
        reservation.add(&[addr.parse().unwrap()], 1, protocol, port).map(|()| reservation)
    }

    #[test]
    fn a_port_that_a_program_listens_on_is_taken_also_on_the_wildcard_address() {
        for (listen, addr) in
            [("127.0.0.1:0", "127.0.0.1/8"), ("0.0.0.0:0", "127.0.0.1/8"), ("[::]:0", "127.0.0.1/8")]
        {
            let listener = TcpListener::bind(listen).unwrap();
            let port = listener.local_addr().unwrap().port();
            let error = add(addr, Protocol::Tcp, port).unwrap_err().to_string();
            assert!(error.contains(&format!("TCP port {port} of 127.0.0.1 is taken")), "{error}");
            assert!(error.contains(&format!("ss -tlnp sport = {port}")), "{error}");
        }
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        assert!(add("127.0.0.1/8", Protocol::Udp, port).unwrap_err().to_string().contains("UDP port"));
    }

    #[test]
    fn other_addresses_protocols_and_connections_that_are_ending_do_not_take_a_port() {
        let listener = TcpListener::bind("127.0.0.2:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = TcpStream::connect(("127.0.0.2", port)).unwrap();
        assert!(add("127.0.0.1/8", Protocol::Tcp, port).is_ok());
        assert!(add("127.0.0.2/8", Protocol::Udp, port).is_ok());
        // Closed from the listener's side first: its port stays in FIN-WAIT-2, then TIME-WAIT.
        drop(listener.accept().unwrap());
        drop((listener, client));
        assert!(add("127.0.0.2/8", Protocol::Tcp, port).is_ok());
    }

    #[test]
    fn a_reserved_udp_port_is_not_given_to_programs_until_it_is_dropped() {
        let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let reservation = add("127.0.0.1/8", Protocol::Udp, port).unwrap();
        assert_eq!(UdpSocket::bind(("127.0.0.1", port)).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(reservation);
        UdpSocket::bind(("127.0.0.1", port)).unwrap();
    }
}
