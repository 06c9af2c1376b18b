//! How a run's answers were made and judged, with hashes of everything they depend on; for reports and data sets.

use crate::study::folder::RunFolder;
use crate::study::plan::Plan;
use crate::study::plan::cell::Cell;
use crate::study::plan::judges::JudgeKind;
use crate::study::plan::made_under::AnswersMadeUnder;
use crate::study::store;

/// Pairs of a name and a value. `cells` are those of the plan with what their answers were made under; none where there
/// are no answers.
pub(super) fn method<'a>(
    plan: &Plan,
    folder: &RunFolder,
    cells: impl Iterator<Item = (&'a Cell<'a>, Option<&'a AnswersMadeUnder>)>,
) -> Vec<(String, String)> {
    let sampling = format!(
        "temperature {}, top_p {}, at most {} tokens, seed {}",
        plan.sampling.temperature, plan.sampling.top_p, plan.sampling.max_tokens, plan.sampling.seed
    );
    let mut method: Vec<(String, String)> = Vec::new();
    for (i, judge) in plan.judges.iter().enumerate() {
        let what = match &judge.kind {
            JudgeKind::OpenAi(judge) => {
                format!("{} at {}, top {} log-probabilities", judge.model, judge.url, judge.top_logprobs)
            }
            JudgeKind::Local(_) => format!("{}, exact over the numbers 0 to 100", judge.name),
            JudgeKind::Imported(_) => format!("{}, whose scores came with the answers", judge.name),
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
    let questions = std::fs::read(folder.questions())
        .map_or("not saved".into(), |bytes| format!("SHA-256 {}", store::sha256(&bytes)));
    method.push(("Questions".into(), questions));
    for (cell, made_under) in cells.filter(|(cell, _)| cell.model.path.is_some()) {
        let fingerprint = made_under.and_then(AnswersMadeUnder::model).unwrap_or_default();
        let model = (format!("Model {}", cell.model.name), format!("fingerprint {fingerprint}"));
        let mut what = made_under
            .and_then(AnswersMadeUnder::data_sha256)
            .map_or("the model as it is".into(), |sha256| format!("fine-tuned on data of SHA-256 {sha256}"));
        if let Some(steer) = &cell.condition.steer {
            let sha256 = made_under.and_then(AnswersMadeUnder::direction_sha256).unwrap_or_default();
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
