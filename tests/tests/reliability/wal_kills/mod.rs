//! `kill -9` at random moments, under load: of calls that archive, of calls that
//! restore, and of the helpers that fetch ahead.

mod archivers;
mod first_process;
mod recoveries;
mod scene;

use std::time::Instant;

/// Says how much a test did, which differs from run to run and so is not in the document.
/// `cargo nextest run --success-output=final` shows it.
#[expect(clippy::print_stderr, reason = "for whoever runs a test by hand")]
fn say(done: &str, since: Instant) {
    eprintln!("{done}, in {} s", since.elapsed().as_secs());
}
