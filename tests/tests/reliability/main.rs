//! Nothing lost: every scenario here is a row of `docs/reliability.md`.

mod damage_base;
mod damage_catalogue;
mod damage_none;
mod damage_wal;
mod database;
mod disk;
mod ends;
mod hostile;
mod objects;
mod snapshots;
mod store;
mod together;
mod wal_again;
mod wal_kills;
mod wal_races;
