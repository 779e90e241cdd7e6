//! A file system with little room.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::skip;
use crate::workspace::Workspace;

/// A file system in memory. It goes when this is dropped.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// One of `mib` MiB at folder `name`, for the owner of the workspace. That takes
    /// root; without, says so and gives `None`; on CI (`CI` is set) it fails instead.
    pub fn mount(workspace: &Workspace, name: &str, mib: u32) -> Option<Self> {
        let path = workspace.dir(name);
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"])
            .arg(&path);
        let mounted = mount.stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !mounted.is_ok_and(|status| status.success()) {
            return skip("no file system can be mounted: run as root");
        }
        let this = Self { path };
        workspace.owner().take(&this.path);
        Some(this)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The bytes that can be written into it.
    pub fn free(&self) -> u64 {
        let all = rustix::fs::statvfs(&self.path).expect("it is mounted");
        all.f_bavail * all.f_frsize
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // What still uses it keeps it alive, unseen.
        let mut unmount = Command::new("umount");
        let _ = unmount.arg("--lazy").arg(&self.path).status();
    }
}
