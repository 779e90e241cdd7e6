//! A relay that is ended from outside: what it leaves, and what the next one does.

use e2e::{Fault, FaultProxy, Place, Rule, S3Server, Workspace, wait_until};
use rustix::process::Signal;

use super::{Backup, ID};

/// A request for a part of PGDATA; the tablespace goes before it.
const PART: &str = "^PUT [^?]*/data.tar[?].*partNumber=";

#[test]
fn what_a_signal_ended_is_gone_on_with_by_the_next_attempt() {
    let workspace = Workspace::new();
    let Some(backup) = Backup::new(&workspace) else {
        return;
    };
    for signal in [Signal::INT, Signal::TERM, Signal::KILL] {
        let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
            return;
        };
        let place = Place::in_bucket(&workspace, &bucket, "p");
        let proxy = FaultProxy::start(bucket.endpoint());
        proxy.add(&Rule::new(&Fault::Delay(3600.0)).on(PART).always());
        let tool = backup
            .relay(&place, &["--min-chunk-size=5MB"])
            .envs(bucket.environment_through(&proxy))
            .start();
        wait_until("a part of PGDATA", || {
            let mut log = proxy.log().into_iter();
            let part = |line: &str| line.contains("/data.tar?") && line.contains("partNumber=");
            log.any(|request| part(&request.line)).then_some(())
        });
        tool.signal(signal);
        let ended = tool.wait();
        let data = format!("p/main/base/{ID}/data.tar");
        if signal == Signal::KILL {
            assert_eq!(ended.signal(), Some(9), "{ended}");
            assert_eq!(bucket.uploads(), [data]);
        } else {
            assert_eq!(ended.code(), Some(1), "{ended}");
            let line = "Barman cloud backup was interrupted by the user";
            assert_eq!(ended.errors(), [line], "{ended}");
            assert_eq!(bucket.uploads(), [""; 0], "an upload was left open");
        }
        // Nothing says that there is a backup.
        assert_eq!(
            bucket.keys("p/"),
            [format!("p/main/base/{ID}/16384.tar")],
            "{ended}"
        );
        let next = backup.relay(&place, &["--min-chunk-size=5MB", "-v"]).run();
        assert_eq!(next.code(), Some(0), "{next}");
        let told = next.messages("INFO");
        let sent = told.iter().filter(|line| line.contains("Uploading '"));
        assert_eq!(sent.count(), 1, "{next}");
        backup.goes_and_comes_back(&place, &["--min-chunk-size=5MB"]);
    }
}
