//! Bodies of requests, and what a signature says of one that is not in memory.

use std::fmt::Write as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use aws_runtime::auth::PayloadSigningOverride;
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::BeforeTransmitInterceptorContextMut;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::byte_stream::ByteStream;
use aws_smithy_types::config_bag::ConfigBag;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use sha2::{Digest, Sha256};

use crate::store::{Payload, Pieces};

/// The body of a request that stores `payload`.
pub(super) fn stream(payload: &Payload) -> ByteStream {
    match payload.in_memory() {
        Some(bytes) => bytes.clone().into(),
        None => ByteStream::new(SdkBody::from_body_1_x(Sending(payload.pieces()))),
    }
}

/// A body of known length.
#[derive(Debug)]
struct Sending(Pieces);

impl Body for Sending {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Poll::Ready(self.0.next().map(|piece| piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.0.left() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.left())
    }
}

/// The SHA-256 of a body, for the signature of a request that TLS does not protect. The
/// SDK hashes what is in memory by itself, and would leave anything else unsigned.
#[derive(Debug)]
pub(super) struct SignedAs(String);

impl SignedAs {
    /// For a body that the SDK does not hash; reads it, unless it was hashed before.
    pub(super) fn of(payload: &Payload) -> io::Result<Option<Self>> {
        if payload.in_memory().is_some() {
            return Ok(None);
        }
        let hash = if let Some(hash) = payload.sha256() {
            hash
        } else {
            let mut digest = Sha256::new();
            for piece in payload.pieces() {
                digest.update(piece?);
            }
            digest.finalize().into()
        };
        let mut text = String::new();
        for byte in hash {
            write!(text, "{byte:02x}").map_err(io::Error::other)?;
        }
        Ok(Some(Self(text)))
    }
}

impl Intercept for SignedAs {
    fn name(&self) -> &'static str {
        "SignedAs"
    }

    fn modify_before_signing(
        &self,
        _context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let signed = PayloadSigningOverride::Precomputed(self.0.clone());
        config.interceptor_state().store_put(signed);
        Ok(())
    }
}
