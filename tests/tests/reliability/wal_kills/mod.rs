//! `kill -9` at random moments, under load: of calls that archive, of calls that
//! restore, and of the helpers that fetch ahead.

mod archivers;
mod first_process;
mod recoveries;
mod scene;
