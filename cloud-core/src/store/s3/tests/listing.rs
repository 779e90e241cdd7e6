//! Listings, which must be whole or fail.

use futures_util::StreamExt;

use super::*;
use crate::store::list_all;

/// A page of a listing.
pub(super) fn page(inside: &str) -> Answer {
    Answer::new(200).xml(&format!("<ListBucketResult>{inside}</ListBucketResult>"))
}

fn object(name: &str) -> String {
    format!(
        "<Contents><Key>{name}</Key><Size>3</Size><ETag>&quot;v&quot;</ETag>\
         <LastModified>2026-01-02T03:04:05.000Z</LastModified></Contents>"
    )
}

fn more(token: &str) -> String {
    format!("<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>")
}

async fn names(store: &dyn ObjectStore, depth: Depth) -> Result<(Vec<String>, Vec<String>)> {
    let page = list_all(store, &Prefix::text("a b/"), depth).await?;
    let objects = page.objects.iter().map(|one| one.key.to_string());
    let prefixes = page.prefixes.iter().map(ToString::to_string);
    Ok((objects.collect(), prefixes.collect()))
}

#[test]
fn all_pages_are_asked_for_even_if_one_is_empty() {
    alone(|| async {
        let server = Server::playing([
            page(&(object("1") + &more("t/1+"))),
            page(&more("t2")),
            page(&object("2")),
        ]);
        let store = store(&server);
        let (objects, _) = names(&*store, Depth::All).await.unwrap();
        assert_eq!(objects, ["1", "2"]);
        let requests = server.requests();
        for request in &requests {
            assert_eq!((&*request.method, request.path()), ("GET", "/bucket/"));
            assert!(request.asks("list-type=2") && request.asks("prefix=a%20b%2F"));
            assert!(request.asks("encoding-type=url") && !request.asks("delimiter"));
        }
        assert!(!requests[0].asks("continuation-token"));
        assert!(requests[1].asks("continuation-token=t%2F1%2B"));
        assert!(requests[2].asks("continuation-token=t2"));
    });
}

#[test]
fn names_are_decoded_where_the_store_says_that_it_encoded_them() {
    alone(|| async {
        let inside = object("a+b%2Bc%25")
            + "<CommonPrefixes><Prefix>d+e%2F</Prefix></CommonPrefixes>"
            + &object("%E5%AD%97/");
        let encoded = page(&format!("<EncodingType>url</EncodingType>{inside}"));
        let server = Server::playing([encoded, page(&inside)]);
        let store = store(&server);
        let (objects, prefixes) = names(&*store, Depth::One).await.unwrap();
        assert_eq!(objects, ["a b+c%", "字/"]);
        assert_eq!(prefixes, ["d e/"]);
        assert!(server.requests()[0].asks("delimiter=%2F"));
        let (objects, prefixes) = names(&*store, Depth::One).await.unwrap();
        assert_eq!(objects, ["%E5%AD%97/", "a+b%2Bc%25"]);
        assert_eq!(prefixes, ["d+e%2F"]);
    });
}

#[test]
fn a_listing_that_cannot_go_on_is_an_error_and_not_a_short_one() {
    alone(|| async {
        for answers in [
            vec![page("<IsTruncated>true</IsTruncated>")],
            vec![page(&more(""))],
            vec![page(&more("t")), page(&more("t"))],
            vec![page(&more("t")), page(&more("u")), page(&more("t"))],
        ] {
            let told = format!("{answers:?}");
            let server = Server::playing(answers);
            let error = names(&*store(&server), Depth::All).await.unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::Corrupt, "{told}");
        }
    });
}

/// HTTP has all that was promised; whoever is in between has cut it.
#[test]
fn a_listing_whose_xml_is_cut_is_an_error_and_not_a_short_one() {
    alone(|| async {
        let head = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ListBucketResult>";
        let text = format!("{head}{}{}</ListBucketResult>", object("1"), more("t"));
        let answer = |text: &str| Answer::new(200).body(text);
        for end in (head.len()..text.len()).step_by(7) {
            let server = Server::playing([answer(&text[..end])]);
            let error = names(&*store(&server), Depth::All).await;
            let error = error.expect_err(&text[..end]);
            assert_eq!(error.kind, StoreErrorKind::Connect, "{}", &text[..end]);
        }
        let broken = text.replace("</Size>", "</Length>");
        let server = Server::playing([answer(&broken)]);
        let error = names(&*store(&server), Depth::All).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Connect);
    });
}

/// Some stores leave out what they take for granted.
#[test]
fn a_listing_that_names_its_next_page_has_one() {
    alone(|| async {
        let next = "<NextContinuationToken>t</NextContinuationToken>";
        let server = Server::playing([page(&(object("1") + next)), page(&object("2"))]);
        let (objects, _) = names(&*store(&server), Depth::All).await.unwrap();
        assert_eq!(objects, ["1", "2"]);
    });
}

#[test]
fn an_answer_that_is_no_listing_is_an_error() {
    alone(|| async {
        let login = Answer::new(200).header("content-type", "text/html");
        for answer in [
            Answer::new(200),
            login.body("<html><body>Please log in</body></html>"),
            page(&object("1")).cut(60),
            page("<Contents><Key>1</Key></Contents>"),
            page(&object("")),
        ] {
            let told = format!("{answer:?}");
            let server = Server::playing([answer]);
            let listed = names(&*store(&server), Depth::All).await;
            assert!(listed.is_err(), "{told}: {listed:?}");
        }
    });
}

#[test]
fn a_page_that_failed_is_asked_for_again() {
    alone(|| async {
        let server = Server::playing([
            page(&(object("1") + &more("t"))),
            Answer::error(503, "SlowDown", ""),
            page(&object("2")),
        ]);
        let store = store(&server);
        let mut pages = store.list(&Prefix::text(""), Depth::All);
        assert_eq!(pages.next().await.unwrap().unwrap().objects.len(), 1);
        let error = pages.next().await.unwrap().unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::RateLimited);
        assert_eq!(pages.next().await.unwrap().unwrap().objects.len(), 1);
        assert!(pages.next().await.is_none());
        let requests = server.requests();
        assert!(requests[1].asks("continuation-token=t"));
        assert!(requests[2].asks("continuation-token=t"));
    });
}
