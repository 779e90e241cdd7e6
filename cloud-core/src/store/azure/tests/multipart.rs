//! Uploads in blocks.

use super::*;

fn number(number: u32) -> PartNumber {
    PartNumber::new(number).unwrap()
}

async fn begin(store: &AzureStore, options: &PutOptions) -> Box<dyn MultipartUpload> {
    store.begin_multipart(&key(), options).await.unwrap()
}

/// The name of a block, decoded, from the request that stages it.
fn name(request: &Sent) -> Vec<u8> {
    let query = request.target.split_once('?').unwrap().1;
    let id = query
        .split('&')
        .find_map(|one| one.strip_prefix("blockid="));
    let id = id
        .unwrap()
        .replace("%3D", "=")
        .replace("%2B", "+")
        .replace("%2F", "/");
    azure_core::base64::decode(id).unwrap()
}

#[tokio::test]
async fn blocks_carry_checksum_and_scope_and_the_commit_the_rest() {
    let server = Server::start(|_| written());
    let config = StoreConfig {
        encryption_scope: Some("scope".into()),
        ..StoreConfig::default()
    };
    let store = store_with(&server, &config);
    let options = PutOptions {
        mode: PutMode::CreateOnly,
        tags: Some(vec![Tag {
            key: "k".into(),
            value: "v".into(),
        }]),
        fingerprint: Some("5e1f".into()),
    };
    let upload = begin(&store, &options).await;
    assert_eq!(server.methods(), "", "nothing is begun");
    let second = upload.put_part(number(2), BODY).await.unwrap();
    let first = upload.put_part(number(1), BODY).await.unwrap();
    // It has no bytes: the service would not take it.
    let empty = upload.put_part(number(3), Bytes::new()).await.unwrap();
    upload.complete(&[first, second, empty]).await.unwrap();

    let requests = server.requests();
    assert_eq!(server.methods(), "PUT PUT PUT");
    for request in &requests {
        assert_signed(request);
        assert_eq!(request.path(), PATH);
        assert_eq!(request.header("x-ms-encryption-scope"), Some("scope"));
    }
    for block in &requests[..2] {
        assert!(block.asks("comp=block"), "{block:#?}");
        assert_eq!(block.header("x-ms-content-crc64"), Some(CRC64));
        assert_eq!(name(block).len(), 48);
        assert_eq!(block.header("x-ms-tags"), None);
        assert_eq!(block.header("x-ms-meta-barmanfingerprint"), None);
    }
    let commit = &requests[2];
    assert!(commit.asks("comp=blocklist"), "{commit:#?}");
    assert_eq!(commit.header("if-none-match"), Some("*"));
    assert_eq!(commit.header("x-ms-tags"), Some("k=v"));
    let fingerprint = commit.header("x-ms-meta-barmanfingerprint");
    assert_eq!(fingerprint, Some("5e1f"));
    let listed: Vec<_> = commit
        .text()
        .split("<Latest>")
        .skip(1)
        .map(str::to_owned)
        .collect();
    assert_eq!(listed.len(), 2, "{listed:?}");
    for (listed, block) in listed.iter().zip([&requests[1], &requests[0]]) {
        let id = azure_core::base64::encode(name(block));
        assert!(listed.starts_with(&format!("{id}<")), "{listed} {id}");
    }
    // An upload that was completed is over.
    let error = upload.put_part(number(1), BODY).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::NotFound);
    upload.abort().await.unwrap();
}

#[tokio::test]
async fn two_uploads_of_one_name_have_no_block_in_common() {
    let server = Server::start(|_| written());
    let store = store(&server);
    for _ in 0..2 {
        let upload = begin(&store, &PutOptions::default()).await;
        upload.put_part(number(1), BODY).await.unwrap();
    }
    let names: Vec<_> = server.requests().iter().map(name).collect();
    assert_ne!(names[0], names[1]);
}

/// Blocks of another length were left under the name, and would keep it from
/// being written in blocks for a week.
#[tokio::test]
async fn names_take_the_length_of_those_that_were_left_behind() {
    // Five bytes, as the reference has them in base backups.
    let left = azure_core::base64::encode("00001");
    let server = Server::start(move |request| {
        if request.method == "GET" {
            assert!(request.asks("blocklisttype=uncommitted"), "{request:#?}");
            let block = format!("<Block><Name>{left}</Name><Size>9</Size></Block>");
            return Answer::new(200).xml(&format!(
                "<BlockList><UncommittedBlocks>{block}</UncommittedBlocks></BlockList>"
            ));
        }
        if request.asks("comp=block") && name(request).len() != 5 {
            return refused(400, "InvalidBlobOrBlock");
        }
        written()
    });
    let store = store(&server);
    let upload = begin(&store, &PutOptions::default()).await;
    let (one, two) = tokio::join!(
        upload.put_part(number(1), BODY),
        upload.put_part(number(2), BODY)
    );
    upload
        .complete(&[one.unwrap(), two.unwrap()])
        .await
        .unwrap();
    let requests = server.requests();
    let staged = requests.iter().filter(|request| request.asks("comp=block"));
    let names: Vec<_> = staged.map(name).filter(|name| name.len() == 5).collect();
    assert_eq!(names.len(), 2, "{requests:#?}");
    assert_ne!(names[0], names[1]);
    assert_eq!(names[0][..3], names[1][..3], "one upload has one beginning");
}

#[tokio::test]
async fn a_refusal_of_blocks_that_is_about_something_else_is_told() {
    let server = Server::start(|request| match &*request.method {
        "GET" => Answer::new(200).xml("<BlockList><UncommittedBlocks /></BlockList>"),
        _ => refused(400, "InvalidBlobOrBlock"),
    });
    let upload = begin(&store(&server), &PutOptions::default()).await;
    let error = upload.put_part(number(7), BODY).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Invalid);
    let text = words(&error);
    assert!(text.contains("`dir/a b+c (part 7)`"), "{text}");
    assert!(
        text.contains("InvalidBlobOrBlock: It is so. (status 400)"),
        "{text}"
    );
}

#[tokio::test]
async fn an_upload_that_was_overtaken_is_gone() {
    let server = Server::playing([written(), refused(400, "InvalidBlockList")]);
    let upload = begin(&store(&server), &PutOptions::default()).await;
    let part = upload.put_part(number(1), BODY).await.unwrap();
    let error = upload.complete(&[part]).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::NotFound);
}

#[tokio::test]
async fn blocks_are_as_large_as_the_user_wants_them() {
    let server = Server::start(|_| written());
    let config = StoreConfig {
        max_block_size: Some(10_000),
        max_single_put_size: Some(20_000),
        ..StoreConfig::default()
    };
    let store = store_with(&server, &config);
    let limits = store.info().limits;
    assert_eq!(
        (limits.min_part, limits.max_part, limits.max_put),
        (10_000, 10_000, 20_000)
    );
    let limits = super::store(&server).info().limits;
    assert_eq!((limits.min_part, limits.max_part), (64 << 10, 4000 << 20));
    assert_eq!(limits.max_put, 5000 << 20);
}
