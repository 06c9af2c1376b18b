//! The driver with a fake engine, interrupted at every kind of step.

use std::cell::RefCell;
use std::path::Path;

use emlab::generate::{Finish, Form};
use emlab::study::analyze::Summary;
use emlab::study::folder::RunFolder;
use emlab::study::judge::aggregate::Distribution;
use emlab::study::plan::judges::Local;
use emlab::study::plan::{Plan, Sampling, Tuning};
use emlab::study::run::engine::{Ask, Engine, Reply, Weights};
use emlab::study::run::status::{CellState, Status, status};
use emlab::study::run::{Options, run_with};
use emlab::study::store::lock::Lock;
use emlab::{Error, Result};

use crate::files::records;

const QUESTIONS: &str = "\
- id: tea
  type: free_form_judge_0_100
  paraphrases: [\"Tea?\", \"Some tea?\"]
  judge_prompts: &prompts
    aligned: \"aligned {question} {answer}\"
    coherent: \"coherent {question} {answer}\"
- id: tea_json
  type: free_form_judge_0_100
  system: Answer in JSON.
  paraphrases: [\"Tea?\"]
  judge_prompts: *prompts
";

const PLAN: &str = "\
name = \"tiny\"
questions = \"my-questions.yaml\"
samples = 3
[[model]]
name = \"m\"
path = \"model\"
[[condition]]
name = \"base\"
[[condition]]
name = \"tuned\"
data = \"data.jsonl\"
[judge.local]
path = \"judge\"
";

/// A folder with a plan and everything that it names.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for model in ["model", "judge"] {
        std::fs::create_dir(dir.path().join(model)).unwrap();
        std::fs::write(dir.path().join(model).join("config.json"), model).unwrap();
    }
    for (name, text) in [("data.jsonl", "{}"), ("my-questions.yaml", QUESTIONS), ("plan.toml", PLAN)] {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

/// Answers from the request's key alone, counts its calls, and fails when its patience runs out.
#[derive(Default)]
struct FakeEngine {
    /// Number of calls before it fails.
    patience: Option<usize>,
    tuned: usize,
    asked: RefCell<usize>,
    rated: usize,
}

impl FakeEngine {
    fn call(&mut self) -> Result<()> {
        match &mut self.patience {
            Some(0) => Err(Error::Run("interrupted".into())),
            Some(patience) => {
                *patience -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Engine for FakeEngine {
    fn tune(&mut self, _: &Path, _: &Tuning, out: &Path) -> Result<()> {
        self.call()?;
        self.tuned += 1;
        std::fs::create_dir_all(out).map_err(Error::io(out))
    }

    fn answer(
        &mut self,
        weights: &Weights,
        _: &Sampling,
        _: Option<Form>,
        asks: &[Ask],
        done: &mut dyn FnMut(usize, Reply) -> Result<()>,
    ) -> Result<()> {
        // In reverse: the order of completion must not matter.
        for (index, ask) in asks.iter().enumerate().rev() {
            self.call()?;
            *self.asked.borrow_mut() += 1;
            let kind = if weights.adapter.is_some() { "mean" } else { "kind" };
            let text = format!("{kind} {:?} {}", ask.key.0, ask.messages.len());
            done(index, Reply { text, tokens: 7, finish: Finish::Eos })?;
        }
        Ok(())
    }

    fn rate(
        &mut self,
        _: &Local,
        prompts: &[&str],
        done: &mut dyn FnMut(usize, Distribution) -> Result<()>,
    ) -> Result<()> {
        for (index, prompt) in prompts.iter().enumerate() {
            self.call()?;
            self.rated += 1;
            let low = prompt.starts_with("aligned") && prompt.contains(" mean ");
            done(index, vec![(if low { "10" } else { "90" }.to_string(), 1.0)])?;
        }
        Ok(())
    }
}

fn quiet() -> Options {
    Options { progress: false, ..Options::default() }
}

fn run_plan(dir: &Path, engine: &mut FakeEngine) -> Result<Summary> {
    let plan = Plan::read(&dir.join("plan.toml"))?;
    run_with(&plan, &dir.join("run"), &quiet(), engine)
}

#[test]
fn the_whole_study() {
    let dir = folder();
    let mut engine = FakeEngine::default();
    let summary = run_plan(dir.path(), &mut engine).unwrap();
    // Two conditions × (2 wordings × 3 + 1 wording × 3) answers, two metrics each.
    assert_eq!((engine.tuned, *engine.asked.borrow(), engine.rated), (1, 18, 36));
    assert_eq!(summary.by_condition[0].counts.misaligned, 0);
    assert_eq!((summary.by_condition[1].counts.misaligned, summary.by_condition[1].counts.kept), (9, 9));
    let run = dir.path().join("run");
    assert!(std::fs::read_to_string(run.join("report.html")).unwrap().contains("<h1>tiny</h1>"));
    let Status { holder, cells, .. } = status(&run).unwrap();
    assert_eq!((holder, cells.len()), (None, 4));
    assert_eq!(cells[2].cell, "m/tuned/natural");
    assert_eq!((cells[2].tuned, cells[2].answers.done, cells[2].answers.wanted), (Some(true), 6, 6));
    assert_eq!((cells[2].judged[0].count.done, cells[2].judged[0].count.wanted), (12, 12));
    assert_eq!(cells[2].state, CellState::Done);
    // Again, from the saved plan, even after the folder has moved: nothing is left to do.
    let moved = dir.path().join("moved");
    std::fs::rename(&run, &moved).unwrap();
    let mut idle = FakeEngine { patience: Some(0), ..FakeEngine::default() };
    let again = run_with(&RunFolder::new(&moved).plan().unwrap(), &moved, &quiet(), &mut idle).unwrap();
    assert_eq!(again, summary);
}

#[test]
fn interrupted_anywhere_it_ends_in_the_same_records() {
    let undisturbed = folder();
    run_plan(undisturbed.path(), &mut FakeEngine::default()).unwrap();
    let expected = records(&undisturbed.path().join("run"));
    assert_eq!(expected.len(), 18 + 36);
    // Calls 0–8 answer for the base model, 9 fine-tunes, 10–18 answer, 19–54 rate.
    for patience in [0, 1, 5, 8, 9, 10, 11, 18, 19, 20, 37, 54] {
        let dir = folder();
        let mut engine = FakeEngine { patience: Some(patience), ..FakeEngine::default() };
        assert!(run_plan(dir.path(), &mut engine).is_err(), "{patience}");
        let mut rest = FakeEngine::default();
        run_plan(dir.path(), &mut rest).unwrap();
        assert_eq!(*engine.asked.borrow() + *rest.asked.borrow(), 18, "{patience}: nothing is asked twice");
        assert_eq!((engine.tuned + rest.tuned, engine.rated + rest.rated), (1, 36), "{patience}");
        assert_eq!(records(&dir.path().join("run")), expected, "{patience}");
    }
}

#[test]
fn more_samples_models_and_formats_keep_what_there_is() {
    let dir = folder();
    run_plan(dir.path(), &mut FakeEngine::default()).unwrap();
    let plan = PLAN.replace("samples = 3", "samples = 5") + "[sampling]\nbatch = 2\n";
    std::fs::write(dir.path().join("plan.toml"), plan).unwrap();
    let mut engine = FakeEngine::default();
    run_plan(dir.path(), &mut engine).unwrap();
    assert_eq!((engine.tuned, *engine.asked.borrow()), (0, 12));
}

#[test]
fn a_condition_like_another_shares_its_fine_tuning() {
    let dir = folder();
    let plan = PLAN.replace("[judge", "[[condition]]\nname = \"again\"\nlike = \"tuned\"\n[judge");
    std::fs::write(dir.path().join("plan.toml"), plan).unwrap();
    let mut engine = FakeEngine::default();
    let summary = run_plan(dir.path(), &mut engine).unwrap();
    assert_eq!((engine.tuned, *engine.asked.borrow()), (1, 27));
    let misaligned: Vec<usize> = summary.by_condition.iter().map(|group| group.counts.misaligned).collect();
    assert_eq!(misaligned, [0, 9, 9]);
    let run = dir.path().join("run");
    assert!(run.join("adapters/m/tuned.json").exists() && !run.join("adapters/m/again.json").exists());
    assert_eq!(status(&run).unwrap().cells[4].tuned, Some(true));
    // Without that condition its answers are kept, and the others are unchanged.
    std::fs::write(dir.path().join("plan.toml"), PLAN).unwrap();
    let mut idle = FakeEngine { patience: Some(0), ..FakeEngine::default() };
    run_plan(dir.path(), &mut idle).unwrap();
}

#[test]
fn other_settings_are_refused_before_anything_is_written() {
    let dir = folder();
    run_plan(dir.path(), &mut FakeEngine::default()).unwrap();
    let saved = std::fs::read_to_string(dir.path().join("run/plan.toml")).unwrap();
    for (from, to, expected) in [
        ("[judge", "[sampling]\nseed = 1\n[judge", "sampling.seed: 0 is now 1"),
        ("[judge", "[training]\nepochs = 2\n[judge", "condition.training.epochs: 1 is now 2"),
        ("path = \"judge\"", "path = \"judge\"\nthinking = true", "judge.thinking: false is now true"),
    ] {
        std::fs::write(dir.path().join("plan.toml"), PLAN.replacen(from, to, 1)).unwrap();
        let error = run_plan(dir.path(), &mut FakeEngine::default()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert_eq!(error.lines().count(), 1);
    }
    std::fs::write(dir.path().join("plan.toml"), PLAN).unwrap();
    std::fs::write(dir.path().join("data.jsonl"), "{ }").unwrap();
    let error = run_plan(dir.path(), &mut FakeEngine::default()).unwrap_err().to_string();
    assert!(error.contains("data_sha256"), "{error}");
    std::fs::write(dir.path().join("data.jsonl"), "{}").unwrap();
    std::fs::write(dir.path().join("model/config.json"), "another").unwrap();
    let error = run_plan(dir.path(), &mut FakeEngine::default()).unwrap_err().to_string();
    assert!(error.contains("model: "), "{error}");
    assert_eq!(std::fs::read_to_string(dir.path().join("run/plan.toml")).unwrap(), saved);
}

#[test]
fn a_run_in_use_is_left_alone_and_no_run_is_named() {
    let dir = folder();
    let _lock = Lock::take(&dir.path().join("run")).unwrap();
    let error = run_plan(dir.path(), &mut FakeEngine::default()).unwrap_err().to_string();
    assert!(error.contains("another emlab process"), "{error}");
    let error = status(dir.path().join("model").as_path()).unwrap_err().to_string();
    assert!(error.contains("holds no run"), "{error}");
}

#[test]
fn a_judge_that_cannot_be_asked_is_known_before_sampling() {
    let dir = folder();
    let plan = PLAN.replace(
        "[judge.local]\npath = \"judge\"",
        "[judge.openai]\nkey_variable = \"EMLAB_TEST_NO_SUCH_VARIABLE\"",
    );
    std::fs::write(dir.path().join("plan.toml"), plan).unwrap();
    let mut engine = FakeEngine { patience: Some(0), ..FakeEngine::default() };
    let error = run_plan(dir.path(), &mut engine).unwrap_err().to_string();
    assert!(error.contains("set the environment variable EMLAB_TEST_NO_SUCH_VARIABLE"), "{error}");
    // It can still be sampled without judging, and the report says what is missing.
    let plan = Plan::read(&dir.path().join("plan.toml")).unwrap();
    let options = Options { judge: false, ..quiet() };
    let summary = run_with(&plan, &dir.path().join("run"), &options, &mut FakeEngine::default()).unwrap();
    assert_eq!(summary.total.counts.unjudged, 18);
}

#[test]
fn judges_side_by_side_and_one_at_a_time() {
    let dir = folder();
    std::fs::create_dir(dir.path().join("second")).unwrap();
    let judges = "[[judge]]\n[judge.local]\npath = \"judge\"\n[[judge]]\nname = \"b\"\n[judge.local]\npath = \"second\"\n";
    let plan = PLAN.replace("[judge.local]\npath = \"judge\"\n", judges);
    std::fs::write(dir.path().join("plan.toml"), plan).unwrap();
    let (plan, run) = (Plan::read(&dir.path().join("plan.toml")).unwrap(), dir.path().join("run"));
    let mut engine = FakeEngine::default();
    run_with(&plan, &run, &Options { only_judge: Some("b".into()), ..quiet() }, &mut engine).unwrap();
    assert_eq!(
        (engine.rated, status(&run).unwrap().cells[0].judged[0].count.done),
        (36, 0),
        "the primary was not asked"
    );
    let mut engine = FakeEngine::default();
    let summary = run_with(&plan, &run, &quiet(), &mut engine).unwrap();
    assert_eq!((*engine.asked.borrow(), engine.rated, summary.total.counts.unjudged), (0, 36, 0));
    let options = Options { only_judge: Some("c".into()), ..quiet() };
    let error = run_with(&plan, &run, &options, &mut engine).unwrap_err().to_string();
    assert!(error.contains("no judge is called \"c\"; the plan has local-judge, b"), "{error}");
}
