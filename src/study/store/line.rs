//! A line of a ledger: a JSON object whose last field is a checksum of everything before it.
//!
//! ```text
//! {"question":"tea","sample":3,"answer":"Yes.","sum":"5f0c2a91d3b8e647"}
//!  └─────────────── SHA-256 of these bytes ───┘        its first 8 bytes
//! ```
//!
//! The line remains plain JSON for other readers, and a byte that has changed since it was written is detected even if
//! the JSON is still valid.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::hash::sha256;

/// The text before the checksum, and after it.
const BEFORE: &str = ",\"sum\":\"";
const AFTER: &str = "\"}\n";
/// Digits of the checksum: 64 bits.
const DIGITS: usize = 16;

fn sum(content: &[u8]) -> String {
    sha256(content)[..DIGITS].to_string()
}

/// Appends `record`, which must serialise to an object with at least one field, to `lines`.
///
/// # Errors
/// If it has no JSON form; our own records always have one.
pub(in crate::study) fn write(lines: &mut Vec<u8>, record: &impl Serialize) -> serde_json::Result<()> {
    let mut content = serde_json::to_vec(record)?;
    assert!(content.starts_with(b"{\"") && content.pop() == Some(b'}'), "a record is an object with fields");
    lines.extend_from_slice(&content);
    lines.extend([BEFORE, &sum(&content), AFTER].iter().flat_map(|part| part.bytes()));
    Ok(())
}

/// Reads a line, its newline included.
///
/// # Errors
/// What is wrong with the line, if it is not as it was written.
pub(in crate::study) fn read<T: DeserializeOwned>(line: &[u8]) -> Result<T, String> {
    let unmarked = || "it does not end in a checksum".to_string();
    let rest = line.strip_suffix(AFTER.as_bytes()).ok_or_else(unmarked)?;
    let (rest, found) = rest.split_at_checked(rest.len().wrapping_sub(DIGITS)).ok_or_else(unmarked)?;
    let content = rest.strip_suffix(BEFORE.as_bytes()).ok_or_else(unmarked)?;
    if found != sum(content).as_bytes() {
        return Err("its checksum does not match".into());
    }
    serde_json::from_slice(line).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_line_is_json_and_any_other_byte_in_it_is_seen() {
        let mut line = Vec::new();
        write(&mut line, &json!({"id": 7, "text": "ü\n\"sum\""})).unwrap();
        let value: Value = read(&line).unwrap();
        assert_eq!((&value["id"], value["sum"].as_str().map(str::len)), (&json!(7), Some(DIGITS)));
        for at in 0..line.len() {
            for bit in 0..8 {
                let mut flipped = line.clone();
                flipped[at] ^= 1 << bit;
                assert!(read::<Value>(&flipped).is_err(), "byte {at}, bit {bit}");
            }
            assert!(read::<Value>(&line[..at]).is_err() && read::<Value>(&line[at + 1..]).is_err());
        }
    }
}
