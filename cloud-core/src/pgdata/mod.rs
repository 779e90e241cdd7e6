//! The data directory on disk: walking it, and putting it back.
//!
//! Everything here is blocking file system code that knows PostgreSQL's files, and
//! nothing of stores, compression or connections. Its callers move bytes between
//! the members made and taken here and an archive.

mod cache;
mod control;
mod display;
mod exclude;
mod names;
mod pages;
mod relation;
mod restore;
mod source;
#[cfg(test)]
mod testing;
mod walk;

pub use cache::Gentle;
pub use control::{
    CONTROL_NAME, CONTROL_SIZE, ClusterState, ControlError, ControlFile, ControlParseError,
    ControlProgress, ControlSizes, ControlSnapshot, read_control,
};
pub use display::display_name;
pub use exclude::Rules;
pub use pages::{BadPage, BadPages, Findings, Judgement, PageChecker, PageRules};
pub use relation::{RelationFile, fork_of};
pub use restore::{
    ASIDE_NAME, Contents, Durability, Extent, JOURNAL_NAME, Known, Names, Removed, RestoreError,
    Spared, Target, Unpacker, check_destination, held_of_words, held_to_words, is_held_back,
    of_hex, open_targets, plain_name, refused_at_top, sync_all, to_hex,
};
pub use source::{
    HardLinks, LABEL_NAME, MANIFEST_NAME, OpenFile, OwnerNames, made_member, open_external,
    read_control_member,
};
pub use walk::{Entry, EntryKind, FileId, Found, LeftOut, LeftOutReason, Meta, SourceError, Walk};
