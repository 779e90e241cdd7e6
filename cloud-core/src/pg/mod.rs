//! The PostgreSQL server: connecting as libpq would, and backup mode.
