//! The command line: arguments, logging, signals, exit codes.
