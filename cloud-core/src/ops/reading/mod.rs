//! Reading a base backup back: what all operations that do so share.
//!
//! Which objects it has (`stored`), archives side by side (`lanes`) and each of them from the
//! store to whoever takes its members (`pipeline`), and whether what came belongs to the
//! backup (`identity`). What becomes of the members is the business of each operation.

mod identity;
mod lanes;
mod pipeline;
mod stored;

pub(super) use identity::{is_manifest_of, label_flaw};
pub(super) use lanes::{Lanes, blocking, side_by_side};
pub(super) use pipeline::{Before, Passage, Trouble, Unpacked, held_back, not_begun};
pub(super) use stored::Stored;
