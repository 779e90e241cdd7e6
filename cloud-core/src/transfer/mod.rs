//! Between files and the store: parts in memory under one budget, uploads side
//! by side, downloads with read-ahead.
