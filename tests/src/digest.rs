//! Hashes, as the golden samples list them.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

/// Prints bytes as lower-case hex digits.
#[derive(Debug, Clone, Copy)]
pub struct Hex<'a>(pub &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// SHA-256 of `bytes`, in hex digits.
pub fn sha256_of_bytes(bytes: &[u8]) -> String {
    Hex(&Sha256::digest(bytes)).to_string()
}

/// SHA-256 of a file's content, in hex digits.
pub fn sha256_of_file(path: &Path) -> String {
    let mut file =
        File::open(path).unwrap_or_else(|error| panic!("could not open {path:?}: {error}"));
    let mut hash = Sha256::new();
    let mut block = vec![0; 1 << 16];
    loop {
        let read = file
            .read(&mut block)
            .unwrap_or_else(|error| panic!("could not read {path:?}: {error}"));
        if read == 0 {
            return Hex(&hash.finalize()).to_string();
        }
        hash.update(&block[..read]);
    }
}
