//! Nothing lost: every scenario here is a row of `docs/reliability.md`.

mod disk;
mod ends;
mod objects;
