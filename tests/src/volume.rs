//! A disk of one's own: a file system in a file, mounted as a disk would be.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::skip;
use crate::workspace::Workspace;

/// A file system in a file. It is unmounted when this is dropped.
#[derive(Debug)]
pub struct Volume {
    image: PathBuf,
    point: PathBuf,
    options: String,
}

impl Volume {
    /// One of `mib` MiB, mounted with `options` at folder `name` for the owner of the
    /// workspace. That takes root; without, says so and gives `None`; on CI (`CI` is set)
    /// it fails instead.
    pub fn mount(workspace: &Workspace, name: &str, mib: u32, options: &str) -> Option<Self> {
        let image = workspace.path(format!("{name}.img"));
        let file = std::fs::File::create(&image).expect("own folder");
        file.set_len(u64::from(mib) << 20).expect("a sparse file");
        run(Command::new("mkfs.ext4").arg("-q").arg(&image));
        let this = Self {
            image,
            point: workspace.dir(name),
            options: format!("loop,{options}"),
        };
        if !this.try_mount() {
            return skip("no file system can be mounted: run as root");
        }
        workspace.owner().take(&this.point);
        Some(this)
    }

    fn try_mount(&self) -> bool {
        let mut mount = Command::new("mount");
        mount
            .args(["-o", &self.options])
            .args([&self.image, &self.point]);
        let mounted = mount.stdout(Stdio::null()).stderr(Stdio::null()).status();
        mounted.is_ok_and(|status| status.success())
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.point
    }

    /// The device that is mounted.
    pub fn device(&self) -> String {
        self.told("SOURCE")
    }

    /// How it is mounted, as the system's own tool tells it.
    pub fn options(&self) -> String {
        self.told("OPTIONS")
    }

    fn told(&self, column: &str) -> String {
        let mut findmnt = Command::new("findmnt");
        let output = findmnt.args(["-n", "-o", column]).arg(&self.point).output();
        let output = output.expect("findmnt can be started");
        String::from_utf8(output.stdout)
            .expect("plain text")
            .trim()
            .to_owned()
    }

    /// What a cloud does: copies the disk as it is at one moment, while it is in use.
    pub fn freezer(&self) -> impl Fn(&Path) + Send + Sync + 'static {
        let (image, point) = (self.image.clone(), self.point.clone());
        move |to: &Path| {
            run(Command::new("fsfreeze").arg("-f").arg(&point));
            let mut copy = Command::new("cp");
            let copied = copy.arg("--sparse=always").args([&*image, to]).status();
            run(Command::new("fsfreeze").arg("-u").arg(&point));
            assert!(copied.is_ok_and(|status| status.success()));
        }
    }

    /// Mounts another image at the same place, in the same way. Nothing may use the old
    /// one any more.
    pub fn replace(&mut self, image: PathBuf) {
        run(Command::new("umount").arg(&self.point));
        self.image = image;
        assert!(
            self.try_mount(),
            "{} cannot be mounted",
            self.image.display()
        );
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // What still uses it keeps it alive, unseen.
        let mut unmount = Command::new("umount");
        let _ = unmount.arg("--lazy").arg(&self.point).status();
    }
}

fn run(command: &mut Command) {
    let status = command.status();
    let status = status.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
}
