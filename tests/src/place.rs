//! Where the tools of a test keep backups and WAL.

use std::collections::BTreeMap;

use crate::azure::Container;
use crate::cluster::{Cluster, Recovery};
use crate::gcs::GcsBucket;
use crate::pg_bin::PgBin;
use crate::s3::Bucket;
use crate::tools::Tool;
use crate::workspace::Workspace;

/// What a test may want to know of a store, whatever its kind.
pub trait Remote {
    /// The keys that begin with `prefix`, sorted.
    fn keys(&self, prefix: &str) -> Vec<String>;

    /// The content of an object.
    fn read(&self, key: &str) -> Vec<u8>;

    /// The tags of an object.
    fn tags(&self, key: &str) -> BTreeMap<String, String>;

    /// The keys of the multipart uploads that are still open.
    fn uploads(&self) -> Vec<String>;
}

/// A URL, and what tools need to reach it. The server in it is called `main`.
#[derive(Debug)]
pub struct Place<'w> {
    workspace: &'w Workspace,
    url: String,
    /// Options that every tool needs.
    options: Vec<&'static str>,
    environment: Vec<(&'static str, String)>,
}

impl<'w> Place<'w> {
    /// In the folder `bucket`, which is made.
    pub fn in_directory(workspace: &'w Workspace) -> Self {
        workspace.dir("bucket");
        Self {
            workspace,
            url: workspace.url("bucket"),
            options: Vec::new(),
            environment: Vec::new(),
        }
    }

    /// In the folder `path` of the folder `bucket`.
    pub fn in_directory_at(workspace: &'w Workspace, path: &str) -> Self {
        workspace.dir(format!("bucket/{path}"));
        Self {
            workspace,
            url: workspace.url(&format!("bucket/{path}")),
            options: Vec::new(),
            environment: Vec::new(),
        }
    }

    /// Below the key `path` of a bucket.
    pub fn in_bucket(workspace: &'w Workspace, bucket: &Bucket<'_>, path: &str) -> Self {
        Self {
            workspace,
            url: format!("{}/{path}", bucket.url()),
            options: Vec::new(),
            environment: bucket.environment(),
        }
    }

    /// Below the key `path` of a bucket of Google Cloud Storage.
    pub fn in_gcs(workspace: &'w Workspace, bucket: &GcsBucket, path: &str) -> Self {
        Self {
            workspace,
            url: format!("{}/{path}", bucket.url()),
            environment: bucket.environment(),
            options: vec!["--cloud-provider=google-cloud-storage"],
        }
    }

    /// Below the key `path` of a container.
    pub fn in_container(workspace: &'w Workspace, container: &Container<'_>, path: &str) -> Self {
        Self {
            workspace,
            url: format!("{}/{path}", container.url()),
            options: vec!["--cloud-provider=azure-blob-storage"],
            environment: container.environment(),
        }
    }

    /// What the tools take as their source or destination.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The options that every tool needs to get there.
    pub fn options(&self) -> &[&'static str] {
        &self.options
    }

    /// The variables that lead there.
    pub fn environment(&self) -> &[(&'static str, String)] {
        &self.environment
    }

    /// One of our tools, in the environment that leads there.
    pub fn tool(&self, name: &str) -> Tool<'w> {
        let tool = self.workspace.tool(name);
        tool.envs(self.environment.clone()).args(&self.options)
    }

    /// A primary that archives here with `options`; not running.
    pub fn primary(&self, bin: &PgBin, options: &str) -> Cluster {
        let mut primary = Cluster::create(bin, self.workspace, "primary", &[]);
        let options = format!("{} {options}", self.options.join(" "));
        primary.archive_into(self.workspace, &self.url, "main", &options);
        primary.set_environment(&self.environment);
        primary
    }

    /// The newest backup, restored into folder `name` and made to recover; not
    /// running.
    pub fn restored(&self, bin: &PgBin, name: &str, until: &Recovery<'_>) -> Cluster {
        self.tool("barman-cloud-restore")
            .args([self.url.as_str(), "main", "latest"])
            .arg(self.workspace.path(name))
            .succeed();
        self.recovering(bin, name, until)
    }

    /// The data directory in folder `name`, just restored, made to recover; not running.
    pub fn recovering(&self, bin: &PgBin, name: &str, until: &Recovery<'_>) -> Cluster {
        let mut cluster = Cluster::existing(bin, self.workspace, name);
        let tool = self.workspace.bin("barman-cloud-wal-restore");
        let (options, url) = (self.options.join(" "), &self.url);
        let fetch = format!("{} {options} {url} main %f %p", tool.display());
        cluster.recover_with(&fetch, until);
        cluster.set_environment(&self.environment);
        cluster
    }

    /// A backup of `cluster` by `role`, about to be taken.
    pub fn backup(&self, cluster: &Cluster, role: &str) -> Tool<'w> {
        self.tool("barman-cloud-backup")
            .arg(format!("--host={}", cluster.socket_dir().display()))
            .arg(format!("--user={role}"))
            .args(["--immediate-checkpoint", &self.url, "main"])
    }
}
