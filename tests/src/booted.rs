//! A system that systemd has booted: a container with this machine's programs, files of its
//! own, and its own processes. The network is this machine's.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::{fs, io};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::workspace::Workspace;
use crate::{skip, wait_until};

/// The folders that there have to be.
const FOLDERS: [&str; 11] = [
    "usr",
    "etc/systemd/system",
    "var/log",
    "run",
    "proc",
    "sys",
    "dev",
    "tmp",
    "root",
    "home",
    // A home that the user of the servers has on Debian.
    "var/lib/postgresql",
];

/// The files of a system, before it is booted.
#[derive(Debug)]
pub struct System {
    root: PathBuf,
    over_usr: Option<PathBuf>,
    group: Option<Group>,
}

impl System {
    /// The least that systemd boots, at a folder of this name, with the users of this
    /// machine. `None` if there is no `systemd-nspawn`, or nobody may start it.
    pub fn new(workspace: &Workspace, name: &str) -> Option<Self> {
        let starts = Command::new("systemd-nspawn").arg("--version").output();
        if !starts.is_ok_and(|output| output.status.success()) {
            return skip("systemd-nspawn is missing: install what Debian calls systemd-container");
        }
        if !nix::unistd::geteuid().is_root() {
            return skip("no system can be booted: run as root");
        }
        let this = Self {
            root: workspace.path(name),
            over_usr: None,
            group: Group::new(),
        };
        for folder in FOLDERS {
            this.folder(folder);
        }
        for link in ["bin", "sbin", "lib", "lib64"] {
            symlink(format!("usr/{link}"), this.path(link)).expect("it is a new folder");
        }
        symlink("/run", this.path("var/run")).expect("it is a new folder");
        for file in ["passwd", "group", "nsswitch.conf", "os-release"] {
            let text = fs::read(Path::new("/etc").join(file)).expect("every system has it");
            this.file(&format!("etc/{file}"), 0o644, text);
        }
        // It gets a number when it is booted.
        this.file("etc/machine-id", 0o644, "");
        Some(this)
    }

    /// Where a path of the system is now.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// A folder of root's.
    pub fn folder(&self, path: &str) -> PathBuf {
        let path = self.path(path);
        fs::create_dir_all(&path).expect("a folder can be made in a temporary folder");
        path
    }

    /// A file of root's, with a mode.
    pub fn file(&self, path: &str, mode: u32, content: impl AsRef<[u8]>) {
        let path = self.path(path);
        let folder = path.parent().expect("a file is in a folder");
        fs::create_dir_all(folder).expect("a folder can be made in a temporary folder");
        fs::write(&path, content).expect("a file can be written in a temporary folder");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("root may do so");
    }

    /// Lays a folder over `/usr` of this machine, as if a package had been installed.
    pub fn install(&mut self, usr: &Path) {
        self.over_usr = Some(usr.to_owned());
    }

    /// What starts something in it; options and a command are to follow.
    fn container(&self) -> Command {
        let mut container = Command::new("sh");
        match &self.group {
            Some(group) => container.args(["-c", &group.enter()]),
            None => container.args(["-c", "exec \"$@\""]),
        };
        container.arg("sh");
        container
            .args(["systemd-nspawn", "--quiet", "--register=no", "--keep-unit"])
            .args(["--resolv-conf=off", "--timezone=off"])
            .arg("--directory")
            .arg(&self.root);
        match &self.over_usr {
            Some(over) => container.arg(format!("--overlay-ro=/usr:{}:/usr", over.display())),
            None => container.arg("--bind-ro=/usr"),
        };
        container
    }

    /// What a program in it comes to, run by this user as in a container whose root is
    /// read-only and which has `folder` of this machine mounted where it is.
    pub fn command(&self, user: &str, folder: &Path) -> Command {
        let mut container = self.container();
        container
            .args(["--read-only", "--as-pid2", "--pipe"])
            .arg(format!("--user={user}"))
            .arg(format!("--bind={}", folder.display()));
        container
    }

    /// Boots it.
    ///
    /// # Panics
    ///
    /// If it does not come up; with all that it said.
    pub fn boot(self) -> Booted {
        let said = self.root.with_extension("log");
        let log = fs::File::create(&said).expect("a file can be made in a temporary folder");
        let mut container = self.container();
        container.args(["--boot", "--console=pipe"]);
        let child = container
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("there are descriptors left"))
            .stderr(log)
            .spawn()
            .expect("it was there just now");
        let mut booted = Booted {
            child,
            first: None,
            _system: self,
        };
        booted.first = Some(wait_until("a first process", || {
            let ended = booted.child.try_wait().expect("it is our child");
            assert!(
                ended.is_none(),
                "{}",
                fs::read_to_string(&said).unwrap_or_default()
            );
            booted.first_process()
        }));
        wait_until("the system to be up", || {
            let state = booted.run("systemctl is-system-running").stdout;
            ["running\n", "degraded\n"]
                .iter()
                .any(|up| state == up.as_bytes())
                .then_some(())
        });
        booted
    }
}

/// A running system; it goes when this is dropped.
#[derive(Debug)]
pub struct Booted {
    child: Child,
    first: Option<Pid>,
    _system: System,
}

impl Booted {
    /// The first process in there, as this machine numbers it, once it is systemd.
    fn first_process(&self) -> Option<Pid> {
        let pid = self.child.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        let child = children.split_whitespace().next()?;
        let name = fs::read_to_string(format!("/proc/{child}/comm")).ok()?;
        let number = child.parse().expect("the kernel writes numbers");
        (name == "systemd\n").then(|| Pid::from_raw(number))
    }

    /// What a line for the shell, run there by root, comes to.
    pub fn run(&self, line: &str) -> Output {
        let first = self.first.expect("it was booted");
        Command::new("nsenter")
            .arg(format!("--target={first}"))
            .args(["--all", "--", "sh", "-c", line])
            .env_clear()
            .envs([
                ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
                ("LC_ALL", "C.UTF-8"),
            ])
            .stdin(Stdio::null())
            .output()
            .expect("every system has nsenter")
    }

    /// What such a line prints.
    ///
    /// # Panics
    ///
    /// If it fails.
    pub fn succeed(&self, line: &str) -> String {
        let output = self.run(line);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {errors}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Booted {
    fn drop(&mut self) {
        // All processes go with the first one, and then what started it.
        let gone = self
            .first
            .is_some_and(|first| kill(first, Signal::SIGKILL).is_ok());
        if !gone {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// A control group for a system, in each hierarchy that systemd uses. Where one runs it makes
/// and removes them itself.
#[derive(Debug)]
struct Group(Vec<PathBuf>);

impl Group {
    fn new() -> Option<Self> {
        if Path::new("/run/systemd/system").exists() {
            return None;
        }
        let all = ["/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"];
        let own = |hierarchy: &str| {
            let path = Path::new(hierarchy).join(format!("e2e-{}", std::process::id()));
            fs::create_dir(&path).ok()?;
            Some(path)
        };
        Some(Self(all.into_iter().filter_map(own).collect()))
    }

    /// A line for a shell that enters it, and becomes what its words say.
    fn enter(&self) -> String {
        let enter = |path: &PathBuf| format!("echo $$ >{}/cgroup.procs && ", path.display());
        let lines: String = self.0.iter().map(enter).collect();
        lines + "exec \"$@\""
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for path in &self.0 {
            wait_until("the processes of the system to end", || {
                remove_group(path).is_ok().then_some(())
            });
        }
    }
}

/// Removes a control group and those in it.
fn remove_group(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_group(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}
