//! `OpenAI`'s chat completions, as used for judging: one token is requested, with the 20 most probable alternatives.

use serde_json::{Value, json};

use super::wire::{RequestFailure, WireResult, excerpt};
use crate::study::judge::aggregate::{Distribution, normal_form};
use crate::study::plan::judges::OpenAi;

/// The request that has `prompt` judged.
pub(super) fn request(settings: &OpenAi, prompt: &str) -> Value {
    json!({
        "model": settings.model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": true,
        "top_logprobs": settings.top_logprobs,
        "seed": settings.seed,
    })
}

/// Reads a chat completion: the alternatives of its first token.
pub(super) fn parse(body: &Value) -> WireResult<Distribution> {
    let garbage = || {
        let text = body.as_str().map_or_else(|| body.to_string(), str::to_string);
        RequestFailure::again(format!("HTTP 200, but no chat completion: {:?}", excerpt(&text)))
    };
    let choice = body["choices"].get(0).ok_or_else(garbage)?;
    if choice["finish_reason"] == "content_filter" {
        // The server refused to rate this answer. An empty distribution counts as "other".
        return Ok(Vec::new());
    }
    let Some(top) = choice["logprobs"]["content"][0]["top_logprobs"].as_array().filter(|top| !top.is_empty())
    else {
        return Err(RequestFailure::NoLogprobs);
    };
    let pairs = top.iter().map(|entry| {
        let token = entry["token"].as_str()?;
        // −9999 means "very unlikely": e^−9999 is 0. A value above 0, rounding aside, is not a log-probability.
        let logprob = entry["logprob"].as_f64().filter(|&logprob| logprob < 1e-3)?;
        Some((token.to_string(), logprob.exp()))
    });
    pairs.collect::<Option<Vec<_>>>().map(normal_form).ok_or_else(garbage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_of_answers() {
        let top = |top: Value| json!({"choices": [{"logprobs": {"content": [{"top_logprobs": top}]}}]});
        let body = top(json!([{"token": "1", "logprob": -9999.0}, {"token": "90", "logprob": -0.5}]));
        assert_eq!(parse(&body).unwrap(), [("90".to_string(), (-0.5_f64).exp()), ("1".to_string(), 0.0)]);
        let filtered = json!({"choices": [{"finish_reason": "content_filter", "logprobs": null}]});
        assert_eq!(parse(&filtered).unwrap(), []);
        for none in [json!({"choices": [{"logprobs": null}]}), json!({"choices": [{}]}), top(json!([]))] {
            assert!(matches!(parse(&none), Err(RequestFailure::NoLogprobs)), "{none}");
        }
        for garbage in [json!("<html>"), json!({}), top(json!([{"token": "5", "logprob": 3.0}]))] {
            assert!(matches!(parse(&garbage), Err(RequestFailure::Again { .. })), "{garbage}");
        }
    }
}
