//! Listing.

use futures_util::StreamExt;

use super::*;
use crate::store::list_all;

fn page(names: &[&str], token: Option<&str>) -> Answer {
    let item = |name: &&str| {
        json!({
            "name": name, "size": "3", "generation": "5", "updated": "2026-11-21T15:42:31.5Z",
        })
    };
    let mut page = json!({"items": names.iter().map(item).collect::<Vec<_>>()});
    if let Some(token) = token {
        page["nextPageToken"] = json!(token);
    }
    json(200, &page)
}

#[tokio::test]
async fn pages_are_asked_for_until_there_are_no_more() {
    let server = Server::playing([
        page(&["p/b"], Some("t+/=")),
        // Empty, and not the last one.
        json(200, &json!({"nextPageToken": "u"})),
        json(200, &json!({"prefixes": ["p/d/"]})),
    ]);
    let all = list_all(&*store(&server), &Prefix::dir("p"), Depth::One).await;
    let all = all.unwrap();
    assert_eq!(all.objects[0].key.as_str(), "p/b");
    assert_eq!(all.objects[0].size, 3);
    assert_eq!(all.objects[0].modified, time("2026-11-21T15:42:31.5Z"));
    assert_eq!(all.prefixes, [Prefix::text("p/d/")]);
    let requests = server.requests();
    assert!(requests[0].asks("prefix=p%2F") && requests[0].asks("delimiter=%2F"));
    assert!(!requests[0].asks("pageToken"));
    assert!(requests[1].asks("pageToken=t%2B%2F%3D"));
    assert!(requests[2].asks("pageToken=u"));
}

#[tokio::test]
async fn a_listing_is_never_short() {
    use StoreErrorKind as Kind;
    for (answers, kind) in [
        (
            vec![page(&["a"], Some("t")), page(&["b"], Some("t"))],
            Kind::Corrupt,
        ),
        (vec![page(&[""], None)], Kind::Corrupt),
        (
            vec![json(200, &json!({"items": [{"name": "a"}]}))],
            Kind::Corrupt,
        ),
        (vec![json(200, &json!([]))], Kind::Connect),
        (vec![Answer::new(200)], Kind::Connect),
        (vec![page(&["a"], None).cut(20)], Kind::Connect),
        (
            vec![refusal(404, "notFound", "Not Found")],
            Kind::BucketMissing,
        ),
        (
            vec![refusal(403, "forbidden", "no")],
            Kind::PermissionDenied,
        ),
    ] {
        let told = format!("{answers:?}");
        let server = Server::playing(answers);
        let all = list_all(&*store(&server), &Prefix::text(""), Depth::All).await;
        assert_eq!(all.unwrap_err().kind, kind, "{told}");
        assert!(!server.requests()[0].asks("prefix"));
    }
}

#[tokio::test]
async fn after_an_error_the_same_page_is_asked_for_again() {
    let server = Server::playing([
        page(&["a"], Some("t")),
        refusal(503, "backendError", "later"),
        page(&["b"], None),
    ]);
    let pages: Vec<_> = store(&server)
        .list(&Prefix::text(""), Depth::All)
        .collect()
        .await;
    assert_eq!(pages.len(), 3);
    assert_eq!(
        pages[1].as_ref().unwrap_err().kind,
        StoreErrorKind::ServerFault
    );
    assert_eq!(pages[2].as_ref().unwrap().objects[0].key.as_str(), "b");
    let requests = server.requests();
    assert!(requests[1].asks("pageToken=t") && requests[2].asks("pageToken=t"));
}
