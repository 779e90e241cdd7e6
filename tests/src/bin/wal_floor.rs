//! What archiving WAL costs at the least: compressing it and encrypting it.
//!
//! usage: `wal_floor LEVEL AUTHORITY CERTIFICATE KEY FILE…`
//!
//! Each file is compressed by the zstd library, in one piece and with a checksum,
//! and what comes out is encrypted by a TLS connection that ends in this process
//! (its other end is not counted). Nothing is written or sent, and reading the file is
//! not counted. LEVEL 0 compresses nothing. The names are those of PEM files.
//!
//! The only line of output is a JSON object: `files`, `plain` and `sent` (bytes
//! before and after compression), `encode` and `tls` (seconds of processor time).

use std::fs;
use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

/// How much is encrypted at a time; a connection buffers as much.
const PIECE: usize = 64 << 10;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "wal_floor: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [level, authority, certificate, key, files @ ..] = words.as_slice() else {
        return Err("usage: wal_floor LEVEL AUTHORITY CERTIFICATE KEY FILE…".into());
    };
    let mut encoder = Encoder::new(level.parse()?)?;
    let mut tunnel = Tunnel::new(authority, certificate, key)?;
    let (mut plain, mut sent) = (0, 0);
    let (mut encode, mut tls) = (Duration::ZERO, Duration::ZERO);
    for name in files {
        let file = fs::read(name).map_err(|error| format!("cannot read {name}: {error}"))?;
        let begin = now();
        let packed = encoder.encode(&file)?;
        encode += now().saturating_sub(begin);
        plain += file.len();
        sent += packed.len();
        for piece in packed.chunks(PIECE) {
            tls += tunnel.send(piece)?;
        }
    }
    let line = serde_json::json!({
        "files": files.len(),
        "plain": plain,
        "sent": sent,
        "encode": encode.as_secs_f64(),
        "tls": tls.as_secs_f64(),
    });
    writeln!(io::stdout(), "{line}")?;
    Ok(())
}

/// Processor time of this thread, the only one.
fn now() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let parts = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    match parts {
        (Ok(seconds), Ok(nanoseconds)) => Duration::new(seconds, nanoseconds),
        _ => Duration::ZERO,
    }
}

/// The library, with a buffer that is used again.
struct Encoder {
    raw: Option<zstd::bulk::Compressor<'static>>,
    buffer: Vec<u8>,
}

impl Encoder {
    fn new(level: i32) -> io::Result<Self> {
        let raw = (level != 0)
            .then(|| {
                let mut raw = zstd::bulk::Compressor::new(level)?;
                raw.include_checksum(true)?;
                Ok::<_, io::Error>(raw)
            })
            .transpose()?;
        let buffer = Vec::new();
        Ok(Self { raw, buffer })
    }

    fn encode<'a>(&'a mut self, plain: &'a [u8]) -> io::Result<&'a [u8]> {
        let Some(raw) = &mut self.raw else {
            return Ok(plain);
        };
        let most = zstd::zstd_safe::compress_bound(plain.len());
        self.buffer.resize(most, 0);
        let size = raw.compress_to_buffer(plain, self.buffer.as_mut_slice())?;
        Ok(&self.buffer[..size])
    }
}

/// A TLS connection with both of its ends.
struct Tunnel {
    client: ClientConnection,
    server: ServerConnection,
    wire: Vec<u8>,
}

impl Tunnel {
    fn new(
        authority: &str,
        certificate: &str,
        key: &str,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(authority)?)?;
        let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let chain = vec![CertificateDer::from_pem_file(certificate)?];
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, PrivateKeyDer::from_pem_file(key)?)?;
        let name = ServerName::try_from("localhost")?;
        let mut tunnel = Self {
            client: ClientConnection::new(Arc::new(client), name)?,
            server: ServerConnection::new(Arc::new(server))?,
            wire: Vec::new(),
        };
        while tunnel.client.is_handshaking() || tunnel.server.is_handshaking() {
            tunnel.deliver()?;
            let mut answer = Vec::new();
            while tunnel.server.wants_write() {
                tunnel.server.write_tls(&mut answer)?;
            }
            let mut answer = answer.as_slice();
            while !answer.is_empty() {
                tunnel.client.read_tls(&mut answer)?;
                tunnel.client.process_new_packets()?;
            }
        }
        Ok(tunnel)
    }

    /// Encrypts `piece` and has it read at the other end; the time of the former.
    fn send(&mut self, piece: &[u8]) -> Result<Duration, Box<dyn std::error::Error>> {
        let begin = now();
        self.client.writer().write_all(piece)?;
        while self.client.wants_write() {
            self.client.write_tls(&mut self.wire)?;
        }
        let spent = now().saturating_sub(begin);
        let arrived = self.deliver()?;
        if arrived != piece {
            return Err("what was encrypted did not come out again".into());
        }
        Ok(spent)
    }

    /// Gives the server what the client has for it, and has it read all that was
    /// encrypted.
    fn deliver(&mut self) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
        while self.client.wants_write() {
            self.client.write_tls(&mut self.wire)?;
        }
        let mut arrived = Vec::new();
        let mut wire = self.wire.as_slice();
        while !wire.is_empty() {
            self.server.read_tls(&mut wire)?;
            let state = self.server.process_new_packets()?;
            let begin = arrived.len();
            arrived.resize(begin + state.plaintext_bytes_to_read(), 0);
            self.server.reader().read_exact(&mut arrived[begin..])?;
        }
        self.wire.clear();
        Ok(arrived)
    }
}
