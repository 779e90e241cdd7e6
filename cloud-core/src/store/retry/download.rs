//! Downloads that go on where they were cut.

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};

use super::{Patience, Retry};
use crate::store::{
    Download, ObjectMeta, ObjectStore, ReadRange, Result, StoreError, StoreErrorKind, StoreOp,
};

/// The same download, resumed on the same version of the object as often as
/// patience allows; each byte that comes renews it.
pub(super) fn resuming(store: Retry, download: Download) -> Download {
    let meta = download.meta.clone();
    let state = Resumed {
        meta: meta.clone(),
        at: download.range.start,
        end: download.range.end,
        body: download.body,
        patience: store.patience(),
        store,
    };
    let body = stream::try_unfold(state, |mut state| async move {
        Ok(state.next().await?.map(|piece| (piece, state)))
    });
    Download {
        meta,
        range: download.range,
        body: body.boxed(),
    }
}

struct Resumed {
    store: Retry,
    meta: ObjectMeta,
    at: u64,
    end: u64,
    body: BoxStream<'static, Result<Bytes>>,
    patience: Patience,
}

impl Resumed {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            let error = match self.body.try_next().await {
                Ok(Some(piece)) => {
                    self.at += piece.len() as u64;
                    if self.at > self.end {
                        return Err(self.wrong_length());
                    }
                    // What moves is not stuck.
                    self.patience = self.store.patience();
                    return Ok(Some(piece));
                }
                Ok(None) if self.at == self.end => return Ok(None),
                // An end that comes early is a connection that was cut.
                Ok(None) => StoreError {
                    kind: StoreErrorKind::Connect,
                    ..self.wrong_length()
                },
                Err(error) => error,
            };
            if self.at == self.end && error.kind.is_transient() {
                return Ok(None);
            }
            // Without a version it would be unknown of which object the rest is.
            if self.meta.version.is_none() {
                return Err(self.patience.give_up(error));
            }
            self.patience.after(error).await?;
            self.body = match self.resume().await {
                Ok(body) => body,
                Err(error) => stream::iter([Err(error)]).boxed(),
            };
        }
    }

    async fn resume(&mut self) -> Result<BoxStream<'static, Result<Bytes>>> {
        let range = ReadRange {
            start: self.at,
            end: Some(self.end),
            version: self.meta.version.clone(),
        };
        match self.store.inner.get(&self.meta.key, &range).await {
            Ok(rest)
                if rest.range == (self.at..self.end)
                    && rest.meta.size == self.meta.size
                    && rest.meta.version == self.meta.version =>
            {
                Ok(rest.body)
            }
            Ok(_) => Err(self.corrupt("the object was replaced while it was read".into())),
            // Absence, for who began to read, is not the answer.
            Err(error) if error.kind == StoreErrorKind::NotFound => {
                Err(self.corrupt("the object was deleted while it was read".into()))
            }
            Err(error) => Err(error),
        }
    }

    fn wrong_length(&self) -> StoreError {
        self.corrupt(format!(
            "byte {} was to be the last and {} came",
            self.end, self.at
        ))
    }

    fn corrupt(&self, why: String) -> StoreError {
        let kind = StoreErrorKind::Corrupt;
        let info = self.store.info();
        info.error(StoreOp::Get, &self.meta.key, kind, why)
    }
}
