//! A door for fuzzing: what the service answers.

use http::{HeaderMap, StatusCode};
use serde_json::Value;

use super::error::Failure;
use super::request::Answer;
use super::{list, uploads};
use crate::key::Prefix;
use crate::store::ReadRange;
use crate::store::wire::{Place, xml};

/// A page of a listing, lists of uploads and parts, a complaint, and the places of bytes.
pub(crate) fn answers(data: &[u8]) {
    if let Ok(value) = serde_json::from_slice::<Value>(data)
        && let Ok(page) = list::page(&value)
    {
        let mut keys = page.objects.iter().map(|object| &object.key);
        assert!(keys.all(|key| !key.as_str().is_empty()));
    }
    if let Ok(root) = xml::parse(data) {
        let prefix = Prefix::text("p/");
        if let Ok(begun) = uploads::begun(&root, &prefix) {
            let mut keys = begun.iter().map(|upload| &upload.key);
            assert!(keys.all(|key| key.strip_prefix(&prefix).is_some()));
        }
        let _ = uploads::truncated(&root);
    }
    for status in [200, 400, 403, 500] {
        let failure = Failure::answered(&Answer {
            status: StatusCode::from_u16(status).expect("a status"),
            headers: HeaderMap::new(),
            body: data.to_vec().into(),
        });
        assert!(!failure.text.contains('\n'));
    }
    let text = String::from_utf8_lossy(data);
    for line in text.lines() {
        let asked = ReadRange {
            start: 5,
            end: Some(10),
            version: None,
        };
        if let Ok(place) = Place::of(Some(5), Some(line), &asked) {
            assert_eq!(place.bytes, 5..10);
        }
    }
}
