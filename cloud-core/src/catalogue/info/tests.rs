use std::path::{Path, PathBuf};

use super::*;

fn golden_files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            golden_files(&path, found);
        } else if path
            .extension()
            .is_some_and(|extension| extension == "info")
        {
            found.push(path);
        }
    }
}

fn parse(text: &str) -> Result<BackupInfo, InfoError> {
    BackupInfo::parse(text.as_bytes(), &TimeZone::UTC)
}

#[test]
fn every_golden_file_prints_back_byte_for_byte() {
    let mut found = Vec::new();
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden");
    golden_files(Path::new(golden), &mut found);
    assert!(
        found.len() >= 17,
        "only {} golden files were found",
        found.len()
    );
    for path in found {
        let bytes = std::fs::read(&path).unwrap();
        let info = BackupInfo::parse(&bytes, &TimeZone::UTC).unwrap();
        assert_eq!(
            info.to_text(),
            String::from_utf8(bytes).unwrap(),
            "{}",
            path.display()
        );
        assert!(info.unknown_fields.is_empty(), "{}", path.display());
    }
}

#[test]
fn values_have_their_types() {
    let golden = include_bytes!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/golden/backup-info/done-gzip-tablespace-named.info"
    ));
    let info = BackupInfo::parse(golden, &TimeZone::UTC).unwrap();
    assert_eq!(info.status, Status::Done);
    assert_eq!(info.backup_name.as_deref(), Some("golden-gzip"));
    assert_eq!(info.timeline, Some(1));
    assert_eq!(info.begin_offset, Some(40));
    assert_eq!(
        info.tablespaces,
        [Tablespace {
            name: "fast".into(),
            oid: 16384,
            location: "/var/lib/postgresql/tblspc/fast".into()
        }]
    );
    let label = info.backup_label.unwrap();
    assert!(label.starts_with("START WAL LOCATION: 0/4000028") && label.ends_with("1\n"));
    let stats = info.copy_stats.unwrap();
    assert_eq!(stats.get("number_of_workers"), Some(&Literal::Int(2)));
}

#[test]
fn unknown_fields_are_kept_where_they_belong() {
    let text = BackupInfo::default().to_text();
    let more = text.replace("mode=None\n", "mode=None\nnew_field=x=y\n");
    let info = parse(&more).unwrap();
    assert_eq!(
        info.unknown_fields,
        [("new_field".to_owned(), "x=y".to_owned())]
    );
    assert_eq!(info.to_text(), more);
}

#[test]
fn a_file_of_nothing_but_unknown_fields_is_refused() {
    let text = |fields: usize| {
        let lines: Vec<String> = (0..fields).map(|n| format!("f{n}=")).collect();
        lines.join("\n")
    };
    assert!(parse(&text(MAX_UNKNOWN_FIELDS)).is_ok());
    assert_eq!(
        parse(&text(MAX_UNKNOWN_FIELDS + 1)),
        Err(InfoError::TooManyFields)
    );
    assert!(parse(&"f=\n".repeat(MAX_UNKNOWN_FIELDS + 1)).is_ok());
}

#[test]
fn a_patient_reader_takes_comments_blanks_and_repetitions() {
    let info = parse(
        "# note\r\n\r\n status = FAILED \r\nstatus=DONE\nbackup_id=x\ntablespaces=[]\nincluded_files=('a',)\ntimeline=None",
    )
    .unwrap();
    assert_eq!(info.status, Status::Done);
    assert!(info.tablespaces.is_empty());
    assert_eq!(info.included_files, ["a"]);
    assert_eq!(info.timeline, None);
    assert_eq!(parse("").unwrap().status, Status::Empty);
}

#[test]
fn wrong_values_make_the_file_unreadable() {
    for text in [
        "no equals sign",
        "timeline=x",
        "begin_time=yesterday",
        "tablespaces=[1]",
        "tablespaces=[('a', -1, 'b')]",
        "copy_stats={",
        "backup_label=[1]",
        "included_files=[1]",
        "size=-1",
        "version=99999999999",
    ] {
        assert!(parse(text).is_err(), "{text}");
    }
    assert_eq!(
        BackupInfo::parse(b"mode=\xff", &TimeZone::UTC),
        Err(InfoError::NotText)
    );
}

#[test]
fn a_newline_in_a_value_does_not_break_the_file() {
    let info = BackupInfo {
        error: Some("one\nstatus=DONE".into()),
        status: Status::Failed,
        ..BackupInfo::default()
    };
    assert_eq!(parse(&info.to_text()).unwrap().status, Status::Failed);
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "([a-z_]{0,12}=)?\\PC*") {
        let _ = parse(&text);
    }
}
