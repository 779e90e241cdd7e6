//! What a call does before it starts anything: no thread, no store, no settings.
//!
//! Most calls of a recovery find their segment in the spool. Such a call renames a file
//! and ends; it has to cost next to nothing, since PostgreSQL waits for each of them.
//! A signal ends it where it is, with its own effect (docs/decisions.md 11): nothing it
//! does leaves a part of a file under any name that counts.

use std::io;
use std::path::Path;
use std::time::Duration;

use tracing::{debug, info, warn};

use super::super::{Env, OpError};
use super::helper::Helper;
use super::server::no_helper;
use super::spool::Spool;
use super::wanted::{Wanted, Why};
use super::window::MOST;
use super::{WalRestoreRequest, replaceable};
use crate::wal::{SegmentSize, WalKind, WalName};

/// How long the end of a helper is a reason not to start another one: at the end of the
/// archive, and where the store cannot be reached, each of them would end as soon.
const REST: Duration = Duration::from_secs(5);

/// What a process is to do.
#[derive(Debug)]
pub enum AtOnce {
    /// Nothing more: the file was delivered.
    Delivered,
    /// Ask the store.
    Ask,
    /// Fetch ahead, for the calls to come.
    Help(Helper),
}

/// Delivers the file if it is in the spool.
///
/// # Errors
///
/// `General` if the process was made to look like a helper and is none. Trouble of any
/// other kind is left to the long way.
pub fn at_once(request: &WalRestoreRequest, env: &Env) -> Result<AtOnce, OpError> {
    if let Some(helper) = Helper::of_process(request, env) {
        return helper.map(AtOnce::Help);
    }
    let Ok(name) = request.wal_name.parse::<WalName>() else {
        return Ok(AtOnce::Ask);
    };
    let Ok(destination) = replaceable(&request.destination) else {
        return Ok(AtOnce::Ask);
    };
    if name.kind() != WalKind::Segment {
        return Ok(AtOnce::Ask);
    }
    let Ok(spool) = Spool::open(request) else {
        return Ok(AtOnce::Ask);
    };
    Ok(if take(&spool, request, &name, &destination) {
        AtOnce::Delivered
    } else {
        AtOnce::Ask
    })
}

/// Delivers the file from the spool if it is there, and sees to it that the helper
/// goes on.
pub(super) fn take(
    spool: &Spool,
    request: &WalRestoreRequest,
    name: &WalName,
    destination: &Path,
) -> bool {
    let Some(spooled) = spool.find(name) else {
        return false;
    };
    if let Some(size) = spooled.size().ok().and_then(SegmentSize::new) {
        look_ahead(spool, request, name, size);
    }
    spooled
        .deliver(destination)
        .unwrap_or_else(|error: io::Error| {
            warn!("WAL file {name} cannot be moved out of the spool and is fetched anew: {error}");
            false
        })
}

/// Who fetches the segments after the one asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ahead {
    /// Nobody.
    Nobody,
    /// A helper.
    Helper,
    /// The call itself.
    Call(Wanted),
}

/// Tells the helper what was asked for, and starts one if there is none. Only for a
/// segment that was found: what is not there says nothing of what comes next.
pub(super) fn look_ahead(
    spool: &Spool,
    request: &WalRestoreRequest,
    name: &WalName,
    size: SegmentSize,
) -> Ahead {
    let ahead = request.parallel.min(MOST).saturating_sub(1);
    if ahead == 0 {
        return Ahead::Nobody;
    }
    let wanted = Wanted {
        place: spool.place().to_owned(),
        name: name.clone(),
        size,
        ahead,
    };
    let (Some(launch), Some(server)) = (request.launch, spool.server()) else {
        return Ahead::Call(wanted);
    };
    spool.want(&wanted);
    let lock = match spool.try_lock_helper() {
        Ok(Some(lock)) => lock,
        Ok(None) => return Ahead::Helper,
        Err(error) => {
            info!("WAL is fetched ahead without a helper: cannot lock the spool: {error}");
            return Ahead::Call(wanted);
        }
    };
    if let Some(why) = no_helper(Path::new("/proc"), std::process::id(), server) {
        debug!("WAL is fetched ahead without a helper: {why}");
        return Ahead::Call(wanted);
    }
    if let Some((ended, ago)) = spool.ended()
        && ended.concerns(spool.place(), name)
    {
        if let Why::Trouble(what) = &ended.why {
            info!("WAL was not fetched ahead: {what}");
        }
        if ago < REST {
            return Ahead::Nobody;
        }
    }
    match lock.hand_on().map(launch) {
        Some(Ok(())) => Ahead::Helper,
        Some(Err(error)) => {
            info!("WAL is fetched ahead without a helper: it cannot be started: {error}");
            Ahead::Call(wanted)
        }
        None => Ahead::Nobody,
    }
}
