//! What is in the bucket: `backup.info`, object keys, and which backup is meant.
