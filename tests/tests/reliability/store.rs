//! The network and the store on bad days: whatever happens to requests and
//! answers, a tool does its work or says why not, and nothing is lost.
//!
//! The store is a production server; between it and each tool stands a proxy
//! that does to requests and answers what a test wants.

mod backup;
mod bytes;
mod causes;
mod credentials;
mod days;
mod down;
mod restore;
mod works;

use e2e::{Bucket, FaultProxy, Request, Row, Run, Running, Section, Tool};

/// A row of this part of the document; the tool's name with its marks.
pub(super) fn row(tool: &str, done: &str, found: &str) -> Row {
    Row::new(Section::Store, format!("{tool}: {done}"), found)
}

/// What a tool does in the tests, again and again.
pub(super) trait Work {
    /// The tool's short name in Markdown, and which of its works it is.
    fn name(&self) -> &'static str;

    /// What is found when it was done, in the words of the document.
    fn found(&self) -> &'static str;

    /// The tool, its options and its arguments, in the environment that leads to
    /// the store by way of the proxy.
    fn tool(&self) -> Tool<'_>;

    /// Makes everything as if it had never been done.
    fn undo(&self);

    /// How many requests come before one in the middle.
    fn middle(&self) -> u32 {
        1
    }

    /// Asserts that it was done, wholly and once.
    fn check(&self, run: &Run);
}

/// A work behind a proxy of its own.
pub(super) struct Behind<'s> {
    pub(super) work: Box<dyn Work + 's>,
    pub(super) proxy: FaultProxy,
    bucket: &'s Bucket<'s>,
}

impl<'s> Behind<'s> {
    pub(super) fn new(bucket: &'s Bucket<'s>, work: Box<dyn Work + 's>) -> Self {
        Self {
            proxy: FaultProxy::start(bucket.endpoint()),
            work,
            bucket,
        }
    }

    /// Begins it, with further options.
    pub(super) fn start(&self, options: &[&str]) -> Running {
        self.start_at(&self.proxy.url(), options)
    }

    /// The same with the store looked for elsewhere.
    pub(super) fn start_at(&self, endpoint: &str, options: &[&str]) -> Running {
        let tool = self.work.tool().args(options);
        tool.envs(self.bucket.environment())
            .env("AWS_ENDPOINT_URL", endpoint)
            .start()
    }

    /// Asserts that it was done and that no upload was left open.
    pub(super) fn check(&self, run: &Run) {
        assert_eq!(run.code(), Some(0), "{run}");
        assert_eq!(run.errors(), [""; 0], "{run}");
        self.work.check(run);
        assert_eq!(self.bucket.uploads(), [""; 0], "an upload was left open");
    }

    /// The requests that it takes on a good day, in their order.
    pub(super) fn requests(&self) -> Vec<Request> {
        self.work.undo();
        let before = self.proxy.log().len();
        let run = self.start(&[]).wait();
        self.check(&run);
        self.proxy.log().split_off(before)
    }
}

/// Asserts that a tool did nothing and said why not, in one line.
pub(super) fn assert_refused(run: &Run, code: i32) {
    assert_eq!(run.code(), Some(code), "{run}");
    assert_eq!(run.errors().len(), 1, "{run}");
    assert!(run.stdout.is_empty(), "{run}");
}
