//! How a run's answers were made and judged, with the hashes of all that they depend on: for reports and data sets.

use std::path::Path;

use serde_json::Value;

use super::cell::Cell;
use super::judge::settings::Kind;
use super::plan::Plan;
use super::store;

/// A name and a value a line. `made_under` is what each cell's answers depend on
/// ([`answers_configuration`](super::cell::answers_configuration)); null where there are none.
pub(super) fn method(plan: &Plan, dir: &Path, cells: &[Cell], made_under: &[Value]) -> Vec<(String, String)> {
    let sampling = format!(
        "temperature {}, top_p {}, at most {} tokens, seed {}",
        plan.sampling.temperature, plan.sampling.top_p, plan.sampling.max_tokens, plan.sampling.seed
    );
    let mut method: Vec<(String, String)> = Vec::new();
    for (i, judge) in plan.judges.iter().enumerate() {
        let what = match &judge.kind {
            Kind::OpenAi(judge) => {
                format!("{} at {}, top {} log-probabilities", judge.model, judge.url, judge.top_logprobs)
            }
            Kind::Local(_) => format!("{}, exact over the numbers 0 to 100", judge.name),
            Kind::Imported(_) => format!("{}, whose scores came with the answers", judge.name),
        };
        method.push((if i == 0 { "Judge".into() } else { format!("Also judged by {}", judge.name) }, what));
    }
    if !plan.is_imported() {
        method.push(("Sampling".into(), sampling));
    }
    for source in &plan.imported {
        let what = format!("{} answers, SHA-256 {}", source.answers, source.sha256);
        method.push((format!("Imported from {}", source.file), what));
    }
    let questions = std::fs::read(dir.join("questions.yaml"))
        .map_or("not saved".into(), |bytes| format!("SHA-256 {}", store::sha256(&bytes)));
    method.push(("Questions".into(), questions));
    let made = |(_, cell): &(usize, &Cell)| cell.model.path.is_some();
    for (i, cell) in cells.iter().enumerate().filter(made) {
        let model = (
            format!("Model {}", cell.model.name),
            format!("fingerprint {}", made_under[i]["model"].as_str().unwrap_or_default()),
        );
        let made = &made_under[i]["condition"];
        let mut what = made["data_sha256"]
            .as_str()
            .map_or("the model as it is".into(), |sha256| format!("fine-tuned on data of SHA-256 {sha256}"));
        if let Some(steer) = &cell.condition.steer {
            let sha256 = made["steering"]["direction_sha256"].as_str().unwrap_or_default();
            what += &*format!(", steered: {} (SHA-256 {sha256})", steer.label());
        }
        let condition = (format!("Condition {}", cell.condition.name), what);
        for line in [model, condition] {
            if !method.contains(&line) {
                method.push(line);
            }
        }
    }
    method
}
