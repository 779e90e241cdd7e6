//! Which file system of this machine is on which disk, as the kernel tells it.
//!
//! A disk of a cloud is known here by what belongs to it alone: the serial number of
//! an NVMe device, or a link below `/dev` that the system makes for it. From there it
//! is the kernel's number of the device that decides, never the beginning of a name.
//!
//! Only a file system right on the disk, or on its only mounted partition, is taken:
//! below LVM, RAID or encryption one disk alone tells nothing of the file system on
//! top, and several disks are not seen at one moment.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What a disk is known by on the machine that it is attached to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceId {
    /// Serial number of its NVMe device, without blanks.
    pub serial: Option<String>,
    /// Where else it may be, absolute; the first that is there counts, unless the serial
    /// number was found.
    pub paths: Vec<PathBuf>,
}

/// A file system that is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where.
    pub point: PathBuf,
    /// How, as `findmnt -o OPTIONS` prints it: options of the mount point and of the file
    /// system, without those that `mount` keeps for programs alone.
    pub options: String,
    /// The kernel's number of its device, `259:0`.
    device: String,
    /// What was mounted; file systems on several devices have a number of their own.
    source: PathBuf,
    /// Which directory of the file system is seen at `point`.
    root: PathBuf,
}

/// Why the file system of a disk is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MountError {
    /// No device of this machine is that disk.
    #[error("no device of this machine is that disk (looked for {0})")]
    NoDevice(String),
    /// Nothing on it is mounted.
    #[error("{0} is not mounted")]
    NotMounted(String),
    /// Something is between disk and file system.
    #[error(
        "{device} is part of {holder} (LVM, RAID or encryption): only file systems right on a disk \
         can be told from its snapshot"
    )]
    Held {
        /// The disk, or a partition of it.
        device: String,
        /// What holds it.
        holder: String,
    },
    /// More than one of its partitions is mounted.
    #[error(
        "several partitions of {0} are mounted: only one mount point of a disk can be recorded"
    )]
    Several(String),
}

/// The file systems of this machine.
#[derive(Debug)]
pub struct Mounts {
    /// `/`, but in tests.
    system: PathBuf,
    mounts: Vec<Mount>,
}

impl Mounts {
    /// Reads the kernel's table as this process sees it.
    ///
    /// # Errors
    ///
    /// There is no `/proc`.
    pub fn read() -> io::Result<Self> {
        Self::below(Path::new("/"))
    }

    fn below(system: &Path) -> io::Result<Self> {
        let table = fs::read(system.join("proc/self/mountinfo"))?;
        let table = String::from_utf8_lossy(&table);
        let mounts = table.lines().filter_map(Mount::parse).collect();
        Ok(Self {
            system: system.to_owned(),
            mounts,
        })
    }

    /// The file system on a disk.
    ///
    /// # Errors
    ///
    /// There is none, or not one that can be told from the disk alone.
    pub fn of_disk(&self, disk: &DeviceId) -> Result<&Mount, MountError> {
        let device = self.find(disk)?;
        if let Some(mount) = self.mount_of(&device) {
            return Ok(mount);
        }
        let partitions = self.partitions(&device);
        let mut mounted = partitions.iter().filter_map(|one| self.mount_of(one));
        if let Some(mount) = mounted.next() {
            return match mounted.next() {
                None => Ok(mount),
                Some(_) => Err(MountError::Several(shown(&device))),
            };
        }
        for one in std::iter::once(&device).chain(&partitions) {
            if let Some(holder) = names_in(&one.sys.join("holders")).into_iter().next() {
                return Err(MountError::Held {
                    device: shown(one),
                    holder,
                });
            }
        }
        Err(MountError::NotMounted(shown(&device)))
    }

    /// The file system that a path is on: the last one mounted that is above it. `path` is
    /// absolute and has no links.
    pub fn holding(&self, path: &Path) -> Option<&Mount> {
        let above = self
            .mounts
            .iter()
            .filter(|mount| path.starts_with(&mount.point));
        // Of several with one mount point the last one hides the others.
        above.max_by_key(|mount| mount.point.components().count())
    }

    /// The device that is the disk.
    fn find(&self, disk: &DeviceId) -> Result<Device, MountError> {
        let by_serial = disk.serial.as_ref().and_then(|serial| {
            names_in(&self.block()).into_iter().find_map(|name| {
                let sys = self.block().join(&name);
                let found = fs::read_to_string(sys.join("device/serial")).ok()?;
                (found.trim() == serial)
                    .then(|| self.device(&name))
                    .flatten()
            })
        });
        let by_path = || {
            disk.paths.iter().find_map(|path| {
                let below = path.strip_prefix("/").unwrap_or(path);
                // A link that leads nowhere is no device.
                let real = self.system.join(below).canonicalize().ok()?;
                self.device(real.file_name()?.to_str()?)
            })
        };
        by_serial.or_else(by_path).ok_or_else(|| {
            let serial = disk
                .serial
                .iter()
                .map(|serial| format!("serial number {serial}"));
            let paths = disk.paths.iter().map(|path| path.display().to_string());
            MountError::NoDevice(serial.chain(paths).collect::<Vec<_>>().join(", "))
        })
    }

    fn block(&self) -> PathBuf {
        self.system.join("sys/class/block")
    }

    /// What the kernel knows of a block device by its own name.
    fn device(&self, name: &str) -> Option<Device> {
        let sys = self.block().join(name);
        let number = fs::read_to_string(sys.join("dev")).ok()?;
        Some(Device {
            name: name.to_owned(),
            number: number.trim().to_owned(),
            sys,
        })
    }

    fn partitions(&self, device: &Device) -> Vec<Device> {
        let names = names_in(&device.sys).into_iter();
        names
            .filter(|name| device.sys.join(name).join("partition").exists())
            .filter_map(|name| self.device(&name))
            .collect()
    }

    /// The mount of a device: that of its whole file system before one of a directory in it.
    fn mount_of(&self, device: &Device) -> Option<&Mount> {
        let is_on = |mount: &&Mount| {
            mount.device == device.number
                || mount.device.starts_with("0:") && self.is_same(&mount.source, device)
        };
        let seen = |mount: &&Mount| {
            let on_top = self.mounts.iter().rfind(|other| other.point == mount.point);
            on_top == Some(*mount)
        };
        let mut on_it: Vec<_> = self.mounts.iter().filter(is_on).filter(seen).collect();
        on_it.sort_by_key(|mount| mount.root != Path::new("/"));
        on_it.into_iter().next()
    }

    /// Whether a path, as `mount` was given it, is the device.
    fn is_same(&self, source: &Path, device: &Device) -> bool {
        let Ok(below) = source.strip_prefix("/") else {
            return false;
        };
        let real = self.system.join(below).canonicalize();
        real.is_ok_and(|real| real.file_name().is_some_and(|name| name == &*device.name))
    }
}

/// The names in a directory, sorted; none if it is not there.
fn names_in(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut names: Vec<_> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// A block device.
struct Device {
    name: String,
    /// `major:minor`
    number: String,
    /// Its directory in `/sys`.
    sys: PathBuf,
}

fn shown(device: &Device) -> String {
    format!("/dev/{}", device.name)
}

impl Mount {
    /// A line of `mountinfo`. Source: proc(5).
    fn parse(line: &str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(2);
        let (device, root) = (left.next()?, left.next()?);
        let (point, of_mount) = (left.next()?, left.next()?);
        let mut right = right.split(' ').skip(1);
        let (source, of_system) = (right.next()?, right.next().unwrap_or_default());
        Some(Self {
            point: plain(point).into(),
            options: merged(of_mount, of_system),
            device: device.to_owned(),
            source: plain(source).into(),
            root: plain(root).into(),
        })
    }
}

/// The options of a mount point and those of its file system, as one list: `rw` only if
/// both are.
fn merged(of_mount: &str, of_system: &str) -> String {
    let all = || of_mount.split(',').chain(of_system.split(','));
    let first = if all().any(|option| option == "ro") {
        "ro"
    } else {
        "rw"
    };
    let others = all().filter(|option| !["rw", "ro", ""].contains(option));
    let list: Vec<_> = std::iter::once(first).chain(others).map(plain).collect();
    list.join(",")
}

/// A field whose blanks and backslashes are written as `\040` and so on.
fn plain(field: &str) -> String {
    let mut rest = field;
    let mut text = String::new();
    while let Some((before, after)) = rest.split_once('\\') {
        text.push_str(before);
        let byte = after
            .get(..3)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        // What is written so is ASCII: blank, tab, newline, backslash.
        if let Some(byte) = byte.filter(u8::is_ascii) {
            text.push(char::from(byte));
            rest = &after[3..];
        } else {
            text.push('\\');
            rest = after;
        }
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A machine in a directory: devices and a table of mounts.
    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new(mountinfo: &str) -> Self {
            let machine = Self(tempfile::tempdir().unwrap());
            machine.file("proc/self/mountinfo", mountinfo);
            machine
        }

        fn file(&self, name: &str, text: &str) {
            let path = self.0.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn disk(&self, name: &str, number: &str) {
            self.file(&format!("dev/{name}"), "");
            self.file(
                &format!("sys/class/block/{name}/dev"),
                &format!("{number}\n"),
            );
        }

        /// As the kernel has it: known by itself, and below its disk.
        fn partition(&self, disk: &str, name: &str, number: &str) {
            self.disk(name, number);
            self.file(&format!("sys/class/block/{disk}/{name}/partition"), "1\n");
        }

        fn link(&self, name: &str, to: &str) {
            let path = self.0.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            symlink(self.0.path().join(to), path).unwrap();
        }

        fn mounts(&self) -> Mounts {
            Mounts::below(self.0.path()).unwrap()
        }

        fn point(&self, disk: &DeviceId) -> Result<PathBuf, MountError> {
            self.mounts().of_disk(disk).map(|mount| mount.point.clone())
        }
    }

    fn at(path: &str) -> DeviceId {
        DeviceId {
            serial: None,
            paths: vec![path.into()],
        }
    }

    fn with_serial(serial: &str) -> DeviceId {
        DeviceId {
            serial: Some(serial.into()),
            paths: vec!["/dev/sdf".into(), "/dev/xvdf".into()],
        }
    }

    const TWO: &str = "\
22 1 259:1 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p1 rw\n\
30 22 259:2 / /var/lib/pg\\040sql rw,noatime shared:3 - xfs /dev/nvme1n1 rw,attr2,noquota\n";

    #[test]
    fn a_disk_is_known_by_its_serial_number_whatever_its_name_is() {
        let machine = Machine::new(TWO);
        machine.disk("nvme0n1", "259:0");
        machine.file("sys/class/block/nvme0n1/device/serial", "vol0a  \n");
        machine.disk("nvme1n1", "259:2");
        machine.file(
            "sys/class/block/nvme1n1/device/serial",
            "vol0b               \n",
        );
        // Another disk has the name that the cloud gave this one.
        machine.disk("sdf", "259:7");
        let mounts = machine.mounts();
        let mount = mounts.of_disk(&with_serial("vol0b")).unwrap();
        assert_eq!(mount.point, Path::new("/var/lib/pg sql"));
        assert_eq!(mount.options, "rw,noatime,attr2,noquota");
        let other = machine.point(&with_serial("vol0")).unwrap_err();
        assert_eq!(other, MountError::NotMounted("/dev/sdf".into()));
    }

    #[test]
    fn a_disk_is_known_by_its_link() {
        let machine = Machine::new("30 22 8:16 / /srv rw - ext4 /dev/sdb rw\n");
        machine.disk("sdb", "8:16");
        machine.link("dev/disk/azure/scsi1/lun0", "dev/sdb");
        assert_eq!(
            machine.point(&at("/dev/disk/azure/scsi1/lun0")).unwrap(),
            Path::new("/srv")
        );
        let absent = machine
            .point(&at("/dev/disk/azure/scsi1/lun1"))
            .unwrap_err();
        assert_eq!(
            absent.to_string(),
            "no device of this machine is that disk (looked for /dev/disk/azure/scsi1/lun1)"
        );
    }

    #[test]
    fn the_only_mounted_partition_counts() {
        let one = "30 22 8:17 / /srv rw - ext4 /dev/sdb1 rw\n";
        let two = "31 22 8:18 / /log rw - ext4 /dev/sdb2 rw\n";
        for (table, expected) in [
            (one.to_owned(), Ok("/srv".into())),
            (
                format!("{one}{two}"),
                Err(MountError::Several("/dev/sdb".into())),
            ),
            (
                String::new(),
                Err(MountError::NotMounted("/dev/sdb".into())),
            ),
        ] {
            let machine = Machine::new(&table);
            machine.disk("sdb", "8:16");
            machine.partition("sdb", "sdb1", "8:17");
            machine.partition("sdb", "sdb2", "8:18");
            assert_eq!(machine.point(&at("/dev/sdb")), expected);
        }
    }

    #[test]
    fn what_lies_below_a_volume_manager_is_refused_by_name() {
        let machine = Machine::new("30 22 253:0 / /srv rw - xfs /dev/mapper/vg-lv rw\n");
        machine.disk("sdb", "8:16");
        machine.file("sys/class/block/sdb/holders/dm-0/dev", "253:0\n");
        let error = machine.point(&at("/dev/sdb")).unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("/dev/sdb is part of dm-0 (LVM, RAID"),
            "{text}"
        );
    }

    #[test]
    fn the_whole_file_system_counts_before_a_directory_of_it_and_not_what_is_hidden() {
        let machine = Machine::new(
            "29 22 8:16 /sub /bound rw - ext4 /dev/sdb rw\n\
             30 22 8:16 / /hidden rw - ext4 /dev/sdb rw\n\
             31 22 8:16 / /srv rw,relatime - ext4 /dev/sdb ro,discard\n\
             32 22 8:32 / /hidden rw - ext4 /dev/sdc rw\n",
        );
        machine.disk("sdb", "8:16");
        let mounts = machine.mounts();
        let mount = mounts.of_disk(&at("/dev/sdb")).unwrap();
        assert_eq!(mount.point, Path::new("/srv"));
        assert_eq!(mount.options, "ro,relatime,discard");
        let holding = |path: &str| mounts.holding(Path::new(path)).map(|mount| &*mount.source);
        assert_eq!(holding("/srv/15/main"), Some(Path::new("/dev/sdb")));
        assert_eq!(holding("/hidden/x"), Some(Path::new("/dev/sdc")));
        assert_eq!(holding("/srv2"), None);
    }

    #[test]
    fn a_file_system_with_a_number_of_its_own_is_known_by_what_was_mounted() {
        let machine = Machine::new("30 22 0:45 /@pg /srv rw - btrfs /dev/sdb rw,subvol=/@pg\n");
        machine.disk("sdb", "8:16");
        assert_eq!(machine.point(&at("/dev/sdb")).unwrap(), Path::new("/srv"));
    }

    #[test]
    fn the_table_of_this_machine_can_be_read() {
        let mounts = Mounts::read().unwrap();
        assert!(mounts.holding(Path::new("/")).is_some());
    }
}
