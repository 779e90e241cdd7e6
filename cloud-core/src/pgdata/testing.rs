//! What several tests of this room need.

use std::thread;

use nix::unistd::{Uid, setfsuid};

/// Runs `test` as somebody for whom the modes of files count, unlike root.
pub(super) fn unprivileged(test: impl FnOnce() + Send) {
    thread::scope(|scope| {
        scope.spawn(|| {
            if Uid::effective().is_root() {
                // For this thread alone; it drops the power to read everything, too.
                setfsuid(Uid::from_raw(65534));
            }
            test();
        });
    });
}
