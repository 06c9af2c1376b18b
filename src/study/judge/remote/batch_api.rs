//! `OpenAI`'s Batch API: uploads files, creates and polls batches, downloads results.
//! <https://platform.openai.com/docs/api-reference/batch>

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::account::Usage;
use super::openai::parse;
use super::wire::{RequestFailure, Wire, WireResult, excerpt};
use crate::study::judge::aggregate::Distribution;

/// Metadata key that holds our name for a batch.
const MARK: &str = "emlab";
/// Allowed difference between the server's clock and ours, in seconds.
const CLOCKS_DIFFER: u64 = 86_400;

/// The state of a batch.
pub(super) enum Standing {
    /// Requests done, and requests in total.
    UnderWay(u64, u64),
    /// Other batches use up the server's token limit; this one can be submitted again later.
    NoRoom,
    /// It was refused as a whole.
    Refused(String),
    /// It has ended, completely or not, with these result files.
    Ended(Vec<String>),
    /// It was cancelled; these files hold what was done before.
    Cancelled(Vec<String>),
}

fn document(text: &str) -> WireResult<Value> {
    serde_json::from_str(text).map_err(|_| {
        RequestFailure::again(format!("HTTP 200, but not what was asked for: {:?}", excerpt(text)))
    })
}

fn id(object: &Value) -> WireResult<String> {
    // Ids become parts of URLs.
    let plain =
        |id: &&str| !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    let id = object["id"].as_str().filter(plain);
    id.map(str::to_string).ok_or_else(|| RequestFailure::again("HTTP 200, but no usable id in the answer"))
}

/// The first object of a list for which `is_it` holds, page by page until `enough` holds.
fn find(
    wire: &Wire,
    path: &str,
    is_it: impl Fn(&Value) -> bool,
    enough: impl Fn(&Value) -> bool,
) -> WireResult<Option<String>> {
    let mut after = String::new();
    loop {
        let page = document(&wire.get(&format!("{path}{after}"), false)?.text)?;
        let objects = page["data"].as_array().map(Vec::as_slice).unwrap_or_default();
        if let Some(found) = objects.iter().find(|object| is_it(object)) {
            return id(found).map(Some);
        }
        match objects.last() {
            Some(last) if page["has_more"] == true && !enough(last) => {
                after = format!("&after={}", id(last)?);
            }
            _ => return Ok(None),
        }
    }
}

fn made_before(object: &Value, since: u64) -> bool {
    object["created_at"].as_u64().is_some_and(|made| made + CLOCKS_DIFFER < since)
}

/// The uploaded file of that name: an earlier attempt may have died between the upload and recording it.
pub(super) fn find_file(wire: &Wire, name: &str, since: u64) -> WireResult<Option<String>> {
    let path = "files?purpose=batch&limit=1000&order=desc";
    find(wire, path, |file| file["filename"] == name, |file| made_before(file, since))
}

/// Uploads a file of requests.
pub(super) fn upload(wire: &Wire, name: &str, bytes: &[u8]) -> WireResult<String> {
    id(&document(&wire.upload("files", name, bytes)?.text)?)
}

/// The batch with that mark.
pub(super) fn find_batch(wire: &Wire, mark: &str, since: u64) -> WireResult<Option<String>> {
    find(
        wire,
        "batches?limit=100",
        |batch| batch["metadata"][MARK] == mark,
        |batch| made_before(batch, since),
    )
}

/// Creates a batch from an uploaded file.
pub(super) fn create(wire: &Wire, file: &str, mark: &str) -> WireResult<String> {
    let body = json!({
        "input_file_id": file,
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        "metadata": {MARK: mark},
    });
    id(&document(&wire.post("batches", &body)?.text)?)
}

/// Polls a batch.
pub(super) fn look(wire: &Wire, batch: &str) -> WireResult<Standing> {
    let batch = document(&wire.get(&format!("batches/{batch}"), false)?.text)?;
    let count = |name: &str| batch["request_counts"][name].as_u64().unwrap_or(0);
    let file = |name: &str| batch[name].as_str().filter(|id| !id.is_empty()).map(str::to_string);
    let files = ["output_file_id", "error_file_id"].into_iter().filter_map(file).collect();
    Ok(match batch["status"].as_str().unwrap_or_default() {
        "failed" => {
            let errors = batch["errors"]["data"].as_array().map(Vec::as_slice).unwrap_or_default();
            if errors.iter().any(|error| error["code"] == "token_limit_exceeded") {
                return Ok(Standing::NoRoom);
            }
            let said =
                errors.first().and_then(|error| error["message"].as_str()).unwrap_or("no reason given");
            Standing::Refused(excerpt(said))
        }
        "completed" | "expired" => Standing::Ended(files),
        "cancelled" => Standing::Cancelled(files),
        _ => Standing::UnderWay(count("completed") + count("failed"), count("total")),
    })
}

/// Adds the results in a file to `into`, by custom id, and returns the number of answers and their tokens. A line that
/// cannot be read is skipped: its request is made again.
pub(super) fn results(
    wire: &Wire,
    file: &str,
    into: &mut BTreeMap<String, WireResult<Distribution>>,
) -> WireResult<(u64, Usage)> {
    let text = wire.get(&format!("files/{file}/content"), true)?.text;
    let (mut requests, mut usage) = (0, Usage::default());
    for line in text.lines() {
        let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
        let Some(id) = line["custom_id"].as_str() else { continue };
        let response = &line["response"];
        let said = match response["status_code"].as_u64() {
            Some(200) => {
                requests += 1;
                usage += Usage::read(&response["body"]);
                parse(&response["body"])
            }
            Some(status) => Err(wire.refusal(status as u16, None, &response["body"].to_string())),
            None => {
                let error = &line["error"];
                let message = error["message"].as_str().or(error["code"].as_str()).unwrap_or("no answer");
                Err(RequestFailure::again(excerpt(message)))
            }
        };
        // An answer takes precedence over an error for the same request.
        if said.is_ok() || !into.contains_key(id) {
            into.insert(id.to_string(), said);
        }
    }
    Ok((requests, usage))
}
