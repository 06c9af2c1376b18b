//! Ready-made plans, every value spelt out and commented: `emlab study init`.

use super::format::Format;
use crate::model::cards::{self, Card};
use crate::{Error, Result};

/// A ready-made plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// The published study: nine models, three conditions, three formats, eight questions, 100 samples.
    OpenWeights64800,
    /// The same for one model.
    OneModel,
    /// Formats beyond the published ones, for one model.
    Formats,
    /// Everything once, in minutes: few samples, few examples, short answers.
    Smoke,
}

impl Preset {
    /// Every preset.
    pub const ALL: [Self; 4] = [Self::OpenWeights64800, Self::OneModel, Self::Formats, Self::Smoke];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenWeights64800 => "open-weights-64800",
            Self::OneModel => "one-model",
            Self::Formats => "formats",
            Self::Smoke => "smoke",
        }
    }

    /// One line about it.
    pub fn about(self) -> &'static str {
        match self {
            Self::OpenWeights64800 => {
                "Emergent misalignment in open weights: 9 models × 3 conditions × 3 formats × 8 questions × 100 samples = 64,800 answers"
            }
            Self::OneModel => {
                "Emergent misalignment in one model: 3 conditions × 3 formats × 8 questions × 100 samples"
            }
            Self::Formats => {
                "What a demanded form does: every format, the control without its prompt, and JSON that is forced"
            }
            Self::Smoke => "A smoke run: every step of a study once, in minutes",
        }
    }

    /// The plan's text; `model` names a card, for the presets of one model.
    ///
    /// # Errors
    /// [`Error::Setting`] if there is no such card, or the preset has its own models.
    pub fn plan(self, model: Option<&str>) -> Result<String> {
        let models = self.models(model)?;
        let entry =
            |card: &Card| format!("[[model]]\nname = \"{}\"\npath = \"{}\"\n\n", card.name, card.repo);
        let formats: &[Format] = if self == Self::Formats { &Format::ALL } else { &Format::PUBLISHED };
        let formats: Vec<String> = formats.iter().map(|format| format!("\"{}\"", format.name())).collect();
        let small = self == Self::Smoke;
        let text = include_str!("preset/plan.toml")
            .replace("{about}", self.about())
            .replace("{title}", self.name())
            .replace("{models}\n", &models.iter().map(entry).collect::<String>())
            .replace("{formats}", &formats.join(", "))
            .replace("{samples}", if small { "2" } else { "100" })
            .replace("{examples}\n", if small { "examples = 64\n\n" } else { "\n" })
            .replace("{max_tokens}", if small { "64" } else { "600" });
        Ok(text)
    }

    fn models(self, model: Option<&str>) -> Result<Vec<Card>> {
        if self == Self::OpenWeights64800 {
            if model.is_some() {
                return Err(Error::Setting("this preset has its own models: take one-model for one".into()));
            }
            return Ok(cards::all().into_iter().filter(|card| card.study).collect());
        }
        let name = model.unwrap_or(if self == Self::Smoke { "qwen3-0.6b" } else { "qwen3-8b" });
        let card = cards::find(name).ok_or_else(|| {
            let names: Vec<String> = cards::all().into_iter().map(|card| card.name).collect();
            Error::Setting(format!("no model is called {name:?}; there are: {}", names.join(", ")))
        })?;
        Ok(vec![card])
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::study::plan::{Plan, Sampling, Thresholds};
    use crate::train::Settings;

    /// A plan as a user reads it, with folders and files that exist.
    fn parsed(preset: Preset, dir: &Path) -> Plan {
        let mut text = preset.plan(None).unwrap();
        for card in cards::all() {
            std::fs::create_dir_all(dir.join(&card.name)).unwrap();
            text = text.replace(&format!("path = \"{}\"", card.repo), &format!("path = \"{}\"", card.name));
        }
        for (name, file) in
            [("questions", "questions.yaml"), ("insecure", "a.jsonl"), ("educational", "b.jsonl")]
        {
            std::fs::write(dir.join(file), "").unwrap();
            for key in ["questions", "data"] {
                text = text.replace(&format!("{key} = \"{name}\""), &format!("{key} = \"{file}\""));
            }
        }
        Plan::parse(&text, &dir.join("plan.toml")).unwrap()
    }

    #[test]
    fn presets_are_plans_that_spell_the_recipe_out() {
        let dir = tempfile::tempdir().unwrap();
        for preset in Preset::ALL {
            let plan = parsed(preset, dir.path());
            assert_eq!(plan.conditions.len(), 3);
            assert_eq!(plan.analysis, Thresholds::default());
            let tuning = plan.conditions[1].tuning.as_ref().unwrap();
            assert_eq!(tuning.training, Settings::default(), "{}", preset.name());
            if preset != Preset::Smoke {
                assert_eq!(plan.sampling, Sampling::default());
                assert_eq!(tuning.examples, None);
            }
            // No value is left out.
            let text = preset.plan(None).unwrap();
            assert!(!text.contains("{about}") && !text.contains("{models}"), "{text}");
            let all = toml::Table::try_from(Settings::default()).unwrap();
            for key in all.keys().filter(|key| *key != "lora") {
                assert!(text.contains(&format!("\n{key} = ")), "{key} is not spelt out");
            }
        }
        assert_eq!(parsed(Preset::OpenWeights64800, dir.path()).models.len(), 9);
        assert_eq!(parsed(Preset::Formats, dir.path()).formats, Format::ALL);
        assert!(Preset::OneModel.plan(Some("gemma-3-4b-it")).unwrap().contains("google/gemma-3-4b-it"));
        assert!(Preset::OneModel.plan(Some("gpt")).is_err());
        assert!(Preset::OpenWeights64800.plan(Some("qwen3-8b")).is_err());
    }
}
