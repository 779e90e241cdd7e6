//! Answers in JSON that hold credentials. Errors show nothing of them.

use std::time::SystemTime;

use aws_credential_types::Credentials;
use serde_json::Value;

/// A text that is not empty. Names are written in more ways than one.
pub(super) fn text<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    let fields = value.as_object()?;
    let mut found = fields
        .iter()
        .filter(|(key, _)| key.eq_ignore_ascii_case(name));
    found.next()?.1.as_str().filter(|text| !text.is_empty())
}

/// A time as RFC 3339 writes it, or with `UTC` at the end, as old logins did.
pub(super) fn time(value: &Value, name: &str) -> Option<SystemTime> {
    let text = text(value, name)?;
    let text = match text.strip_suffix("UTC") {
        Some(text) => format!("{text}Z"),
        None => text.to_owned(),
    };
    let time: jiff::Timestamp = text.parse().ok()?;
    Some(time.into())
}

/// Credentials as agents and programs print them.
///
/// # Errors
///
/// What is missing.
pub(super) fn credentials(answer: &[u8], from: &'static str) -> Result<Credentials, String> {
    let value: Value =
        serde_json::from_slice(answer).map_err(|_| "the answer is not JSON".to_owned())?;
    if let Some(code) = text(&value, "Code")
        && !code.eq_ignore_ascii_case("success")
    {
        let message = text(&value, "Message").unwrap_or("no message");
        return Err(format!("{code}: {message}"));
    }
    let wanted = |name: &str| {
        text(&value, name)
            .map(str::to_owned)
            .ok_or_else(|| format!("the answer has no `{name}`"))
    };
    let token = text(&value, "SessionToken").or_else(|| text(&value, "Token"));
    let until = time(&value, "Expiration");
    if until.is_none() && text(&value, "Expiration").is_some() {
        return Err("the answer's `Expiration` is not a time".into());
    }
    let (id, secret) = (wanted("AccessKeyId")?, wanted("SecretAccessKey")?);
    let token = token.map(str::to_owned);
    Ok(Credentials::new(id, secret, token, until, from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_read_and_what_is_missing_is_told() {
        let full = br#"{"Code":"Success","AccessKeyId":"id","SecretAccessKey":"hush",
            "Token":"token","Expiration":"2030-01-02T03:04:05Z"}"#;
        let read = credentials(full, "test").unwrap();
        assert_eq!(read.access_key_id(), "id");
        assert_eq!(read.session_token(), Some("token"));
        assert!(read.expiry() > Some(SystemTime::UNIX_EPOCH));
        for (answer, expected) in [
            ("hush", "the answer is not JSON"),
            (
                r#"{"AccessKeyId":"hush"}"#,
                "the answer has no `SecretAccessKey`",
            ),
            (
                r#"{"Code":"AssumeRoleUnauthorizedAccess","Message":"no trust"}"#,
                "AssumeRoleUnauthorizedAccess: no trust",
            ),
            (
                r#"{"AccessKeyId":"a","SecretAccessKey":"b","Expiration":"hush"}"#,
                "the answer's `Expiration` is not a time",
            ),
        ] {
            let error = credentials(answer.as_bytes(), "test").unwrap_err();
            assert_eq!(error, expected);
        }
    }

    #[test]
    fn times_are_read_in_the_forms_they_are_written() {
        let value = serde_json::json!({
            "a": "2020-06-17T10:02:08UTC", "b": "2020-06-17T10:02:08Z",
            "c": "2020-06-17T12:02:08+02:00", "d": "soon",
        });
        assert!(time(&value, "a").is_some());
        assert_eq!(time(&value, "a"), time(&value, "b"));
        assert_eq!(time(&value, "a"), time(&value, "c"));
        assert_eq!(time(&value, "d"), None);
    }
}
