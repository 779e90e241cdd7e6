//! The data directory on disk: walking it, and putting it back.

mod control;

pub use control::{
    CONTROL_NAME, CONTROL_SIZE, ClusterState, ControlError, ControlFile, ControlParseError,
    ControlProgress, ControlSizes, ControlSnapshot, read_control,
};
