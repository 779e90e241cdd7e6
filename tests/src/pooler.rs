//! A connection pooler of the worst kind: in the middle of a session it goes on
//! with another server process, or not at all.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use crate::owner::Owner;

/// The name of a server's socket in its folder.
const SOCKET: &str = ".s.PGSQL.5432";

/// What a pooler does with the first query that contains a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whim {
    /// It gives it to another server process, and all later ones.
    Another,
    /// It keeps it, and every later one: no answer ever comes.
    Silence,
}

/// It stands before one server, and lives as long as the test's process, which runs
/// one test.
#[derive(Debug)]
pub struct Pooler(PathBuf);

impl Pooler {
    /// Listens in the folder `dir`, in front of the server in `server`. It has its `whim`
    /// at the first query of a session that contains `at`.
    pub fn before(
        server: &Path,
        dir: PathBuf,
        owner: Owner,
        (whim, at): (Whim, &'static str),
    ) -> Self {
        let listener = UnixListener::bind(dir.join(SOCKET)).expect("the folder is empty");
        owner.take(&dir.join(SOCKET));
        let server: Arc<Path> = Arc::from(server.join(SOCKET));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let server = Arc::clone(&server);
                thread::spawn(move || serve(client, &server, whim, at.as_bytes()));
            }
        });
        Self(dir)
    }

    /// What `--host` takes.
    pub fn dir(&self) -> &Path {
        &self.0
    }
}

/// Serves one session, until one of its sides ends it, and ends it on the other too.
fn serve(mut client: UnixStream, server: &Path, whim: Whim, at: &[u8]) -> Option<()> {
    let greeting = packet(&mut client, &[])?;
    let mut processes = vec![UnixStream::connect(server).ok()?];
    processes[0].write_all(&greeting).ok()?;
    answer(&processes[0], &client);
    let asked = |query: &[u8]| query.windows(at.len()).any(|part| part == at);
    while let Some(query) = query(&mut client) {
        if asked(&query) && whim == Whim::Silence {
            // Until the client has had enough.
            while self::query(&mut client).is_some() {}
            break;
        }
        if asked(&query) && processes.len() == 1 {
            processes.push(begin(server, &greeting, &client)?);
        }
        // The first keeps its session, as in a pool.
        let sent = processes.last_mut()?.write_all(&query);
        if sent.is_err() {
            break;
        }
    }
    for process in processes {
        let _ = process.shutdown(Shutdown::Both);
    }
    client.shutdown(Shutdown::Both).ok()
}

fn query(client: &mut UnixStream) -> Option<Vec<u8>> {
    let mut kind = [0];
    client.read_exact(&mut kind).ok()?;
    packet(client, &kind)
}

/// A session of its own with another process, whose first words nobody hears.
fn begin(server: &Path, greeting: &[u8], client: &UnixStream) -> Option<UnixStream> {
    let mut session = UnixStream::connect(server).ok()?;
    session.write_all(greeting).ok()?;
    loop {
        let mut kind = [0];
        session.read_exact(&mut kind).ok()?;
        packet(&mut session, &kind)?;
        if kind == *b"Z" {
            answer(&session, client);
            return Some(session);
        }
    }
}

/// Passes on what a process says.
fn answer(from: &UnixStream, to: &UnixStream) {
    let streams = (from.try_clone(), to.try_clone());
    if let (Ok(mut from), Ok(mut to)) = streams {
        thread::spawn(move || std::io::copy(&mut from, &mut to));
    }
}

/// A message, after the byte that says of what kind it is: its length, which counts
/// itself, and the rest.
fn packet(stream: &mut UnixStream, kind: &[u8]) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let size = usize::try_from(u32::from_be_bytes(length)).ok()?;
    let mut body = vec![0; size.checked_sub(4)?];
    stream.read_exact(&mut body).ok()?;
    Some([kind, &length, &body].concat())
}
