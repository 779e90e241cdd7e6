//! One temporary folder per test, with everything the test makes.
//!
//! Its path is short, because a Unix socket's may have at most 107 bytes, and
//! open to other users, because root's tests run the server as somebody else.
//! It goes when the test ends; `E2E_KEEP=1` keeps it, to look into.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::owner::Owner;
use crate::tools::{self, Tool};

/// `TMPFS_MAGIC`. Source: `linux/magic.h`.
const TMPFS: u64 = 0x0102_1994;

/// A test's folder, removed on drop.
#[derive(Debug)]
pub struct Workspace {
    root: PathBuf,
    owner: Owner,
    _remove: Option<tempfile::TempDir>,
}

impl Workspace {
    /// An empty folder with the tools in `bin` and a `home`.
    pub fn new() -> Self {
        Self::with(tools::put_beside)
    }

    /// The same on a disk, if the system has one for temporary files: what lies in a file
    /// system in memory counts as memory of whoever wrote it.
    pub fn on_disk() -> Self {
        let folders = [temporary(), PathBuf::from("/var/tmp")];
        let on_disk = folders.iter().find(|folder| !is_in_memory(folder));
        Self::below(on_disk.unwrap_or(&folders[0]), tools::put_beside)
    }

    /// The same, but the tools are links to the one program that is all of them.
    pub fn of_one_program() -> Self {
        Self::with(tools::put_links)
    }

    /// The same, with the tools that were installed into this folder.
    pub fn of_installed(folder: &Path) -> Self {
        Self::with(|dir| tools::put_from(folder, dir))
    }

    fn with(put_tools: impl Fn(&Path)) -> Self {
        Self::below(&temporary(), put_tools)
    }

    fn below(parent: &Path, put_tools: impl Fn(&Path)) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("e2e-")
            .tempdir_in(parent)
            .expect("a temporary folder can be made");
        let root = fs::canonicalize(dir.path()).expect("the folder was just made");
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755))
            .expect("own folder's mode can be set");
        let owner = Owner::of_clusters();
        owner.take(&root);
        let remove = if std::env::var_os("E2E_KEEP").is_some() {
            let _: PathBuf = dir.keep();
            None
        } else {
            Some(dir)
        };
        let this = Self {
            root,
            owner,
            _remove: remove,
        };
        this.dir("home");
        put_tools(&this.dir("bin"));
        this
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Who owns what is made here.
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// A path in the folder, whether it exists or not.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root.join(name)
    }

    /// A folder of mode 0755 in it, made if need be.
    pub fn dir(&self, name: impl AsRef<Path>) -> PathBuf {
        let path = self.path(name);
        if !path.is_dir() {
            fs::create_dir_all(&path).expect("a folder can be made in a temporary folder");
            self.owner.take(&path);
        }
        path
    }

    /// A file with this content in it.
    pub fn file(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).expect("a file can be written in a temporary folder");
        self.owner.take(&path);
        path
    }

    /// `file://` and the path of a folder in it.
    pub fn url(&self, name: &str) -> String {
        format!("file://{}", self.path(name).display())
    }

    /// Path of one of the tools, as it is written in `archive_command`.
    pub fn bin(&self, tool: &str) -> PathBuf {
        self.path("bin").join(tool)
    }

    /// A tool to run as the owner of this folder.
    pub fn tool(&self, name: &str) -> Tool<'_> {
        Tool::new(self, name)
    }
}

impl Default for Workspace {
    fn default() -> Self {
        Self::new()
    }
}

/// Where the system has temporary files, unless that is too long a name for a socket.
fn temporary() -> PathBuf {
    let folder = std::env::temp_dir();
    if folder.as_os_str().len() > 60 {
        return PathBuf::from("/tmp");
    }
    folder
}

fn is_in_memory(folder: &Path) -> bool {
    let kind = rustix::fs::statfs(folder).map(|about| about.f_type);
    // Its type differs between processors.
    kind.is_ok_and(|kind| u64::try_from(kind).is_ok_and(|kind| kind == TMPFS))
}
