//! What a judge has cost: tokens as counted by the server, and dollars. Kept in a ledger beside the judgements, one line
//! per delivery, so that it survives a kill and nothing is counted twice. Charges for requests that the server never
//! answered are unknown here, and prompts that it had cached are counted at full price.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::Result;
use crate::study::plan::judges::Prices;
use crate::study::store::{self, Ledger, Record};

/// Tokens of one answer or of many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) input: u64,
    pub(super) output: u64,
}

impl Usage {
    /// The `usage` field of a chat completion; servers may leave it out.
    pub(super) fn read(body: &Value) -> Self {
        let tokens = |name: &str| body["usage"][name].as_u64().unwrap_or(0);
        Self { input: tokens("prompt_tokens"), output: tokens("completion_tokens") }
    }
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.input += other.input;
        self.output += other.output;
    }
}

/// What `usage` costs, in dollars.
pub(super) fn dollars(prices: Prices, usage: Usage) -> f64 {
    (usage.input as f64 * prices.input + usage.output as f64 * prices.output) / 1e6
}

/// The most that asking with `prompt` can cost, in dollars: no token is shorter than a byte, and a chat adds a
/// few tokens to its only message.
pub(super) fn most_dollars(prices: Prices, prompt: &str) -> f64 {
    dollars(prices, Usage { input: prompt.len() as u64 + 16, output: 1 })
}

/// What one delivery, or everything so far, has cost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Charge {
    /// What was charged for; each id is charged once. Empty for a total.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// Answers of the server.
    pub requests: u64,
    /// Tokens of the prompts.
    pub input_tokens: u64,
    /// Tokens of the answers.
    pub output_tokens: u64,
    /// 0 where no prices are known.
    pub dollars: f64,
}

impl Record for Charge {
    type Key = String;
    fn key(&self) -> String {
        self.id.clone()
    }
}

impl std::fmt::Display for Charge {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let tokens = self.input_tokens + self.output_tokens;
        write!(f, "{} requests, {tokens} tokens", self.requests)?;
        if self.dollars > 0.0 { write!(f, ", ${:.4}", self.dollars) } else { Ok(()) }
    }
}

/// The charges of one judge of a run.
pub(super) struct Account {
    ledger: Ledger<Charge>,
    prices: Option<Prices>,
    /// Distinguishes the charges of this process.
    process: String,
    next: usize,
    total: Charge,
}

impl Account {
    /// Opens the account in `folder`, or creates it there.
    pub(super) fn open(folder: &Path, prices: Option<Prices>) -> Result<Self> {
        let ledger = Ledger::open(folder, &json!({"charges": "a judge"}))?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let process = format!("live-{}-{}", now.as_nanos(), std::process::id());
        let total = sum(ledger.records().values());
        Ok(Self { ledger, prices, process, next: 0, total })
    }

    /// Everything charged so far.
    pub(super) fn total(&self) -> &Charge {
        &self.total
    }

    /// Charges for `requests` answers; with an `id`, a repeated charge counts once.
    pub(super) fn charge(&mut self, id: Option<&str>, requests: u64, usage: Usage) -> Result<()> {
        if requests == 0 {
            return Ok(());
        }
        self.next += 1;
        let charge = Charge {
            id: id.map_or_else(|| format!("{}-{}", self.process, self.next), str::to_string),
            requests,
            input_tokens: usage.input,
            output_tokens: usage.output,
            dollars: self.prices.map_or(0.0, |prices| dollars(prices, usage)),
        };
        if !self.ledger.records().contains_key(&charge.id) {
            self.total = sum([&self.total, &charge].into_iter());
            self.ledger.append(vec![charge])?;
        }
        Ok(())
    }
}

/// Everything charged so far to the account in `folder`.
///
/// # Errors
/// `Error::Line` for a damaged line; `Error::Io`.
pub fn total(folder: &Path) -> Result<Charge> {
    Ok(sum(store::read::<Charge>(folder)?.values()))
}

fn sum<'a>(charges: impl Iterator<Item = &'a Charge>) -> Charge {
    charges.fold(Charge::default(), |mut total, charge| {
        total.requests += charge.requests;
        total.input_tokens += charge.input_tokens;
        total.output_tokens += charge.output_tokens;
        total.dollars += charge.dollars;
        total
    })
}
