//! Which series are shown of an overview.

use cloud_core::ops::metrics::{Overview, Thresholds};
use cloud_core::ops::{OpError, OpErrorKind};
use jiff::Timestamp;

use crate::{compat, native};

/// The names of the series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Names {
    /// Our own: all that is known.
    Native,
    /// Those of Montagu's exporter.
    Montagu,
    /// Those of CloudNativePG's plugin.
    Cnpg {
        /// Whether there may be several servers, which labels have to tell apart.
        several: bool,
    },
}

/// What is shown, and by what is judged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shown {
    pub(crate) names: Names,
    pub(crate) thresholds: Thresholds,
}

impl Shown {
    /// The series in the Prometheus text format, as of `now`.
    pub(crate) fn text(&self, overview: &Overview, now: Timestamp) -> Result<String, OpError> {
        match self.names {
            Names::Native => native::text(overview, self.thresholds, now).map_err(|error| {
                let text = format!("could not write the series: {error}");
                OpError::new(OpErrorKind::General, text)
            }),
            Names::Montagu => Ok(compat::montagu(overview, self.thresholds, now)),
            Names::Cnpg { several } => Ok(compat::cnpg(overview, several)),
        }
    }
}

/// A point in time as series tell it: seconds since 1970.
pub(crate) fn seconds(at: Timestamp) -> f64 {
    at.as_duration().as_secs_f64()
}

/// How long ago that was, in seconds; 0 for what is still to come by this clock.
pub(crate) fn age(at: Timestamp, now: Timestamp) -> f64 {
    now.duration_since(at).as_secs_f64().max(0.0)
}
