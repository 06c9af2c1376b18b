//! Names a checkpoint by its content, quickly.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// Bytes of each piece of a large file.
const CHUNK: u64 = 16 << 10;
/// Pieces of a large file that are read.
const CHUNKS: u64 = 256;

/// Names a checkpoint by its content: SHA-256 over config.json, tokenizer.json and the safetensors files. Files of up
/// to 4 MiB are hashed whole; of larger ones the length and 256 evenly spaced pieces, so that tens of gigabytes take
/// no time. Training changes every piece, but a single bit that flips between pieces goes unnoticed.
///
/// # Errors
/// `Error::Io` if a file cannot be read.
pub fn fingerprint(folder: &Path) -> Result<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let name = entry.map_err(Error::io(folder))?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".safetensors") || name == "config.json" || name == "tokenizer.json" {
            names.push(name);
        }
    }
    names.sort();
    let mut hash = Sha256::new();
    for name in names {
        let path = folder.join(&name);
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(&name);
        hash_file(&mut hash, &path).map_err(Error::io(&path))?;
    }
    Ok(format!("{:x}", hash.finalize()))
}

fn hash_file(hash: &mut Sha256, path: &Path) -> std::io::Result<()> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    hash.update(length.to_le_bytes());
    if length <= CHUNK * CHUNKS {
        std::io::copy(&mut file, hash)?;
        return Ok(());
    }
    let mut chunk = vec![0; CHUNK as usize];
    for i in 0..CHUNKS {
        // The last piece ends at the end of the file.
        file.seek(SeekFrom::Start(i * (length - CHUNK) / (CHUNKS - 1)))?;
        file.read_exact(&mut chunk)?;
        hash.update(&chunk);
    }
    Ok(())
}
