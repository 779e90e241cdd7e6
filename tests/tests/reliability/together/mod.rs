//! Tools that meet one another, and clocks that are wrong.

mod backups;
mod clocks;
mod deletes;
mod restores;
mod shelf;
