//! GNU tar and Python's tarfile read what we write, and we read what they write.
//!
//! Both are how operators look into an archive by hand, and Python's is what the
//! tools we are compatible with use.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

use super::tests::{archive, content, file, member, odd_members, read};
use super::*;

/// Runs a program on `input`; `None`, with a word about it, if it is missing.
fn run(command: &mut Command, input: &[u8]) -> Option<Output> {
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(input).expect("written");
    std::io::Seek::rewind(&mut file).expect("rewound");
    match command.stdin(file).stderr(Stdio::piped()).output() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            eprintln!("not tested with {command:?}: it is not installed");
            None
        }
        run => Some(run.expect("started")),
    }
}

fn succeed(command: &mut Command, input: &[u8]) -> Option<Vec<u8>> {
    let output = run(command, input)?;
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {complaints}");
    assert_eq!(complaints, "", "{command:?}");
    Some(output.stdout)
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("memory");
        text
    })
}

/// One line per member: kind, names in hexadecimal, numbers, seconds, content.
fn described(member: &Member, content: &[u8]) -> String {
    let kind = match member.kind {
        MemberKind::File { .. } => 0,
        MemberKind::HardLink { .. } => 1,
        MemberKind::Symlink { .. } => 2,
        MemberKind::Device => 3,
        MemberKind::Directory => 5,
        MemberKind::Fifo => 6,
    };
    format!(
        "{kind} {} {} {:o} {} {} {} {} {} {} {}",
        hex(&member.name),
        hex(member.target().unwrap_or_default()),
        member.mode,
        member.uid,
        member.gid,
        hex(&member.user),
        hex(&member.group),
        member.size(),
        milliseconds(member.mtime),
        hex(content),
    )
}

/// As fine as Python's numbers are exact.
fn milliseconds(time: Mtime) -> i64 {
    time.seconds * 1000 + i64::from(time.nanos + 500_000) / 1_000_000
}

const DESCRIBE: &str = "
import sys, tarfile
archive = tarfile.open(fileobj=sys.stdin.buffer, mode='r|', encoding='utf-8')
for m in archive:
    data = archive.extractfile(m).read() if m.isreg() else b''
    text = lambda t: t.encode('utf-8', 'surrogateescape').hex()
    print(m.type.decode(), text(m.name), text(m.linkname), '%o' % m.mode, m.uid, m.gid,
          text(m.uname), text(m.gname), m.size, round(m.mtime * 1000), data.hex())
";

#[test]
fn python_reads_every_odd_member() {
    let members = odd_members();
    let mut python = Command::new("python3");
    let Some(output) = succeed(python.args(["-c", DESCRIBE]), &archive(&members)) else {
        return;
    };
    let output = String::from_utf8(output).expect("ASCII");
    let lines: Vec<_> = output.lines().map(str::trim_end).collect();
    assert_eq!(lines.len(), members.len());
    for (line, member) in lines.iter().zip(&members) {
        let expected = described(member, &content(&member.name, member.size()));
        assert_eq!(*line, expected.trim_end());
    }
}

#[test]
fn gnu_tar_unpacks_every_odd_member() {
    // A link has to lead to something that is there.
    let mut members = odd_members();
    members.retain(|member| member.name != b"long hard link");
    let folder = tempfile::tempdir().expect("a folder");
    let mut tar = Command::new("tar");
    tar.args(["-x", "-p", "--no-same-owner", "-f", "-"]);
    // Times long ago are right, but it calls them implausible; and it need not
    // be told that names are not UTF-8.
    tar.args([
        "--warning=no-timestamp",
        "--warning=no-unknown-keyword",
        "-C",
    ]);
    if succeed(tar.args([folder.path()]), &archive(&members)).is_none() {
        return;
    }
    for member in &members {
        let path = folder
            .path()
            .join(std::ffi::OsStr::from_bytes(&member.name));
        let found = fs::symlink_metadata(&path).unwrap_or_else(|e| panic!("{member:?}: {e}"));
        match &member.kind {
            MemberKind::File { size } => {
                assert_eq!(
                    fs::read(&path).expect("a file"),
                    content(&member.name, *size)
                );
            }
            MemberKind::Directory => assert!(found.is_dir()),
            MemberKind::Symlink { target } => {
                let link = fs::read_link(&path).expect("a link");
                assert_eq!(link.as_os_str().as_bytes(), target);
                // A link's mode is always the same.
                continue;
            }
            MemberKind::HardLink { .. } => assert_eq!(found.nlink(), 2),
            _ => {}
        }
        let time = Mtime {
            seconds: found.mtime(),
            nanos: u32::try_from(found.mtime_nsec()).expect("nanoseconds"),
        };
        assert_eq!(found.mode() & 0o7777, member.mode, "{member:?}");
        assert_eq!(time, member.mtime, "{member:?}");
    }
}

#[test]
fn both_understand_a_size_of_8_gib_and_more() {
    let large = file(b"base/5/16385", (8 << 30) + 5);
    let header = header::encode(&large).expect("a header");
    let script = "
import sys, tarfile
print(tarfile.open(fileobj=sys.stdin.buffer).next().size)
";
    if let Some(output) = succeed(Command::new("python3").args(["-c", script]), &header) {
        assert_eq!(output, b"8589934597\n");
    }
    // It fails later, for there is no content.
    if let Some(output) = run(Command::new("tar").args(["-tv", "-f", "-"]), &header) {
        let listing = String::from_utf8_lossy(&output.stdout);
        assert!(listing.contains(" 8589934597 "), "{listing}");
    }
}

/// Writes the members of one `Member` list in a format of Python's.
const WRITE: &str = "
import io, sys, tarfile
form = {'pax': tarfile.PAX_FORMAT, 'gnu': tarfile.GNU_FORMAT, 'ustar': tarfile.USTAR_FORMAT}
archive = tarfile.open(fileobj=sys.stdout.buffer, mode='w|', format=form[sys.argv[1]],
                       encoding='utf-8')
for line in sys.stdin:
    kind, name, link, mode, uid, gid, user, group, size, ms, *data = line.split(' ')
    text = lambda t: bytes.fromhex(t).decode('utf-8', 'surrogateescape')
    m = tarfile.TarInfo(text(name))
    m.type, m.linkname, m.mode = kind.encode(), text(link), int(mode, 8)
    m.uid, m.gid, m.uname, m.gname = int(uid), int(gid), text(user), text(group)
    m.size, m.mtime = int(size), int(ms) // 1000 if int(ms) % 1000 == 0 else int(ms) / 1000
    archive.addfile(m, io.BytesIO(bytes.fromhex(data[0])))
archive.close()
";

#[test]
fn what_python_writes_is_read() {
    for format in ["pax", "gnu", "ustar"] {
        let members: Vec<_> = odd_members()
            .into_iter()
            // Milliseconds, whole seconds, or nothing odd at all.
            .map(|mut member| {
                member.mtime.nanos = match format {
                    "pax" => member.mtime.nanos / 1_000_000 * 1_000_000,
                    _ => 0,
                };
                // Python's own field ends with a zero byte too.
                member.group.truncate(if format == "pax" { 32 } else { 31 });
                member
            })
            .filter(|member| {
                format != "ustar"
                    || ((member.name.len() < 100 || member.name.len() == 124)
                        && member.target().is_none_or(|target| target.len() < 100)
                        && member.uid < 2_097_152
                        && member.gid < 2_097_152
                        && (0..1 << 33).contains(&member.mtime.seconds))
            })
            .collect();
        let input: String = members
            .iter()
            .map(|member| described(member, &content(&member.name, member.size())) + "\n")
            .collect();
        let mut python = Command::new("python3");
        let Some(bytes) = succeed(python.args(["-c", WRITE, format]), input.as_bytes()) else {
            return;
        };
        let found = read(&bytes).unwrap_or_else(|e| panic!("{format}: {e}"));
        assert_eq!(found.len(), members.len());
        assert!(members.len() > 10);
        for ((found, data), member) in found.into_iter().zip(members) {
            assert_eq!(data, content(&member.name, member.size()), "{format}");
            assert_eq!(found, member, "{format}");
        }
    }
}

/// A folder with what a data directory may have, and its members.
fn folder() -> (tempfile::TempDir, Vec<Member>) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut members = odd_members();
    members.retain(|member| {
        // Its directories are no members.
        let deep = member.name.starts_with(b"directory/");
        !deep && !matches!(member.kind, MemberKind::HardLink { .. } | MemberKind::Fifo)
    });
    for member in &members {
        let path = folder
            .path()
            .join(std::ffi::OsStr::from_bytes(&member.name));
        match &member.kind {
            MemberKind::File { size } => {
                let mut file = File::create(&path).expect("a file");
                file.write_all(&content(&member.name, *size))
                    .expect("written");
            }
            MemberKind::Directory if path.exists() => {}
            MemberKind::Directory => fs::create_dir(&path).expect("a directory"),
            MemberKind::Symlink { target } => {
                symlink(std::ffi::OsStr::from_bytes(target), &path).expect("a link");
            }
            _ => unreachable!("left out above"),
        }
    }
    fs::hard_link(
        folder.path().join("global/1262"),
        folder.path().join("global/a hard link"),
    )
    .expect("a link");
    for member in &members {
        let path = folder
            .path()
            .join(std::ffi::OsStr::from_bytes(&member.name));
        if member.target().is_none() {
            // Set-user-id would be lost, or not, depending on who runs this.
            let mode = fs::Permissions::from_mode(member.mode & 0o777);
            fs::set_permissions(&path, mode).expect("set");
        }
        set_time(&path, member.mtime);
    }
    (folder, members)
}

fn set_time(path: &Path, time: Mtime) {
    let time = Timespec {
        tv_sec: time.seconds,
        tv_nsec: time.nanos.into(),
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("set");
}

#[test]
fn what_gnu_tar_writes_is_read() {
    let (folder, members) = folder();
    for format in ["posix", "gnu", "oldgnu"] {
        let mut tar = Command::new("tar");
        tar.args(["-c", "-f", "-", "--sort=name", "--format", format]);
        tar.args(["--owner=postgres:3000000", "--group=postgres:104", "-C"]);
        tar.args([folder.path(), Path::new(".")]);
        let Some(bytes) = succeed(&mut tar, b"") else {
            return;
        };
        let found = read(&bytes).unwrap_or_else(|e| panic!("{format}: {e}"));
        let mut links = 0;
        for (found, data) in &found {
            if let MemberKind::HardLink { target } = &found.kind {
                assert_eq!(target, b"./global/1262");
                links += 1;
                continue;
            }
            let bare = |name: &[u8]| name.strip_prefix(b"./").unwrap_or(name).to_vec();
            let name = bare(&found.name);
            let mut expected = members
                .iter()
                .find(|member| bare(&member.name) == name)
                .unwrap_or_else(|| panic!("{format}: {found:?}"))
                .clone();
            assert_eq!(*data, content(&expected.name, expected.size()));
            expected.name.clone_from(&found.name);
            expected.mode = if expected.target().is_some() {
                0o777
            } else {
                expected.mode & 0o777
            };
            (expected.uid, expected.gid) = (3_000_000, 104);
            expected.user = b"postgres".to_vec();
            expected.group = b"postgres".to_vec();
            if format != "posix" {
                expected.mtime.nanos = 0;
            }
            assert_eq!(*found, expected, "{format}");
        }
        assert_eq!(links, 1);
        assert_eq!(found.len(), members.len() + 1);
    }
}

#[test]
fn sparse_files_of_gnu_tar_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let sparse = File::create(folder.path().join("holes")).expect("a file");
    sparse.set_len(1 << 20).expect("set");
    for format in ["posix", "gnu"] {
        let mut tar = Command::new("tar");
        tar.args(["-c", "-S", "-f", "-", "--format", format, "-C"]);
        let Some(bytes) = succeed(tar.args([folder.path(), Path::new("holes")]), b"") else {
            return;
        };
        let error = read(&bytes).expect_err("sparse");
        assert!(error.to_string().contains("a sparse file"), "{error}");
    }
}

/// What the listings of real archives of the reference say of each member.
#[test]
fn archives_are_described_as_the_listing_of_the_reference_has_them() {
    let listing = include_str!("../../../tests/golden/tar-listings/gzip-tablespace.tar.gz.txt");
    let mut members = Vec::new();
    for line in listing.lines().filter(|line| !line.starts_with('#')) {
        let columns: Vec<_> = line.split(' ').collect();
        let [kind, mode, uid, gid, user, group, size, mtime, _, name] = columns[..] else {
            panic!("{line}");
        };
        let kind = match kind {
            "5" => MemberKind::Directory,
            _ => MemberKind::File {
                size: size.parse().expect("a number"),
            },
        };
        members.push(Member {
            mode: u32::from_str_radix(mode, 8).expect("octal"),
            uid: uid.parse().expect("a number"),
            gid: gid.parse().expect("a number"),
            user: user.into(),
            group: group.into(),
            mtime: pax::parse_time(mtime.as_bytes()).expect("a time"),
            ..member(name.as_bytes(), kind)
        });
    }
    let script = "
import sys, tarfile
for m in tarfile.open(fileobj=sys.stdin.buffer, mode='r|'):
    print(m.type.decode(), '%o' % m.mode, m.uid, m.gid, m.uname, m.gname, m.size, m.mtime,
          m.linkname or '-', m.name)
";
    let archive = archive(&members);
    let Some(output) = succeed(Command::new("python3").args(["-c", script]), &archive) else {
        return;
    };
    let output = String::from_utf8(output).expect("UTF-8");
    let listed: Vec<_> = listing.lines().skip(1).collect();
    assert_eq!(output.lines().collect::<Vec<_>>(), listed);
}
