//! Between files and the store: parts in memory under one budget, uploads side
//! by side, downloads with read-ahead.
//!
//! Files, tar and compression are synchronous and live on threads of their own;
//! the store is asynchronous. They meet only here, over bounded channels, so
//! that memory does not depend on how much there is to move (B3).

mod budget;
mod download;
mod lane;
mod parts;
mod upload;

pub use budget::{Budget, PartBuffer};
pub use download::{DownloadFailure, DownloadReader, Downloads, Stride, open_download};
pub use lane::{Lane, LaneOptions};
pub use parts::{DEFAULT_PART, MAX_ARCHIVE, PartPlan, PartPlanError, PartWishes};
pub use upload::{ArchiveReceipt, ArchiveUpload, TransferError, UploadReport, Uploader};

#[cfg(test)]
mod tests;
