//! The port of an app that is a command of its own (`PassengerAppStartCommand`, `meteor`): reserved before the
//! command runs, so that nobody else gets it in between.
//!
//! A reservation is a socket that is bound to the port and never listens. While it is there the kernel gives the
//! port to nobody who asks for any free one, neither for `bind` nor for an outgoing connection; who asks for
//! exactly this one with `SO_REUSEADDR`, as servers do, gets it (socket(7): two may be bound where both say
//! so and neither listens). Without that option the command's `bind` fails with `EADDRINUSE`.
//!
//! A malicious local user can name the port, too. Hence [`listener`]: requests go to a socket of the app's user
//! or not at all.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpSocket;

/// A port of 127.0.0.1 that is kept for one app process.
#[derive(Debug)]
pub struct Reservation {
    /// Its number.
    pub port: u16,
    _socket: TcpSocket,
}

impl Reservation {
    /// Reserves a free port.
    ///
    /// # Errors
    /// When there is none, or no descriptor.
    pub fn new() -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        Ok(Self {
            port: socket.local_addr()?.port(),
            _socket: socket,
        })
    }
}

/// The user whose socket takes connections to 127.0.0.1 at that port, if there is one. Reads the kernel's list of
/// sockets, which takes time on a busy machine.
///
/// # Errors
/// When the list cannot be read: then nobody knows.
pub fn listener(port: u16) -> io::Result<Option<u32>> {
    listener_by(|table| fs::read_to_string(table), port)
}

fn listener_by(read: impl Fn(&str) -> io::Result<String>, port: u16) -> io::Result<Option<u32>> {
    // `self` and not `net` alone: the agent has threads.
    let found = listener_in(&read("/proc/self/net/tcp")?, port);
    if found.is_some() {
        return Ok(found);
    }
    match read("/proc/self/net/tcp6") {
        Ok(text) => Ok(listener_in(&text, port)),
        // The kernel has no IPv6.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Lines are `n: ADDRESS:PORT REMOTE:PORT STATE QUEUES TIMER RETRANSMITS UID …` (proc(5)); 0A is "listens".
fn listener_in(table: &str, port: u16) -> Option<u32> {
    // 127.0.0.1, everything, the same in IPv6, and 127.0.0.1 as IPv6 writes it; in the machine's byte order.
    let loopback = format!("{:08X}", u32::from_ne_bytes([127, 0, 0, 1]));
    let mapped = format!("{:08X}", u32::from_ne_bytes([0, 0, 0xff, 0xff]));
    let mapped = format!("{:016X}{mapped}{loopback}", 0);
    let reaches = |address: &str| {
        address == loopback || address == mapped || address.chars().all(|digit| digit == '0')
    };
    table.lines().skip(1).find_map(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let (address, number) = words.get(1)?.split_once(':')?;
        let is_ours = u16::from_str_radix(number, 16) == Ok(port) && reaches(address);
        if !is_ours || words.get(3) != Some(&"0A") {
            return None;
        }
        words.get(7)?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv6Addr, TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_reserved_port_is_the_servers_that_asks_for_it_and_nobody_elses() {
        let reservation = Reservation::new().unwrap();
        assert_eq!(listener(reservation.port).unwrap(), None);
        assert!(TcpStream::connect(("127.0.0.1", reservation.port)).is_err());
        let others: Vec<Reservation> = (0..500).map(|_| Reservation::new().unwrap()).collect();
        assert!(others.iter().all(|other| other.port != reservation.port));
        // std's listeners set SO_REUSEADDR, as every server does.
        let server = TcpListener::bind(("127.0.0.1", reservation.port)).unwrap();
        let me = nix::unistd::geteuid().as_raw();
        assert_eq!(listener(reservation.port).unwrap(), Some(me));
        TcpStream::connect(("127.0.0.1", reservation.port)).unwrap();
        drop(server);
        assert_eq!(listener(reservation.port).unwrap(), None);
    }

    #[test]
    fn a_server_that_listens_everywhere_is_found_too() {
        for address in ["0.0.0.0", "::"] {
            let reservation = Reservation::new().unwrap();
            let address: std::net::IpAddr = address.parse().unwrap();
            if address.is_ipv6() && TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
                continue;
            }
            let _server = TcpListener::bind((address, reservation.port)).unwrap();
            assert!(listener(reservation.port).unwrap().is_some(), "{address}");
        }
    }

    #[test]
    fn another_state_port_or_address_is_no_listener() {
        let table =
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n\
            0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000 0 5 1\n\
            1: 0100007F:1F91 0100007F:9999 01 00000000:00000000 00:00000000 00000000  1001 0 6 1\n\
            2: 0200007F:1F92 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1002 0 7 1\n\
            rubbish\n";
        if cfg!(target_endian = "little") {
            assert_eq!(listener_in(table, 8080), Some(1000));
        }
        assert_eq!(listener_in(table, 8081), None);
        assert_eq!(listener_in(table, 8082), None);
        assert_eq!(listener_in("", 1), None);
    }

    #[test]
    fn a_list_that_cannot_be_read_is_not_an_empty_one() {
        let no_descriptor = || Err(io::Error::from_raw_os_error(nix::libc::EMFILE));
        assert!(listener_by(|_| no_descriptor(), 80).is_err());
        let without = |kind: io::ErrorKind| {
            move |table: &str| match table.ends_with('6') {
                true => Err(io::Error::from(kind)),
                false => Ok(String::new()),
            }
        };
        assert!(listener_by(without(io::ErrorKind::OutOfMemory), 80).is_err());
        let no_ipv6 = listener_by(without(io::ErrorKind::NotFound), 80);
        assert_eq!(no_ipv6.unwrap(), None);
    }
}
