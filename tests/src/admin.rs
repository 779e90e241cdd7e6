//! A helper in Python that looks into the stores of a test with a client of its
//! own, past the tools that are tested.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

use crate::project;

/// A text of an answer.
pub(crate) fn text(value: &Value) -> String {
    value.as_str().expect("a key is a string").to_owned()
}

/// Texts of an answer, by name.
pub(crate) fn texts(value: &Value) -> BTreeMap<String, String> {
    let pairs = value.as_object().expect("an object in JSON");
    pairs
        .iter()
        .map(|(name, value)| (name.clone(), text(value)))
        .collect()
}

/// The helper, which lives as long as the test's bucket: its start takes longer
/// than any request. One JSON array a line is asked, one object answered.
#[derive(Debug)]
pub(crate) struct Admin {
    child: Child,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Admin {
    /// Runs `script` of `tests/servers` by a Python that has the client it needs.
    pub(crate) fn start(
        python: &str,
        script: &str,
        environment: &[(&'static str, String)],
    ) -> Self {
        let mut child = Command::new(python)
            .arg(project().join("tests/servers").join(script))
            .env_clear()
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("could not start {python}: {error}"));
        let requests = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("it is piped"));
        Self {
            child,
            requests,
            answers,
        }
    }

    pub(crate) fn ask(&mut self, request: &Value) -> Value {
        let requests = self.requests.as_mut().expect("open until the drop");
        writeln!(requests, "{request}").expect("the helper reads until its input ends");
        let mut line = String::new();
        let read = self.answers.read_line(&mut line);
        read.expect("the helper answers in UTF-8");
        let mut answer: Value = serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("{request} was answered with {line:?}: {error}"));
        assert!(answer.get("error").is_none(), "{request}: {answer}");
        answer["ok"].take()
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        // The end of its input ends it.
        self.requests = None;
        let _ = self.child.wait();
    }
}
