//! The options of all tools, and which of them must be typed.
//!
//! A tool knows its own options from clap, but a file has those of the others too, and a
//! key that no tool has is a mistake. `tests/tests/e2e/settings` compares the lists with
//! the tools.

use crate::ops::near;

/// Options of every tool.
const OF_ALL: &[&str] = &[
    "addressing-style",
    "aws-profile",
    "azure-credential",
    "cloud-provider",
    "config",
    "endpoint-url",
    "help",
    "log-format",
    "quiet",
    "read-timeout",
    "server",
    "sse-customer-key",
    "test",
    "verbose",
    "version",
];

/// Each tool, without `barman-cloud-`, and the options that it has beside [`OF_ALL`].
const TOOLS: [(&str, &[&str]); 11] = [
    (
        "backup",
        &[
            "aws-await-snapshots-timeout",
            "aws-region",
            "aws-snapshot-lock-cool-off-period",
            "aws-snapshot-lock-duration",
            "aws-snapshot-lock-expiration-date",
            "aws-snapshot-lock-mode",
            "azure-resource-group",
            "azure-subscription-id",
            "bzip2",
            "compression-level",
            "dbname",
            "encoder-threads",
            "encryption",
            "encryption-scope",
            "fail-on-bad-pages",
            "gcp-project",
            "gcp-zone",
            "gzip",
            "host",
            "immediate-checkpoint",
            "jobs",
            "keepalive-interval",
            "kms-key-name",
            "lz4",
            "manifest-checksums",
            "max-archive-size",
            "max-bandwidth",
            "memory-limit",
            "min-chunk-size",
            "name",
            "parallel-archives",
            "port",
            "progress",
            "snappy",
            "snapshot-disk",
            "snapshot-gcp-project",
            "snapshot-instance",
            "snapshot-zone",
            "sse-kms-key-id",
            "stop-timeout",
            "tag",
            "tags",
            "user",
            "zstd",
        ],
    ),
    (
        "backup-delete",
        &[
            "backup-id",
            "batch-size",
            "check-object-lock",
            "dry-run",
            "minimum-redundancy",
            "older-than",
            "purge-orphans",
            "retention-policy",
        ],
    ),
    ("backup-keep", &["release", "status", "target"]),
    ("backup-list", &["format"]),
    ("backup-show", &["format"]),
    ("check-wal-archive", &["timeline"]),
    (
        "metrics",
        &[
            "all-servers",
            "bearer-token-file",
            "compat",
            "format",
            "interval",
            "listen",
            "max-backup-age",
            "max-wal-age",
            "status",
            "textfile",
            "tls-cert",
            "tls-key",
        ],
    ),
    (
        "restore",
        &[
            "allow-incomplete",
            "aws-region",
            "azure-resource-group",
            "delta",
            "gcp-zone",
            "jobs",
            "no-sync",
            "progress",
            "resume",
            "snapshot-recovery-instance",
            "snapshot-recovery-zone",
            "tablespace",
            "target-lsn",
            "target-time",
            "target-tli",
        ],
    ),
    ("verify", &["format", "jobs", "progress", "wal"]),
    (
        "wal-archive",
        &[
            "allow-overwrite",
            "bzip2",
            "compression-level",
            "encryption",
            "encryption-scope",
            "gzip",
            "history-tag",
            "history-tags",
            "kms-key-name",
            "lz4",
            "max-block-size",
            "max-concurrency",
            "max-single-put-size",
            "parallel",
            "queue-max",
            "require-system-id",
            "snappy",
            "spool-dir",
            "sse-kms-key-id",
            "tag",
            "tags",
            "xz",
            "zstd",
        ],
    ),
    (
        "wal-restore",
        &[
            "no-partial",
            "parallel",
            "retry-timeout",
            "spool-dir",
            "unreachable-exit-code",
        ],
    ),
];

/// Options that neither a variable nor a file gives: the line that does it says it.
const TYPED_ONLY: &[&str] = &[
    // Not settings. (`config` and `server` have variables, which are looked up by
    // themselves; that a file names a file or the profile makes no sense.)
    "config",
    "help",
    "server",
    "version",
    // What one call is for. Left in a file or in an environment, they make every later call
    // do something else than it was meant for: archive nothing, delete more, delete less
    // than was believed, restore to another time.
    "backup-id",
    "delta",
    "dry-run",
    "name",
    "older-than",
    "purge-orphans",
    "release",
    "resume",
    "retention-policy",
    "status",
    "target",
    "target-lsn",
    "target-time",
    "target-tli",
    "test",
    "timeline",
    // What gives up data, or the certainty of it.
    "allow-incomplete",
    "allow-overwrite",
    "no-sync",
    "queue-max",
];

/// Options that mean the same, the newer one first, which counts where both are there.
const SYNONYMS: [(&str, &str); 3] = [
    ("gcp-project", "snapshot-gcp-project"),
    ("gcp-zone", "snapshot-recovery-zone"),
    ("gcp-zone", "snapshot-zone"),
];

/// Options that are of no use, and refused, without one of others, where a tool has these.
const NEEDS: [(&str, &[&str]); 6] = [
    ("bearer-token-file", &["listen"]),
    ("compression-level", ALGORITHMS),
    ("format", &["status"]),
    ("interval", &["listen"]),
    ("tls-cert", &["listen"]),
    ("tls-key", &["listen"]),
];

/// Options that choose an algorithm, to each of which `compression-level` means something else.
const ALGORITHMS: &[&str] = &["bzip2", "gzip", "lz4", "snappy", "xz", "zstd"];

/// Options of a backup by snapshots, which has no archives.
const SNAPSHOTS: &[&str] = &["snapshot-disk", "snapshot-instance"];

/// Whether there is such a tool, named without `barman-cloud-`.
pub(super) fn is_tool(name: &str) -> bool {
    tools().any(|tool| tool == name)
}

/// All tools, without `barman-cloud-`.
pub fn tools() -> impl Iterator<Item = &'static str> {
    TOOLS.iter().map(|(tool, _)| *tool)
}

/// The options of a tool, or of all of them, without dashes; of several tools those that
/// they share come several times.
pub fn options(tool: Option<&str>) -> impl Iterator<Item = &'static str> {
    let tools = TOOLS
        .iter()
        .filter(move |(name, _)| tool.is_none_or(|tool| tool == *name));
    let own = tools.flat_map(|(_, options)| options.iter());
    own.chain(OF_ALL).copied()
}

/// Whether the option must be typed.
pub fn is_typed_only(option: &str) -> bool {
    TYPED_ONLY.contains(&option)
}

/// Whether the two are names of one thing.
pub(super) fn are_synonyms(one: &str, other: &str) -> bool {
    SYNONYMS.contains(&(one, other)) || SYNONYMS.contains(&(other, one))
}

/// Whether the tool refuses the two beside each other, though clap does not: a backup by
/// snapshots has nothing to compress, nor several archives at a time.
pub(super) fn are_refused_together(one: &str, other: &str) -> bool {
    let of_archives = |name| ALGORITHMS.contains(&name) || name == "parallel-archives";
    (SNAPSHOTS.contains(&one) && of_archives(other))
        || (SNAPSHOTS.contains(&other) && of_archives(one))
}

/// The options of which this one must not be without all, as far as a tool has them.
pub(super) fn needed_by(option: &str) -> Option<&'static [&'static str]> {
    let found = NEEDS.iter().find(|(name, _)| *name == option);
    found.map(|(_, needed)| *needed)
}

/// The options without which this one means nothing, or something else.
pub(super) fn owners(option: &str) -> &'static [&'static str] {
    if option == "compression-level" {
        ALGORITHMS
    } else {
        &[]
    }
}

/// What was probably meant by `word`, if anything is near.
pub(super) fn nearest(
    word: &str,
    among: impl Iterator<Item = &'static str>,
) -> Option<&'static str> {
    among
        .map(|known| (near::distance(word, known), known))
        .filter(|(distance, known)| *distance <= known.len().div_ceil(3))
        .min()
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_meant_is_the_nearest_if_anything_is_near() {
        for (word, meant) in [
            ("gzipp", Some("gzip")),
            ("endpoint_url", Some("endpoint-url")),
            ("endpointurl", Some("endpoint-url")),
            ("compresion-level", Some("compression-level")),
            ("job", Some("jobs")),
            ("something-else", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, options(None)), meant, "{word}");
        }
    }

    #[test]
    fn lists_are_sorted_and_name_what_there_is() {
        for (tool, list) in TOOLS.iter().chain([&("all", OF_ALL)]) {
            assert!(list.is_sorted(), "{tool}");
        }
        for option in TYPED_ONLY {
            assert!(options(None).any(|known| known == *option), "{option}");
        }
    }
}
