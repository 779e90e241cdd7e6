//! Bodies of answers that have to end: all but an object's own bytes.
//!
//! The vendors' crates read an answer whole before they look at it, and what it says of
//! its length is the other side's word.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::BoxError;
use super::error::ConnectError;
use crate::store::StoreErrorKind;

/// The bytes of an answer, at most so many of them if there is a limit.
#[derive(Debug)]
pub(in crate::store) struct Bounded<B = Incoming> {
    body: B,
    left: Option<usize>,
}

impl<B> Bounded<B> {
    /// `most`: in bytes; none for the bytes of an object, which are counted by whoever
    /// asked for them.
    pub(in crate::store) fn new(body: B, most: Option<usize>) -> Self {
        Self { body, left: most }
    }

    fn take(&mut self, count: usize) -> Result<(), BoxError> {
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(count).ok_or_else(|| {
                let text = "the answer is too long to be one";
                ConnectError::new(StoreErrorKind::Corrupt, text)
            })?;
        }
        Ok(())
    }
}

impl<B> Body for Bounded<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            None => return Poll::Ready(None),
            Some(frame) => frame.map_err(Into::into),
        };
        Poll::Ready(Some(frame.and_then(|frame| {
            self.take(frame.data_ref().map_or(0, Bytes::len))?;
            Ok(frame)
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::store::http::classify;

    /// Pieces of ten bytes, without an end.
    struct Endless;

    impl Body for Endless {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"0123456789")))))
        }
    }

    fn pieces(most: Option<usize>) -> (usize, Option<ConnectError>) {
        let mut body = Bounded::new(Endless, most);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        for count in 0..100 {
            let Poll::Ready(Some(frame)) = Pin::new(&mut body).poll_frame(&mut cx) else {
                panic!("it has no end");
            };
            if let Err(error) = frame {
                return (count, classify(&*error));
            }
        }
        (100, None)
    }

    #[test]
    fn an_answer_without_an_end_is_given_up() {
        for (most, expected) in [(30, 3), (39, 3), (9, 0)] {
            let (count, error) = pieces(Some(most));
            assert_eq!(count, expected, "{most}");
            let kind = error.map(|error| error.kind);
            assert_eq!(kind, Some(StoreErrorKind::Corrupt));
        }
        assert_eq!(pieces(None), (100, None));
    }
}
