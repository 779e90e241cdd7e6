//! Sizes and rates, in the reference's spelling.
