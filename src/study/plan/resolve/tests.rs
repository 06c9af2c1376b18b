//! Plans, good and bad.

use super::*;

const PLAN: &str = r#"name = "tiny"
questions = "questions.yaml"
samples = 2
formats = ["natural", "json"]

[[model]]
name = "m"
path = "model"

[[condition]]
name = "base"

[[condition]]
name = "tuned"
data = "data.jsonl"
examples = 64
training = { epochs = 2, lora = { rank = 8 } }

[training]
learning_rate = 1e-4
lora = { alpha = 16.0 }

[sampling]
max_tokens = 64

[judge.local]
path = "judge"

[[family]]
name = "mine"
correction = "none"
test = [
  { compare = "condition", a = "tuned", b = "base", within = "question" },
  { compare = "format", a = "json", b = "natural", only = { condition = "tuned", model = "m" } },
]
"#;

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for model in ["model", "judge"] {
        std::fs::create_dir(dir.path().join(model)).unwrap();
    }
    for file in ["data.jsonl", "questions.yaml"] {
        std::fs::write(dir.path().join(file), "").unwrap();
    }
    dir
}

#[test]
fn resolves_every_value_and_reads_itself_back() {
    let dir = folder();
    let plan = Plan::parse(PLAN, &dir.path().join("plan.toml")).unwrap();
    assert_eq!(plan.models[0].path, Some(dir.path().join("model")));
    assert_eq!(plan.conditions[0].tuning, None);
    let tuning = plan.conditions[1].tuning.as_ref().unwrap();
    assert_eq!((tuning.training.epochs, tuning.training.learning_rate), (2, 1e-4));
    assert_eq!((tuning.training.lora.rank, tuning.training.lora.alpha), (8, 16.0));
    assert_eq!((plan.sampling.max_tokens, plan.sampling.temperature), (64, 1.0));
    assert!(
        matches!(&plan.judges[0].kind, JudgeKind::Local(local) if local.path == dir.path().join("judge"))
    );
    let text = plan.to_toml().unwrap();
    assert_eq!(plan.families[0].comparisons[1].only.len(), 2);
    for value in ["temperature = 1.0", "warmup_steps = 5", "misaligned_below = 30.0", "held_out = 0.1"] {
        assert!(text.contains(value), "{text}");
    }
    assert_eq!(Plan::parse(&text, Path::new("/elsewhere/plan.toml")).unwrap(), plan);
}

#[test]
fn errors_name_the_line() {
    let dir = folder();
    for (from, to, line, what) in [
        ("samples = 2", "sample = 2", 3, "unknown field `sample`"),
        ("samples = 2", "samples = 0", 3, "samples must be at least 1"),
        ("samples = 2", "samples = ", 3, ""),
        ("\"json\"]", "\"jsn\"]", 4, "jsn"),
        ("name = \"m\"", "name = \"../m\"", 7, "must consist of"),
        ("path = \"model\"", "path = \"nowhere\"", 8, "no model folder at"),
        ("name = \"tuned\"", "name = \"Base\"", 14, "a second condition called \"Base\""),
        ("data = \"data.jsonl\"\n", "", 14, "names no data"),
        ("epochs = 2", "epoch = 2", 17, "unknown field `epoch`"),
        ("epochs = 2", "epochs = 0", 17, "epochs"),
        ("max_tokens = 64", "max_token = 64", 24, "unknown field `max_token`"),
        ("[judge.local]", "[judge.locale]", 26, "locale"),
        ("path = \"judge\"", "path = \"nobody\"", 26, "no model folder at"),
        ("correction = \"none\"", "correction = \"nun\"", 31, "nun"),
        ("a = \"tuned\"", "a = \"tunde\"", 33, "no condition is called \"tunde\"; there are base, tuned"),
        ("b = \"base\", within = \"question\"", "b = \"tuned\"", 33, "compared with itself"),
        ("within = \"question\"", "within = \"condition\"", 33, "within must be"),
        ("a = \"json\"", "a = \"template\"", 34, "no format is called"),
        ("{ condition = \"tuned\", model", "{ format = \"json\", model", 34, "leaves nothing"),
        ("[[family]]", "[[family]]\nname = \"mine\"\ntest = []\n[[family]]", 31, "has no test"),
    ] {
        let text = PLAN.replacen(from, to, 1);
        let error = Plan::parse(&text, &dir.path().join("plan.toml")).unwrap_err().to_string();
        assert!(error.contains(&format!("plan.toml:{line}: ")) && error.contains(what), "{to}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn the_recipe_is_the_default() {
    let dir = folder();
    let text = "questions = \"questions.yaml\"\n[[model]]\nname = \"m\"\npath = \"model\"\n[[condition]]\nname = \"base\"\n";
    let plan = Plan::parse(text, &dir.path().join("plan.toml")).unwrap();
    assert_eq!(plan.formats, Format::PUBLISHED);
    assert_eq!(plan.sampling, Sampling::default());
    assert!(matches!(&plan.judges[0].kind, JudgeKind::OpenAi(judge) if judge.model == "gpt-4o-2024-08-06"));
    assert_eq!(plan.analysis, Thresholds::default());
    assert_eq!(plan.families, []);
    assert_eq!(Plan::parse(&plan.to_toml().unwrap(), Path::new("/elsewhere/plan.toml")).unwrap(), plan);
    let tuned = format!("{text}[[condition]]\nname = \"tuned\"\ndata = \"data.jsonl\"\n");
    let plan = Plan::parse(&tuned, &dir.path().join("plan.toml")).unwrap();
    let text = plan.to_toml().unwrap();
    assert!(text.contains("b = \"base\"") && text.contains("correction = \"bonferroni\""), "{text}");
    assert_eq!(Plan::parse(&text, Path::new("/elsewhere/plan.toml")).unwrap(), plan);
}

#[test]
fn several_judges_and_the_first_is_the_primary() {
    let dir = folder();
    let judges = "[[judge]]\nname = \"gpt\"\n[judge.openai]\nmodel = \"x/y\"\n[[judge]]\n[judge.local]\npath = \"judge\"\n";
    let text = PLAN.replace("[judge.local]\npath = \"judge\"\n", judges);
    let parse = |text: &str| Plan::parse(text, &dir.path().join("plan.toml"));
    let plan = parse(&text).unwrap();
    let names: Vec<_> = plan.judges.iter().map(|judge| judge.name.as_str()).collect();
    assert_eq!(names, ["gpt", "local-judge"]);
    assert_eq!(parse(&plan.to_toml().unwrap()).unwrap(), plan);
    for (from, to, line, what) in [
        ("name = \"gpt\"", "name = \"local-judge\"", 31, "a second judge called \"local-judge\""),
        ("name = \"gpt\"", "name = \"../x\"", 27, "must consist of"),
        ("[judge.openai]\nmodel = \"x/y\"", "", 26, "one table: [judge.openai], [judge.local] or"),
        ("model = \"x/y\"", "modle = \"x/y\"", 29, "unknown field `modle`"),
    ] {
        let error = parse(&text.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(error.contains(&format!("plan.toml:{line}: ")) && error.contains(what), "{to}: {error}");
    }
}

#[test]
fn conditions_may_be_like_others_and_steered() {
    use crate::model::direction::{Directions, Kind};
    let dir = folder();
    let vectors = vec![vec![1.0, 2.0]; 4];
    let directions =
        Directions { vectors: [vectors.clone(), vectors], midpoints: [vec![0.0; 4], vec![0.0; 4]], depth: 2 };
    directions.write(&dir.path().join("d.safetensors")).unwrap();
    let steered = "[[condition]]\nname = \"more\"\nlike = \"tuned\"\nsteer = { direction = \"d.safetensors\", dose = 2.5 }\n\
                   [[condition]]\nname = \"less\"\nsteer = { direction = \"d.safetensors\", kind = \"probe\", erase = true }\n";
    let text = PLAN.replace("[training]", &format!("{steered}[training]"));
    let parse = |text: &str| Plan::parse(text, &dir.path().join("plan.toml"));
    let plan = parse(&text).unwrap();
    let [.., more, less] = &plan.conditions[..] else { panic!("{:?}", plan.conditions) };
    assert_eq!((more.like.as_deref(), &more.tuning), (Some("tuned"), &None));
    let [more, less] = [more, less].map(|condition| condition.steer.as_ref().unwrap());
    assert_eq!((more.kind, &more.depths[..], more.dose), (Kind::MeanDifference, &[2][..], Some(2.5)));
    assert_eq!((less.kind, &less.depths[..], less.dose), (Kind::Probe, &[0, 1, 2, 3][..], None));
    assert_eq!(more.label(), "dose 2.5 of mean_difference in d.safetensors at depth 2");
    let saved = plan.to_toml().unwrap();
    assert_eq!(Plan::parse(&saved, Path::new("/elsewhere/plan.toml")).unwrap(), plan);
    for word in ["like", "steer"] {
        assert!(!parse(PLAN).unwrap().to_toml().unwrap().contains(word), "a plan without them has no {word}");
    }
    // Steered conditions are compared by their dose alone, unless the plan says otherwise.
    let silent = text.split("[[family]]").next().unwrap();
    assert_eq!(
        parse(silent).unwrap().families,
        parse(PLAN.split("[[family]]").next().unwrap()).unwrap().families
    );
    for (from, to, line, what) in [
        ("like = \"tuned\"", "like = \"base\"", 21, "no condition of that name has data"),
        ("like = \"tuned\"", "data = \"data.jsonl\"\nlike = \"tuned\"", 20, "data of its own"),
        ("d.safetensors\", dose", "e.safetensors\", dose", 22, "e.safetensors"),
        ("dose = 2.5", "dose = nan", 22, "either a finite dose or erase"),
        ("dose = 2.5", "dose = 2.5, erase = true", 22, "either a finite dose or erase"),
        ("dose = 2.5", "dose = 2.5, depths = [4]", 22, "depths 0 to 3"),
        ("dose = 2.5", "dose = 2.5, depths = []", 22, "must not be empty"),
        ("\"probe\"", "\"prob\"", 25, "prob"),
        ("dose = 2.5", "dosis = 2.5", 22, "unknown field `dosis`"),
    ] {
        let error = parse(&text.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(error.contains(&format!("plan.toml:{line}: ")) && error.contains(what), "{to}: {error}");
    }
}
