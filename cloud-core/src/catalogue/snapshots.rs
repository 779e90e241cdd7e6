//! Disk snapshots as list and show print them: with every field that is known of
//! their cloud, those that the record lacks being null, and with no others.

use super::literal::Literal;

/// What is known of a cloud: of the place, and of each snapshot.
const KNOWN: [(&str, &[&str], &[&str]); 3] = [
    (
        "aws",
        &["account_id", "region"],
        &[
            "device_name",
            "snapshot_id",
            "snapshot_name",
            "snapshot_lock_mode",
        ],
    ),
    (
        "azure",
        &["subscription_id", "resource_group"],
        &["location", "lun", "snapshot_name"],
    ),
    (
        "gcp",
        &["project"],
        &["device_name", "snapshot_name", "snapshot_project"],
    ),
];

/// The snapshots of a record in full. Those of a cloud that is not known here stay
/// as they are.
pub(super) fn in_full(snapshots: &Literal) -> Literal {
    let provider = snapshots.get("provider").and_then(Literal::as_str);
    let known = KNOWN.iter().find(|(name, ..)| Some(*name) == provider);
    let Some((name, of_place, of_snapshot)) = known else {
        return snapshots.clone();
    };
    let all = snapshots.get("snapshots").and_then(Literal::items);
    let all = all.unwrap_or_default().iter().map(|snapshot| {
        let mount = ["mount_options", "mount_point"];
        Literal::dict([
            ("mount", fields(snapshot.get("mount"), &mount)),
            ("provider", fields(snapshot.get("provider"), of_snapshot)),
        ])
    });
    Literal::dict([
        ("provider", Literal::Str((*name).to_owned())),
        (
            "provider_info",
            fields(snapshots.get("provider_info"), of_place),
        ),
        ("snapshots", Literal::List(all.collect())),
    ])
}

fn fields(from: Option<&Literal>, names: &[&str]) -> Literal {
    let value = |name: &str| from.and_then(|from| from.get(name)).cloned();
    Literal::dict(
        names
            .iter()
            .map(|name| (*name, value(name).unwrap_or(Literal::None))),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_null_and_what_is_not_known_is_left_out() {
        for (record, full) in [
            (
                "{'provider': 'aws', 'snapshots': []}",
                "{'provider': 'aws', 'provider_info': {'account_id': None, 'region': None}, \
                 'snapshots': []}",
            ),
            (
                "{'snapshots': [{'provider': {'lun': 1, 'x': 2}, 'more': 3}], 'provider': 'azure'}",
                "{'provider': 'azure', 'provider_info': {'subscription_id': None, \
                 'resource_group': None}, 'snapshots': [{'mount': {'mount_options': None, \
                 'mount_point': None}, 'provider': {'location': None, 'lun': 1, \
                 'snapshot_name': None}}]}",
            ),
            (
                "{'provider': 'other', 'x': 1}",
                "{'provider': 'other', 'x': 1}",
            ),
            ("[1]", "[1]"),
        ] {
            let record = Literal::parse(record).unwrap();
            assert_eq!(in_full(&record).to_string(), full);
        }
    }
}
