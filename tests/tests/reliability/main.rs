//! Nothing lost: every scenario here is a row of `docs/reliability.md`.

mod ends;
mod objects;
