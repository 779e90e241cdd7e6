//! Credentials that the store does not take any more.

use std::fs;
use std::path::PathBuf;

use e2e::{Bucket, Fault, PgBin, Rule, S3Server, Tool, Workspace, of_sample_or_whole};

use super::works::{self};
use super::{Behind, row};

/// A program that gives out other credentials each time it is asked, which last
/// for ever as far as it knows.
struct Source {
    config: PathBuf,
    asked: PathBuf,
}

impl Source {
    fn new(workspace: &Workspace) -> Self {
        let asked = workspace.dir("asked").join("times");
        let times = asked.display();
        let program = format!(
            "echo asked >> {times}\nnumber=$(wc -l < {times})\n\
             echo '{{\"Version\": 1, \"AccessKeyId\": \"test\", \"SecretAccessKey\": \
             \"testtesttest\", \"SessionToken\": \"number-'$number'\"}}'\n"
        );
        let program = workspace.file("program", program);
        let config = format!(
            "[default]\ncredential_process = sh \"{}\"\n",
            program.display()
        );
        Self {
            config: workspace.file("config", config),
            asked,
        }
    }

    /// How often it was asked since the last time.
    fn asked(&self) -> usize {
        let times = fs::read_to_string(&self.asked).unwrap_or_default();
        let _ = fs::remove_file(&self.asked);
        times.lines().count()
    }

    /// The tool with this source in place of the keys of the environment.
    fn give<'t>(&self, behind: &'t Behind<'_>, bucket: &Bucket<'_>) -> Tool<'t> {
        let mut variables = bucket.environment_through(&behind.proxy);
        variables.retain(|(name, _)| !name.contains("KEY"));
        let tool = behind.work.tool().envs(variables);
        tool.env("AWS_CONFIG_FILE", &self.config)
    }
}

/// The answer to a request whose credentials are over.
pub(super) fn expired() -> Fault {
    let text = "<Error><Code>ExpiredToken</Code><Message>The provided token has expired.\
                </Message></Error>";
    Fault::Answer(400, text.to_owned())
}

#[test]
fn credentials_that_end_in_the_middle_are_renewed() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    // It takes any token.
    let Some(bucket) = S3Server::Moto.bucket(&workspace) else {
        return;
    };
    let source = Source::new(&workspace);
    for behind in works::all(&bin, &workspace, &bucket) {
        let done = "the store says in the middle that the credentials have expired, and their \
                    source gives new ones";
        let found = format!("asked for once more; {}", behind.work.found());
        let mut row = row(behind.work.name(), done, &found);
        let middle = behind.work.middle();
        for skip in of_sample_or_whole(vec![middle], (0..=middle + 2).collect()) {
            behind.work.undo();
            behind.proxy.add(&Rule::new(&expired()).skip(skip));
            let before = behind.proxy.log().len();
            let run = source.give(&behind, &bucket).run();
            behind.proxy.clear();
            behind.check(&run);
            let log = behind.proxy.log();
            let met = log[before..].iter().any(|request| request.fault.is_some());
            assert!(met || skip > middle, "{run}");
            assert_eq!(source.asked(), if met { 2 } else { 1 }, "{run}");
            row.lived_through();
        }
        row.finish();
    }
}
