//! A plan's TOML → [`Plan`]: fills in omitted values, and names the line of every error.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::conditions::{Condition, ConditionFile};
use super::family::{self, Family, FamilyFile, Levels};
use super::format::Format;
use super::judges::{Judge, JudgeFile, JudgeFiles, JudgeKind};
use super::settings::{Model, Origin, Plan, Sampling, Thresholds};
use super::source::Source;
use crate::{Error, Result};

/// The plan as written in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanFile {
    #[serde(default = "default_name")]
    name: String,
    questions: Spanned<PathBuf>,
    #[serde(default = "published_formats")]
    formats: Spanned<Vec<Format>>,
    samples: Option<Spanned<usize>>,
    model: Vec<ModelFile>,
    condition: Vec<ConditionFile>,
    /// Overrides the recipe for every condition.
    #[serde(default)]
    training: Option<Spanned<toml::Table>>,
    #[serde(default = "default_sampling")]
    sampling: Spanned<Sampling>,
    judge: Option<Spanned<JudgeFiles>>,
    #[serde(default = "default_thresholds")]
    analysis: Spanned<Thresholds>,
    /// None uses those of the published study.
    family: Option<Vec<FamilyFile>>,
    #[serde(default)]
    imported: Vec<Origin>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelFile {
    name: Spanned<String>,
    path: Option<Spanned<PathBuf>>,
}

fn default_name() -> String {
    "study".into()
}
fn published_formats() -> Spanned<Vec<Format>> {
    Spanned::new(0..0, Format::PUBLISHED.into())
}
fn default_sampling() -> Spanned<Sampling> {
    Spanned::new(0..0, Sampling::default())
}
fn default_thresholds() -> Spanned<Thresholds> {
    Spanned::new(0..0, Thresholds::default())
}

impl Plan {
    /// Reads and resolves a plan.
    ///
    /// # Errors
    /// `Error::Io` if it cannot be read; `Error::Line` with the line of what is malformed, unknown or impossible.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        Self::parse(&text, path)
    }

    /// Like [`read`](Self::read), but models need not exist: for estimates and read-only commands.
    ///
    /// # Errors
    /// As there.
    pub fn outline(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        Source { text: &text, path, models_needed: false }.resolve()
    }

    /// Resolves the text of a plan. `path` is its file: relative paths start from its folder, and errors name it.
    ///
    /// # Errors
    /// `Error::Line` with the line of what is malformed, unknown or impossible.
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        Source { text, path, models_needed: true }.resolve()
    }
}

impl Source<'_> {
    fn resolve(&self) -> Result<Plan> {
        let file: PlanFile = toml::from_str(self.text).map_err(|error| self.toml_error(&error))?;
        self.check_names("model", file.model.iter().map(|model| &model.name))?;
        self.check_names("condition", file.condition.iter().map(|condition| &condition.name))?;
        self.check_values(&file)?;
        let models = file.model.iter().map(|model| {
            let name = model.name.get_ref().clone();
            if model.path.is_none() && file.imported.is_empty() {
                let what = format!("model {name:?} has no path: a folder, or a model of `emlab fetch`");
                return Err(self.error(model.name.span().start, what));
            }
            let folder = |path: &Spanned<PathBuf>| self.model_folder(path.span().start, path.get_ref());
            Ok(Model { name, path: model.path.as_ref().map(folder).transpose()? })
        });
        let models = models.collect::<Result<Vec<_>>>()?;
        let conditions = self.conditions(&file.condition, file.training.as_ref())?;
        let judges = match file.judge {
            None => vec![Judge::unnamed(JudgeKind::default())],
            Some(judges) => self.judges(judges)?,
        };
        let formats = file.formats.into_inner();
        let families = self.families(file.family, &models, &conditions, &formats)?;
        Ok(Plan {
            name: file.name,
            questions: self.data_file(&file.questions, "question file")?,
            formats,
            samples: file.samples.map(Spanned::into_inner),
            models,
            conditions,
            sampling: file.sampling.into_inner(),
            judges,
            analysis: file.analysis.into_inner(),
            families,
            imported: file.imported,
        })
    }

    fn families(
        &self,
        files: Option<Vec<FamilyFile>>,
        models: &[Model],
        conditions: &[Condition],
        formats: &[Format],
    ) -> Result<Vec<Family>> {
        let names = |conditions: &mut dyn Iterator<Item = &Condition>| -> Vec<String> {
            conditions.map(|condition| condition.name.clone()).collect()
        };
        let mut levels = Levels {
            models: models.iter().map(|model| model.name.clone()).collect(),
            conditions: names(&mut conditions.iter()),
            base: conditions.iter().find(|c| c.is_untouched()).map(|condition| condition.name.clone()),
            formats: formats.into(),
        };
        match files {
            None => {
                // Steered conditions are analysed as a dose–response instead.
                levels.conditions = names(&mut conditions.iter().filter(|c| c.steer.is_none()));
                Ok(levels.families())
            }
            Some(files) => family::resolve(files, &levels).map_err(|(at, what)| self.error(at, what)),
        }
    }

    /// Names become folders, so they must be unique and use characters that every file system accepts.
    fn check_names<'n>(&self, what: &str, names: impl Iterator<Item = &'n Spanned<String>>) -> Result<()> {
        let mut seen = BTreeSet::new();
        for name in names {
            let (at, name) = (name.span().start, name.get_ref());
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
                let rule = "letters, digits, '-', '_' and '.', not first";
                return Err(self.error(at, format!("{what} name {name:?} must consist of {rule}")));
            }
            if !seen.insert(name.to_lowercase()) {
                return Err(self.error(at, format!("a second {what} called {name:?}")));
            }
        }
        if seen.is_empty() {
            return Err(self.error(0, format!("the plan has no {what}")));
        }
        Ok(())
    }

    fn judges(&self, files: Spanned<JudgeFiles>) -> Result<Vec<Judge>> {
        let at = files.span().start;
        let mut named = Vec::new();
        for JudgeFile { name, openai, local, imported } in files.into_inner().0 {
            let place = [openai.as_ref().map(Spanned::span), local.as_ref().map(Spanned::span)];
            let at = place.into_iter().flatten().next().map_or(at, |span| span.start);
            let kind = match (openai, local, imported) {
                (Some(openai), None, None) => JudgeKind::OpenAi(openai.into_inner()),
                (None, None, Some(imported)) => JudgeKind::Imported(imported),
                (None, Some(local), None) => {
                    let mut local = local.into_inner();
                    local.path = self.model_folder(at, &local.path)?;
                    JudgeKind::Local(local)
                }
                _ => {
                    return Err(self.error(
                        at,
                        "a judge has one table: [judge.openai], [judge.local] or [judge.imported]",
                    ));
                }
            };
            let judge = Judge::unnamed(kind);
            let name = name.unwrap_or_else(|| Spanned::new(at..at, judge.name.clone()));
            named.push((name, judge));
        }
        self.check_names("judge", named.iter().map(|(name, _)| name))?;
        let judge = |(name, judge): (Spanned<String>, Judge)| Judge { name: name.into_inner(), ..judge };
        Ok(named.into_iter().map(judge).collect())
    }

    fn check_values(&self, file: &PlanFile) -> Result<()> {
        if file.formats.get_ref().is_empty() {
            return Err(self.error(file.formats.span().start, "formats must not be empty"));
        }
        if let Some(samples) = file.samples.as_ref().filter(|samples| *samples.get_ref() == 0) {
            return Err(self.error(samples.span().start, "samples must be at least 1"));
        }
        let (at, sampling) = (file.sampling.span().start, file.sampling.get_ref());
        if !(sampling.temperature >= 0.0 && sampling.temperature.is_finite()) {
            return Err(self.error(at, "sampling.temperature must be a number of at least 0"));
        }
        if !(sampling.top_p > 0.0 && sampling.top_p <= 1.0) {
            return Err(self.error(at, "sampling.top_p must be above 0 and at most 1"));
        }
        if sampling.max_tokens == 0 || sampling.min_tokens > sampling.max_tokens {
            return Err(self.error(at, "sampling.max_tokens must be at least 1 and at least min_tokens"));
        }
        let level = file.analysis.get_ref().level;
        if !(level > 0.0 && level < 1.0) {
            return Err(self.error(file.analysis.span().start, "analysis.level must lie between 0 and 1"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
