//! Encryption at rest, which every request that writes or reads must ask for
//! alike.

use aws_sdk_s3::operation::create_multipart_upload::builders::CreateMultipartUploadFluentBuilder;
use aws_sdk_s3::operation::get_object::builders::GetObjectFluentBuilder;
use aws_sdk_s3::operation::head_object::builders::HeadObjectFluentBuilder;
use aws_sdk_s3::operation::list_parts::builders::ListPartsFluentBuilder;
use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::operation::upload_part::builders::UploadPartFluentBuilder;
use aws_sdk_s3::types::ServerSideEncryption;
use aws_smithy_types::base64;
use md5::{Digest, Md5};

use crate::store::{CustomerKey, StoreConfig};

/// What the options ask for.
pub(super) struct Encryption {
    mode: Option<ServerSideEncryption>,
    kms_key: Option<String>,
    customer: Option<Customer>,
}

/// A customer key as the headers want it.
struct Customer {
    key: String,
    md5: String,
}

impl std::fmt::Debug for Encryption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encryption")
            .field("mode", &self.mode)
            .field("customer", &self.customer.is_some())
            .finish_non_exhaustive()
    }
}

impl Encryption {
    pub(super) fn new(config: &StoreConfig, key: Option<CustomerKey>) -> Self {
        Self {
            mode: config.encryption.as_deref().map(ServerSideEncryption::from),
            kms_key: config.sse_kms_key_id.clone(),
            customer: key.map(|key| Customer {
                key: base64::encode(key.bytes()),
                md5: base64::encode(Md5::digest(key.bytes())),
            }),
        }
    }
}

/// The fields of a customer key, which six requests have.
macro_rules! with_customer_key {
    ($request:expr, $encryption:expr) => {
        match &$encryption.customer {
            None => $request,
            Some(customer) => $request
                .sse_customer_algorithm("AES256")
                .sse_customer_key(&customer.key)
                .sse_customer_key_md5(&customer.md5),
        }
    };
}

impl Encryption {
    pub(super) fn put(&self, request: PutObjectFluentBuilder) -> PutObjectFluentBuilder {
        let request = request
            .set_server_side_encryption(self.mode.clone())
            .set_ssekms_key_id(self.kms_key.clone());
        with_customer_key!(request, self)
    }

    pub(super) fn begin(
        &self,
        request: CreateMultipartUploadFluentBuilder,
    ) -> CreateMultipartUploadFluentBuilder {
        let request = request
            .set_server_side_encryption(self.mode.clone())
            .set_ssekms_key_id(self.kms_key.clone());
        with_customer_key!(request, self)
    }

    pub(super) fn part(&self, request: UploadPartFluentBuilder) -> UploadPartFluentBuilder {
        with_customer_key!(request, self)
    }

    pub(super) fn list_parts(&self, request: ListPartsFluentBuilder) -> ListPartsFluentBuilder {
        with_customer_key!(request, self)
    }

    pub(super) fn get(&self, request: GetObjectFluentBuilder) -> GetObjectFluentBuilder {
        with_customer_key!(request, self)
    }

    pub(super) fn head(&self, request: HeadObjectFluentBuilder) -> HeadObjectFluentBuilder {
        with_customer_key!(request, self)
    }
}
