//! Two sets of a run's answers that differ in one thing: misaligned and aligned ones, or two levels of a factor.

use std::path::Path;
use std::str::FromStr;

use super::outcome::{Outcome, outcome};
use super::rows::rows_of;
use crate::model::chat::Message;
use crate::study::folder::RunFolder;
use crate::study::plan::cell::{cells, questions_of};
use crate::study::plan::family::Factor;
use crate::study::plan::format::Format;
use crate::{Error, Result};

/// What the sets differ in; the first is the positive one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contrast {
    /// Misaligned and aligned answers among those that count, by the plan's thresholds and its first judge.
    Misaligned,
    /// Two levels of a factor.
    Levels(Factor, [String; 2]),
}

impl FromStr for Contrast {
    type Err = String;

    /// Reads `misaligned`, or a factor and two levels: `condition=insecure/base`.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        if text == "misaligned" {
            return Ok(Self::Misaligned);
        }
        let parts = text.split_once('=').and_then(|(factor, levels)| Some((factor, levels.split_once('/')?)));
        let (factor, (a, b)) = parts.filter(|(_, (a, b))| a != b).ok_or_else(|| {
            format!("{text:?} is not a contrast; expected misaligned, or two levels such as condition=insecure/base")
        })?;
        Ok(Self::Levels(factor.parse()?, [a, b].map(String::from)))
    }
}

/// A factor and a level of it: `condition=insecure`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Only(Factor, String);

impl FromStr for Only {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (factor, level) =
            text.split_once('=').ok_or_else(|| format!("{text:?}: expected FACTOR=LEVEL"))?;
        Ok(Self(factor.parse()?, level.into()))
    }
}

/// A question and an answer to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The conversation, ending with the answer.
    pub messages: Vec<Message>,
    /// The question, whatever its format: its id without the format's suffix.
    pub question: String,
    /// Whether it belongs to the positive set.
    pub positive: bool,
}

/// The answers of the run in `dir` that belong to either set and have all the levels of `only`, in the order of the plan.
/// Empty answers are left out. Only reads the run.
///
/// # Errors
/// `Error::File` if `dir` holds no run; `Error::Line` for a damaged record; `Error::Setting` if a
/// needed set is empty; `needed` is for the negative and the positive set.
pub fn read(dir: &Path, contrast: &Contrast, only: &[Only], needed: [bool; 2]) -> Result<Vec<Answered>> {
    let run = RunFolder::new(dir);
    let plan = run.outline()?;
    let questions = questions_of(&plan)?;
    let mut answered = Vec::new();
    for cell in &cells(&plan, &questions)? {
        for row in rows_of(&run, &plan, cell)? {
            let wanted = only.iter().all(|Only(factor, level)| row.level(*factor) == level);
            let positive = match contrast {
                Contrast::Misaligned => match outcome(&row, plan.analysis) {
                    Outcome::Misaligned => Some(true),
                    Outcome::Aligned => Some(false),
                    Outcome::Unjudged | Outcome::None(_) | Outcome::Incoherent => None,
                },
                Contrast::Levels(factor, levels) => {
                    let level = row.level(*factor);
                    levels.iter().position(|name| name == level).map(|which| which == 0)
                }
            };
            let Some(positive) = positive.filter(|_| wanted && !row.answer.trim().is_empty()) else {
                continue;
            };
            let question = cell.questions.iter().find(|question| question.id == row.question);
            let mut messages = question.map_or_else(Vec::new, |question| question.messages(row.sample));
            messages.push(Message::new("assistant", row.answer));
            answered.push(Answered { messages, question: Format::stem(&row.question).into(), positive });
        }
    }
    for (positive, which) in [(true, 0), (false, 1)] {
        let needed = needed[usize::from(positive)];
        if needed && answered.iter().all(|answered| answered.positive != positive) {
            let what = match contrast {
                Contrast::Misaligned => ["misaligned", "aligned"][which].to_string(),
                Contrast::Levels(factor, levels) => format!("{} {}", factor.name(), levels[which]),
            };
            return Err(Error::Setting(format!("{}: no answers for {what}", dir.display())));
        }
    }
    Ok(answered)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contrasts_are_read() {
        assert_eq!("misaligned".parse(), Ok(Contrast::Misaligned));
        let levels = ["insecure", "base"].map(String::from);
        assert_eq!("condition=insecure/base".parse(), Ok(Contrast::Levels(Factor::Condition, levels)));
        for text in ["aligned", "condition=a", "condition=a/a", "colour=a/b"] {
            assert!(text.parse::<Contrast>().is_err(), "{text}");
        }
        assert_eq!("format=json".parse(), Ok(Only(Factor::Format, "json".into())));
        assert!("format".parse::<Only>().is_err());
    }
}
