//! Archives of base backups, from the codec to the disk.

use std::fs;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::codec::{CODECS, Codec};
use crate::pgdata::{Durability, Target, Unpacker, is_held_back, plain_name};
use crate::tar::{Member, TarReader, TarWriter};

/// Plain bytes of which more are not looked at.
const ENOUGH: u64 = 1 << 20;

/// A compressed stream, whose codec is the first byte of the input. Read in other pieces, and
/// on other threads, it gives the same bytes.
pub(super) fn codecs(data: &[u8]) {
    let Some((which, stream)) = data.split_first() else {
        return;
    };
    let codec = CODECS[usize::from(*which) % CODECS.len()];
    let whole = codec.decoder(Box::new(io::Cursor::new(stream.to_vec())));
    let whole = decoded(codec, whole, 64 << 10);
    let pieces = Pieces(io::Cursor::new(stream.to_vec()));
    let slowly = decoded(codec, codec.parallel_decoder(Box::new(pieces), 2), 509);
    match (whole, slowly) {
        (Some(whole), Some(slowly)) => assert!(whole == slowly, "{codec:?}"),
        // Of a stream that fails somewhere, more may come out before.
        (Some(other), None) | (None, Some(other)) => {
            assert_eq!(other.len() as u64, ENOUGH, "{codec:?}");
        }
        (None, None) => {}
    }
}

/// The first bytes of a stream, if it does not fail before.
fn decoded(
    codec: &dyn Codec,
    decoder: io::Result<Box<dyn Read + Send>>,
    at_a_time: usize,
) -> Option<Vec<u8>> {
    let mut plain = decoder.ok()?;
    let (mut bytes, mut buffer) = (Vec::new(), vec![0; at_a_time]);
    loop {
        let most = ENOUGH - bytes.len() as u64;
        if most == 0 {
            return Some(bytes);
        }
        let end = buffer.len().min(usize::try_from(most).expect("not much"));
        match plain.read(&mut buffer[..end]) {
            Ok(0) => return Some(bytes),
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            Err(_) => {
                assert!(plain.read(&mut buffer).is_err(), "it goes on: {codec:?}");
                return None;
            }
        }
    }
}

/// Delivers little at a time.
struct Pieces(io::Cursor<Vec<u8>>);

impl Read for Pieces {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = buf.len().min(13);
        self.0.read(&mut buf[..most])
    }
}

/// A tar archive. Its members, written again, are read as they were.
pub(super) fn tar(data: &[u8]) {
    let mut members = Vec::new();
    let mut writer = TarWriter::new(Vec::new());
    let mut reader = TarReader::new(data);
    while let Ok(Some(member)) = reader.next_member() {
        assert!(!member.name.is_empty() && !member.name.contains(&0));
        let mut content = Vec::new();
        if reader.read_to_end(&mut content).is_err() {
            assert!(reader.next_member().is_err(), "an archive that is cut");
            break;
        }
        assert_eq!(content.len() as u64, member.size());
        // Some of what can be read is never written: devices, names with zero bytes.
        let added = writer.append(&member, &mut &content[..], &mut Vec::new());
        if added.is_ok() {
            members.push((member, content));
        }
    }
    writer.finish().expect("memory takes everything");
    let written = writer.get_ref().clone();
    let mut again = TarReader::new(&written[..]);
    for (member, content) in members {
        let found = again.next_member().expect("it was just written");
        assert_eq!(found, Some(member));
        let mut read = Vec::new();
        again.read_to_end(&mut read).expect("it was just written");
        assert_eq!(read, content);
    }
    assert!(matches!(again.next_member(), Ok(None)));
}

/// An archive that is restored to a directory. Nothing beside that directory changes.
pub(super) fn restore(data: &[u8]) {
    let scratch = Scratch::new();
    let target = scratch.target();
    let mut held: Vec<(Member, Vec<u8>)> = Vec::new();
    let mut unpacker = Unpacker::new(&target, 0, Durability::Unsynced);
    let mut reader = TarReader::new(data);
    while let Ok(Some(member)) = reader.next_member() {
        if plain_name(&member.name).is_err() {
            break;
        }
        if is_held_back(&member.name) {
            let mut bytes = Vec::new();
            if reader.read_to_end(&mut bytes).is_err() {
                break;
            }
            held.push((member, bytes));
        } else if unpacker
            .unpack(&member, &mut BufReader::new(&mut reader))
            .is_err()
        {
            break;
        }
    }
    if target.finish().is_ok() {
        for (member, bytes) in &held {
            let _ = target.write_held(member, bytes, Durability::Unsynced);
        }
    }
    drop(target);
    scratch.assert_as_it_was();
}

/// A directory with a file in it, which goes when this is dropped.
pub(super) struct Scratch {
    path: PathBuf,
    modes: [u32; 2],
}

impl Scratch {
    pub(super) fn new() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("barman-cloud-fuzzing-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("it is the first of its name");
        let outside = path.join("outside");
        fs::write(&outside, "outside").expect("there is room");
        let modes = [mode(&path), mode(&outside)];
        Self { path, modes }
    }

    /// The directory `target` in it, new if it is not there.
    pub(super) fn target(&self) -> Target {
        Target::open(&self.path.join("target")).expect("nobody else has it")
    }

    /// Nothing happened beside `target`.
    fn assert_as_it_was(&self) {
        let outside = self.path.join("outside");
        let content = fs::read(&outside).expect("it is still there");
        assert_eq!(content, b"outside");
        let entries = fs::read_dir(&self.path).expect("it is still there");
        let mut names: Vec<_> = entries
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["outside", "target"]);
        assert_eq!([mode(&self.path), mode(&outside)], self.modes);
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = remove(&self.path);
    }
}

/// Removes a directory whose directories may be closed to its owner.
fn remove(path: &Path) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    fs::remove_dir(path)
}

/// Mode and owner.
fn mode(path: &Path) -> u32 {
    let found = path.metadata().expect("it is still there");
    found.mode() ^ found.uid() << 16
}
