//! Writing and reading tar archives, and splitting a stream of members into
//! several of them.
