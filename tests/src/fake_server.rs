//! A server that speaks just enough of protocol 3 to claim a version.
//!
//! Versions that the tools refuse cannot be installed any more; what they say
//! at the start of a session is all that a refusal depends on.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

/// Listens on the loopback address until the test ends.
#[derive(Debug)]
pub struct FakeServer {
    address: SocketAddr,
}

impl FakeServer {
    /// A server that reports `version`, takes everyone in without a password
    /// and answers every query with an error.
    pub fn of_version(version: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback address is there");
        let address = listener.local_addr().expect("it was just bound");
        // Ends with the test's process, which runs one test.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || serve(stream, version));
            }
        });
        Self { address }
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

/// Answers one client until it goes away.
fn serve(mut stream: TcpStream, version: &str) -> Option<()> {
    loop {
        let request = read_body(&mut stream)?;
        // SSLRequest and GSSENCRequest: no, thank you.
        if matches!(request.get(..4)?, [0x04, 0xd2, 0x16, 0x2f | 0x30]) {
            stream.write_all(b"N").ok()?;
            continue;
        }
        break;
    }
    let mut answer = message(b'R', &0_u32.to_be_bytes());
    for (name, value) in [
        ("server_version", version),
        ("server_encoding", "UTF8"),
        ("client_encoding", "UTF8"),
        ("DateStyle", "ISO, MDY"),
        ("integer_datetimes", "on"),
        ("standard_conforming_strings", "on"),
    ] {
        answer.extend(message(b'S', format!("{name}\0{value}\0").as_bytes()));
    }
    answer.extend(message(b'K', &[0, 0, 0, 1, 0, 0, 0, 1]));
    answer.extend(message(b'Z', b"I"));
    stream.write_all(&answer).ok()?;
    loop {
        let mut kind = [0];
        stream.read_exact(&mut kind).ok()?;
        read_body(&mut stream)?;
        match kind[0] {
            b'X' => return None,
            // A query, or the end of a prepared one.
            b'Q' | b'S' => {
                let mut answer = message(b'E', b"SERROR\0C0A000\0Mnot in this fake\0\0");
                answer.extend(message(b'Z', b"I"));
                stream.write_all(&answer).ok()?;
            }
            _ => {}
        }
    }
}

/// What follows a length that counts itself.
fn read_body(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let length = usize::try_from(u32::from_be_bytes(length)).ok()?;
    let mut body = vec![0; length.checked_sub(4).filter(|size| *size < 1 << 20)?];
    stream.read_exact(&mut body).ok()?;
    Some(body)
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("messages here are short");
    let mut bytes = vec![kind];
    bytes.extend(length.to_be_bytes());
    bytes.extend(body);
    bytes
}
