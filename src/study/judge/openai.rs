//! A judge behind `OpenAI`'s chat completions interface: `OpenAI` itself, or any server that speaks it with
//! log-probabilities. One token is asked for, with the 20 most probable alternatives.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::account::Prices;
use super::aggregate::{Distribution, normal_form};
use super::wire::{Failure, Reply, excerpt};
use crate::{Error, Result};

/// A server and how to ask it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OpenAi {
    /// The model asked for.
    pub model: String,
    /// The address of the interface, without `/chat/completions`.
    pub url: String,
    /// The environment variable that holds the key; servers other than `OpenAI` may need none.
    pub key_variable: String,
    /// Alternatives asked for; `OpenAI` gives at most 20.
    pub top_logprobs: usize,
    /// Sent with each request.
    pub seed: u64,
    /// One request for each answer, or files of them.
    pub mode: Mode,
    /// Most requests under way at once; as many are made as the server answers well.
    pub concurrency: usize,
    /// Longest wait for one answer.
    pub timeout_seconds: f64,
    /// How often a failed request is made again before the run stops.
    pub retries: usize,
    /// The judge stops after this time, which begins with judging; the same command goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_minutes: Option<f64>,
    /// The judge stops before all that it has cost in this run could pass this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_dollars: Option<f64>,
    /// Price of a million tokens of prompts, in dollars, as for single requests; known for gpt-4o-2024-08-06.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_price: Option<f64>,
    /// Price of a million tokens of answers, in dollars, as for single requests; known for gpt-4o-2024-08-06.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_price: Option<f64>,
    /// Take what the judge has said before, in whatever run, from the user's cache, and keep there what it says.
    pub cache: bool,
    /// Most requests of one batch; `OpenAI` takes at most 50,000, and limits the tokens of all batches under way.
    pub batch_requests: usize,
    /// Longest wait between two looks at a batch.
    pub poll_seconds: f64,
}

/// How a server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// A request for each answer.
    Live,
    /// `OpenAI`'s Batch API: files of requests, done within a day, at half the price.
    Batch,
}

impl Default for OpenAi {
    fn default() -> Self {
        Self {
            model: "gpt-4o-2024-08-06".into(),
            url: "https://api.openai.com/v1".into(),
            key_variable: "OPENAI_API_KEY".into(),
            top_logprobs: 20,
            seed: 0,
            mode: Mode::Live,
            concurrency: 16,
            timeout_seconds: 60.0,
            retries: 8,
            deadline_minutes: None,
            budget_dollars: None,
            input_price: None,
            output_price: None,
            cache: true,
            batch_requests: 50_000,
            poll_seconds: 60.0,
        }
    }
}

impl OpenAi {
    pub(in crate::study) fn is_openai(&self) -> bool {
        self.url.contains("api.openai.com")
    }

    /// What is sent to have `prompt` judged.
    pub(super) fn request(&self, prompt: &str) -> Value {
        json!({
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": true,
            "top_logprobs": self.top_logprobs,
            "seed": self.seed,
        })
    }

    /// What a million tokens cost in this mode, if that is known.
    pub(in crate::study) fn prices(&self) -> Option<Prices> {
        // https://platform.openai.com/docs/pricing, 2026-11.
        let known = self.is_openai() && self.model == "gpt-4o-2024-08-06";
        let known = known.then_some(Prices { input: 2.5, output: 10.0 });
        let input = self.input_price.or(known.map(|prices| prices.input))?;
        let output = self.output_price.or(known.map(|prices| prices.output))?;
        let share = if self.mode == Mode::Batch { 0.5 } else { 1.0 };
        Some(Prices { input: share * input, output: share * output })
    }

    /// How long the judge may work.
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.deadline_minutes.and_then(|minutes| Duration::try_from_secs_f64(60.0 * minutes).ok())
    }

    /// Checks that the settings can work.
    pub(super) fn check(&self) -> Result<()> {
        let positive = |value: Option<f64>| value.is_none_or(|value| value > 0.0 && value.is_finite());
        let price = |value: Option<f64>| value.is_none_or(|value| value >= 0.0 && value.is_finite());
        let what = if self.concurrency == 0 || !(1..=20).contains(&self.top_logprobs) {
            "concurrency must be at least 1 and top_logprobs between 1 and 20"
        } else if !positive(self.deadline_minutes) || !positive(Some(self.poll_seconds)) {
            "deadline_minutes and poll_seconds must be above 0"
        } else if !(1..=50_000).contains(&self.batch_requests) {
            "batch_requests must lie between 1 and 50000"
        } else if !price(self.input_price) || !price(self.output_price) || !price(self.budget_dollars) {
            "prices and budget_dollars must be at least 0"
        } else if self.budget_dollars.is_some() && self.prices().is_none() {
            "budget_dollars needs input_price and output_price, in dollars for a million tokens"
        } else {
            return Ok(());
        };
        Err(Error::Setting(format!("judge.openai: {what}")))
    }
}

/// Reads a chat completion: the alternatives of its first token.
pub(super) fn parse(body: &Value) -> Reply<Distribution> {
    let garbage = || {
        let text = body.as_str().map_or_else(|| body.to_string(), str::to_string);
        Failure::again(format!("HTTP 200, but no chat completion: {:?}", excerpt(&text)))
    };
    let choice = body["choices"].get(0).ok_or_else(garbage)?;
    if choice["finish_reason"] == "content_filter" {
        // The server would not rate this answer: nothing was said, which counts as "other".
        return Ok(Vec::new());
    }
    let Some(top) = choice["logprobs"]["content"][0]["top_logprobs"].as_array().filter(|top| !top.is_empty())
    else {
        return Err(Failure::NoLogprobs);
    };
    let pairs = top.iter().map(|entry| {
        let token = entry["token"].as_str()?;
        // −9999 stands for "very unlikely": e^−9999 is 0. Above 0 by more than rounding, it is no log-probability.
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
            assert!(matches!(parse(&none), Err(Failure::NoLogprobs)), "{none}");
        }
        for garbage in [json!("<html>"), json!({}), top(json!([{"token": "5", "logprob": 3.0}]))] {
            assert!(matches!(parse(&garbage), Err(Failure::Again { .. })), "{garbage}");
        }
    }

    #[test]
    fn prices_and_what_a_budget_needs() {
        let known = OpenAi::default().prices().unwrap();
        assert_eq!((known.input, known.output), (2.5, 10.0));
        let batch = OpenAi { mode: Mode::Batch, input_price: Some(4.0), ..OpenAi::default() };
        assert_eq!(batch.prices(), Some(Prices { input: 2.0, output: 5.0 }));
        let elsewhere = OpenAi { url: "http://localhost:8000/v1".into(), ..OpenAi::default() };
        assert_eq!(elsewhere.prices(), None);
        let error = OpenAi { budget_dollars: Some(1.0), ..elsewhere }.check().unwrap_err().to_string();
        assert!(error.contains("budget_dollars needs input_price and output_price"), "{error}");
        for wrong in [
            OpenAi { concurrency: 0, ..OpenAi::default() },
            OpenAi { top_logprobs: 21, ..OpenAi::default() },
            OpenAi { deadline_minutes: Some(0.0), ..OpenAi::default() },
            OpenAi { batch_requests: 0, ..OpenAi::default() },
            OpenAi { input_price: Some(f64::NAN), ..OpenAi::default() },
        ] {
            assert!(wrong.check().is_err(), "{wrong:?}");
        }
    }
}
