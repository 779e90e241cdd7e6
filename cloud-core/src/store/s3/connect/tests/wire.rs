//! Connections that do not come about, and such that stall.

use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};

use super::super::testing::read_request;
use super::*;

/// More than the buffers of both ends hold.
const LARGE: usize = 32 << 20;

/// The shortest limit on the time without a byte.
fn impatient(home: &Home, endpoint: &str, seconds: i64) -> Connect {
    let variables = home
        .variables()
        .and("AWS_ACCESS_KEY_ID", "id")
        .and("AWS_SECRET_ACCESS_KEY", "hush");
    with(variables, |config| {
        config.endpoint_url = Some(endpoint.into());
        config.read_timeout = Some(seconds);
    })
}

fn stalled(error: &ConnectError, seconds: u32) {
    assert_eq!(error.kind, StoreErrorKind::Timeout, "{error}");
    let why = format!("no byte for {seconds} seconds (--read-timeout)");
    assert!(error.text.contains(&why), "{error}");
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up() {
    let silent = StandIn::raw(|mut stream| async move {
        // Takes what comes and says nothing.
        let mut sink = tokio::io::sink();
        let _ = tokio::io::copy(&mut stream, &mut sink).await;
    })
    .await;
    let home = Home::new();
    let error = ask(&impatient(&home, &silent.url(), 1)).await.unwrap_err();
    stalled(&error, 1);
    let begin = format!("no answer from `{}`: ", silent.address());
    assert!(error.text.starts_with(&begin), "{error}");
}

#[tokio::test]
async fn an_answer_that_stops_is_given_up() {
    let stops = StandIn::raw(|stream| async move {
        let mut stream = BufReader::new(stream);
        read_request(&mut stream).await.unwrap();
        let half = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n01234";
        stream.write_all(half).await.unwrap();
        let mut sink = tokio::io::sink();
        let _ = tokio::io::copy(&mut stream, &mut sink).await;
    })
    .await;
    let home = Home::new();
    let connect = impatient(&home, &stops.url(), 1);
    let client = connect.get().await.unwrap().client.clone();
    let got = client.get_object().bucket("b").key("k").send().await;
    let error = got.unwrap().body.collect().await.unwrap_err();
    stalled(&classify(&error).unwrap(), 1);
}

#[tokio::test]
async fn an_answer_that_is_cut_is_a_lost_connection() {
    let cuts = StandIn::raw(|stream| async move {
        let mut stream = BufReader::new(stream);
        read_request(&mut stream).await.unwrap();
        let half = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n01234";
        stream.write_all(half).await.unwrap();
    })
    .await;
    let home = Home::new();
    let connect = impatient(&home, &cuts.url(), 60);
    let client = connect.get().await.unwrap().client.clone();
    // The cut can be noticed at once or while the bytes are read.
    let got = client.get_object().bucket("b").key("k").send().await;
    let error = match got {
        Ok(answer) => classify(&answer.body.collect().await.unwrap_err()),
        Err(error) => classify(&error),
    };
    assert_eq!(error.unwrap().kind, StoreErrorKind::Connect);
}

async fn put(connect: &Connect, size: usize) -> Result<(), ConnectError> {
    let body = ByteStream::from(vec![7; size]);
    let client = connect.get().await?.client.clone();
    let put = client.put_object().bucket("b").key("k").body(body);
    match put.send().await {
        Ok(_) => Ok(()),
        Err(error) => Err(classify(&error).unwrap()),
    }
}

#[tokio::test]
async fn a_server_that_does_not_read_is_given_up() {
    let deaf = StandIn::raw(|stream| async move {
        let _stream = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let home = Home::new();
    let connect = impatient(&home, &deaf.url(), 1);
    stalled(&put(&connect, LARGE).await.unwrap_err(), 1);
}

/// The limit is one on silence: an upload may take longer than that in all.
#[tokio::test]
async fn a_slow_upload_is_not_given_up() {
    let limit = 4;
    let slow = StandIn::raw(move |mut stream| async move {
        let mut buffer = vec![0; 64 << 10];
        let mut left = LARGE;
        let pauses = 10;
        for pause in 1..=pauses {
            // 5 seconds in all, more than the limit.
            tokio::time::sleep(Duration::from_millis(500)).await;
            let until = LARGE - LARGE / pauses * pause;
            while left > until {
                left -= stream.read(&mut buffer).await.unwrap().min(left);
            }
        }
        // The head of the request and the rest.
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        let mut sink = tokio::io::sink();
        let _ = tokio::io::copy(&mut stream, &mut sink).await;
    })
    .await;
    let home = Home::new();
    let connect = impatient(&home, &slow.url(), limit);
    put(&connect, LARGE).await.unwrap();
}

#[tokio::test]
async fn a_closed_port_is_told() {
    let home = Home::new();
    let error = ask(&impatient(&home, "http://127.0.0.1:1", 60))
        .await
        .unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Connect);
    assert!(
        error
            .text
            .starts_with("could not connect to `127.0.0.1:1`: "),
        "{error}"
    );
    assert!(error.text.contains("refused"), "{error}");
}

#[tokio::test]
async fn a_name_that_nobody_has_is_told() {
    let home = Home::new();
    let connect = impatient(&home, "http://host.invalid", 60);
    let error = ask(&connect).await.unwrap_err();
    // Where no name server can be reached, the question takes too long.
    let unreachable = [StoreErrorKind::Connect, StoreErrorKind::Timeout];
    assert!(unreachable.contains(&error.kind), "{error:?}");
    let begin = "could not connect to `host.invalid`: ";
    assert!(error.text.starts_with(begin), "{error}");
}

/// The store makes the headers itself (`checksum.rs`); the SDK adds none.
#[tokio::test]
async fn checksums_can_be_left_out_and_the_sdk_adds_none() {
    let store = store().await;
    let home = Home::new();
    let usual = impatient(&home, &store.url(), 60);
    assert!(!usual.get().await.unwrap().when_required);
    put(&usual, 5).await.unwrap();
    let variable = "AWS_REQUEST_CHECKSUM_CALCULATION";
    let bare = Connect::with(
        &usual.config,
        usual.variables.clone().and(variable, "when_required"),
    );
    assert!(bare.get().await.unwrap().when_required);
    put(&bare, 5).await.unwrap();
    for request in store.seen() {
        let added = ["x-amz-checksum-crc32", "x-amz-trailer"].map(|name| request.header(name));
        assert_eq!(added, ["", ""]);
    }
}
