//! Every parser of what nobody vouches for, as functions of bytes: objects of a bucket,
//! answers of stores, files that other runs left, words of users.
//!
//! A target panics if a parser does, or if something does not hold that must hold for
//! any input: what was read and printed is read back the same, no name leads out of a
//! directory, pieces give what the whole gives. `fuzz/` runs the targets under libFuzzer; the tests
//! here run them over the corpus that is kept there, and over inputs made of it.
//!
//! Not a part of the library: it is there for tests and with the feature `fuzzing`.

mod archives;
mod names;
mod postgresql;
mod records;
mod words;

#[cfg(test)]
mod tests;

/// Something to feed.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, which is also that of its folder below `fuzz/corpus`.
    pub name: &'static str,
    /// Reads an input.
    ///
    /// # Panics
    ///
    /// If something is found.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    target("answers", answers),
    target("codecs", archives::codecs),
    target("conninfo", crate::pg::fuzzing::conninfo),
    target("control", postgresql::control),
    target("info", records::info),
    target("manifest", postgresql::manifest),
    target("names", names::names),
    target("notes", notes),
    target("restore", archives::restore),
    target("segment", postgresql::segment),
    target("tar", archives::tar),
    target("words", words::words),
];

const fn target(name: &'static str, run: fn(&[u8])) -> Target {
    Target { name, run }
}

/// Answers of stores, and files that say how to reach them, as far as we read them
/// ourselves.
fn answers(data: &[u8]) {
    #[cfg(feature = "gcp")]
    crate::store::gcs_answers(data);
    #[cfg(feature = "azure")]
    crate::store::azure_answers(data);
    #[cfg(feature = "aws")]
    crate::store::s3_answers(data);
    let _ = data;
}

/// What calls leave for one another on this machine, and of gaps in a bucket.
fn notes(data: &[u8]) {
    records::gap(data);
    crate::ops::wal_restore::fuzzing::notes(data);
    crate::ops::wal_archive::fuzzing::notes(data);
    let scratch = archives::Scratch::new();
    crate::ops::restore::fuzzing::journal(data, || scratch.target());
}

/// The text of an input, whatever its bytes are.
fn text(data: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(data)
}
