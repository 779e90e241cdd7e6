//! What is wrong with a backup.

/// How many findings are named; the others are counted.
pub(super) const NAMED: usize = 100;

/// What a finding is about. Programs read the words: they do not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// It is not `DONE`.
    Status,
    /// Its record.
    Record,
    /// Which objects it has.
    Part,
    /// An archive as a whole.
    Archive,
    /// A member that a restore refuses.
    Member,
    /// A file that is not what the manifest says.
    File,
    /// The manifest itself.
    Manifest,
    /// Pages of a relation.
    Page,
    /// `pg_control`.
    Control,
    /// The label.
    Label,
    /// A segment of WAL, or several.
    Wal,
    /// The history of a timeline.
    History,
    /// WAL that was let go.
    Gap,
}

impl Kind {
    /// Its word.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Record => "record",
            Self::Part => "part",
            Self::Archive => "archive",
            Self::Member => "member",
            Self::File => "file",
            Self::Manifest => "manifest",
            Self::Page => "page",
            Self::Control => "control",
            Self::Label => "label",
            Self::Wal => "wal",
            Self::History => "history",
            Self::Gap => "gap",
        }
    }

    /// What to do about it.
    pub(super) fn advice(self) -> &'static str {
        match self {
            Self::Status => "use another backup",
            Self::Part | Self::Archive => {
                "put the object back from a copy, or use another backup and take a new one"
            }
            Self::Record
            | Self::Member
            | Self::File
            | Self::Manifest
            | Self::Control
            | Self::Label => "use another backup and take a new one",
            Self::Page => {
                "the server's own copy may be as damaged: look at it with pg_amcheck, and keep older \
                 backups"
            }
            Self::Wal | Self::History => {
                "put the file back from a copy, or take a new backup: no recovery goes past it"
            }
            Self::Gap => "take a new backup: no recovery goes past it",
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) kind: Kind,
    /// The key of an object, and behind a colon the member in it.
    pub(super) place: String,
    /// What it is, as the end of a sentence.
    pub(super) detail: String,
}

/// The first findings, and how many there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Findings {
    pub(super) named: Vec<Finding>,
    pub(super) total: u64,
}

impl Findings {
    /// Adds one.
    pub(super) fn note(&mut self, kind: Kind, place: impl Into<String>, detail: impl Into<String>) {
        self.total += 1;
        if self.named.len() < NAMED {
            self.named.push(Finding {
                kind,
                place: place.into(),
                detail: detail.into(),
            });
        }
    }

    /// Adds others behind these.
    pub(super) fn append(&mut self, others: Self) {
        self.total += others.total;
        let room = NAMED.saturating_sub(self.named.len());
        self.named.extend(others.named.into_iter().take(room));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_counted_and_the_first_are_named() {
        let mut one = Findings::default();
        for number in 0..150 {
            one.note(Kind::File, number.to_string(), "");
        }
        assert_eq!((one.named.len(), one.total), (NAMED, 150));
        let mut all = Findings::default();
        all.note(Kind::Part, "first", "");
        all.append(one);
        assert_eq!((all.named.len(), all.total), (NAMED, 151));
        assert_eq!(all.named[0].place, "first");
        assert_eq!(all.named[99].place, "98");
    }
}
