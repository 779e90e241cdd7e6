//! Tools that meet one another, and clocks that are wrong.

mod deletes;
mod restores;
mod shelf;
