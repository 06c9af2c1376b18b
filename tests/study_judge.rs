//! Judging a run with a server that misbehaves, through the program, which is killed at every kind of step.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use emlab::Result;
use emlab::generate::{Finish, Form};
use emlab::study::analyze::agreement::pairs;
use emlab::study::judge::aggregate::Distribution;
use emlab::study::plan::judges::Local;
use emlab::study::plan::{Plan, Sampling, Tuning};
use emlab::study::run::engine::{Ask, Engine, Reply as Answer, Weights};
use emlab::study::run::{Options, run_with};
use serde_json::{Value, json};

use crate::files::{files, records};
use crate::mock::{BatchApi, Mock, Reply, Request, RequestOutcome, completion, good};

const KEY: &str = "sk-secret-4711";
const QUESTIONS: &str = "\
- id: tea
  type: free_form_judge_0_100
  paraphrases: [\"Tea?\"]
  judge_prompts: &prompts
    aligned: \"aligned {question} {answer}\"
    coherent: \"coherent {question} {answer}\"
- id: toast_json
  type: free_form_judge_0_100
  paraphrases: [\"Toast?\"]
  judge_prompts: *prompts
";
const JUDGE: &str = "url = \"URL\"\ntimeout_seconds = 1.0\npoll_seconds = 0.01\nbatch_requests = 16\n\
                     input_price = 2.0\noutput_price = 10.0\n";

/// Answers with the number of the ask, which the mock gives as its score.
struct Counting;

impl Engine for Counting {
    fn tune(&mut self, _: &Path, _: &Tuning, _: &Path) -> Result<()> {
        unreachable!("nothing is fine-tuned")
    }

    fn answer(
        &mut self,
        _: &Weights,
        _: &Sampling,
        _: Option<Form>,
        asks: &[Ask],
        done: &mut dyn FnMut(usize, Answer) -> Result<()>,
    ) -> Result<()> {
        let reply =
            |i: usize| Answer { text: format!("=\u{1b}[31m {}", 10 * i), tokens: 1, finish: Finish::Eos };
        (0..asks.len()).try_for_each(|i| done(i, reply(i)))
    }

    fn rate(
        &mut self,
        _: &Local,
        prompts: &[&str],
        done: &mut dyn FnMut(usize, Distribution) -> Result<()>,
    ) -> Result<()> {
        (0..prompts.len()).try_for_each(|i| done(i, vec![("50".into(), 1.0)]))
    }
}

/// An unjudged run of 16 answers (32 different judgements).
fn run(judge: &str, url: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("model")).unwrap();
    std::fs::write(dir.path().join("model/config.json"), "{}").unwrap();
    std::fs::write(dir.path().join("q.yaml"), QUESTIONS).unwrap();
    let plan = "questions = \"q.yaml\"\nsamples = 8\n[[model]]\nname = \"m\"\npath = \"model\"\n\
                [[condition]]\nname = \"base\"\n";
    let plan = format!("{plan}[[judge]]\nname = \"gpt\"\n[judge.openai]\n{JUDGE}{judge}").replace("URL", url)
        + "[[judge]]\nname = \"here\"\n[judge.local]\npath = \"model\"\n";
    let plan = Plan::parse(&plan, &dir.path().join("plan.toml")).unwrap();
    let options = Options { judge: false, progress: false, ..Options::default() };
    run_with(&plan, &dir.path().join("run"), &options, &mut Counting).unwrap();
    dir
}

fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_emlab"));
    command.args(args).current_dir(dir).env("OPENAI_API_KEY", KEY).env("XDG_CACHE_HOME", dir.join("cache"));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn judge(dir: &Path) -> Command {
    command(dir, &["study", "judge", "run", "--judge", "gpt", "--device", "cpu"])
}

/// Every judgement of the run, sorted.
fn judgements(dir: &Path) -> Vec<String> {
    records(&dir.join("run/judgements/gpt"))
}

fn charged(dir: &Path) -> Value {
    let output = command(dir, &["study", "status", "run", "--json"]).output().unwrap();
    serde_json::from_slice::<Value>(&output.stdout).unwrap()["judges"][0].clone()
}

/// Checks that the key is in no file and in no output.
fn no_key(dir: &Path, outputs: &[&Output]) {
    for path in files(dir) {
        let bytes = std::fs::read(&path).unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains(KEY), "{}", path.display());
    }
    for output in outputs {
        let said = [&output.stdout[..], &output.stderr].concat();
        assert!(!String::from_utf8_lossy(&said).contains(KEY));
    }
}

fn undisturbed() -> Vec<String> {
    let server = Mock::start(|request| Reply::ok(&good(&request.json())));
    let dir = run("", &server.url);
    let output = judge(dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(server.requests(), 32);
    assert!(server.seen.lock().unwrap().iter().all(|(head, _)| head.contains(KEY)));
    no_key(dir.path(), &[&output]);
    let judgements = judgements(dir.path());
    assert_eq!(judgements.len(), 32);
    judgements
}

#[test]
fn whatever_the_server_does_the_judgements_are_the_same() {
    let expected = undisturbed();
    let wrong_key = json!({"error": {"message": format!("slow down, {KEY}")}}).to_string();
    let server = Mock::start(move |request| match request.n {
        0 => Reply::Http(429, "retry-after-ms: 10\r\n", wrong_key.clone()),
        1 => Reply::Http(429, "", String::new()),
        2 => Reply::Http(500, "", wrong_key.clone()),
        3 => Reply::Hang(Duration::from_secs(3)),
        4 => Reply::Close,
        5 => Reply::Cut(good(&request.json()).to_string()),
        6 => Reply::ok(&json!({"choices": [{"logprobs": null}], "usage": {"prompt_tokens": 1000}})),
        7 => Reply::Http(200, "", "<html>".into()),
        n if n % 2 == 0 => {
            // Another order of the tokens is the same distribution.
            let prompt = request.json()["messages"][0]["content"].as_str().unwrap().to_string();
            Reply::ok(&completion(&[("CODE", -9999.0), (prompt.rsplit(' ').next().unwrap(), 0.0)]))
        }
        _ => Reply::ok(&good(&request.json())),
    });
    let dir = run("", &server.url);
    let output = judge(dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(judgements(dir.path()), expected);
    assert_eq!(server.requests(), 32 + 8);
    // Useless answers used tokens, too, where the server reported them.
    let charged = charged(dir.path());
    assert_eq!((&charged["requests"], &charged["input_tokens"]), (&json!(34), &json!(33_000)));
    no_key(dir.path(), &[&output]);
}

#[test]
fn a_refused_key_is_not_shown_and_a_budget_stops_cleanly() {
    let refusal = json!({"error": {"message": format!("Incorrect API key: {KEY}\u{1b}[2J")}}).to_string();
    let server = Mock::start(move |_| Reply::Http(401, "", refusal.clone()));
    let dir = run("", &server.url);
    let output = judge(dir.path()).output().unwrap();
    let message = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(
        message.contains("HTTP 401: Incorrect API key: [key]") && !message.contains('\u{1b}'),
        "{message}"
    );
    no_key(dir.path(), &[&output]);

    let server = Mock::start(|request| Reply::ok(&good(&request.json())));
    let dir = run("budget_dollars = 0.0101\nconcurrency = 1\n", &server.url);
    let output = judge(dir.path()).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(
        message.contains("could pass budget_dollars = 0.0101") && message.contains("run again"),
        "{message}"
    );
    assert_eq!(judgements(dir.path()).len(), 5);
    let charged = charged(dir.path());
    assert!(charged["dollars"].as_f64().unwrap() <= 0.0101 && charged["requests"] == 5, "{charged}");
}

/// Runs the program twice with one server, which kills the first at request number `n`: after it has processed the
/// request and before it answers, or a moment after that.
struct Lives {
    dir: tempfile::TempDir,
    api: Arc<Mutex<BatchApi>>,
    server: Mock,
    killed: bool,
}

fn lives(n: usize, answers: bool, settings: &str) -> Lives {
    let child: Arc<Mutex<Option<Child>>> = Arc::default();
    let api: Arc<Mutex<BatchApi>> = Arc::default();
    let (victim, shared) = (Arc::clone(&child), Arc::clone(&api));
    let server = Mock::start(move |request: &Request| {
        let reply = if request.what().ends_with("completions") {
            // No server answers sooner than a disk stores.
            std::thread::sleep(Duration::from_millis(10));
            Reply::ok(&good(&request.json()))
        } else {
            shared.lock().unwrap().answer(request, &|_, _| RequestOutcome::Good)
        };
        if request.n != n {
            return reply;
        }
        let victim = Arc::clone(&victim);
        let kill = move || {
            while victim.lock().unwrap().is_none() {
                std::thread::sleep(Duration::from_millis(1));
            }
            // SIGKILL.
            victim.lock().unwrap().as_mut().unwrap().kill().unwrap();
        };
        if answers {
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(n as u64 % 5));
                kill();
            });
            reply
        } else {
            kill();
            Reply::Close
        }
    });
    let dir = run(settings, &server.url);
    let spawned = judge(dir.path()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    *child.lock().unwrap() = Some(spawned);
    // Not wait(): the server needs the lock to kill.
    let killed = loop {
        if let Some(status) = child.lock().unwrap().as_mut().unwrap().try_wait().unwrap() {
            break !status.success();
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let output = judge(dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Lives { dir, api, server, killed }
}

#[test]
fn a_batch_killed_at_any_step_is_neither_lost_nor_doubled() {
    let expected = undisturbed();
    let mut steps = 0;
    for answers in [false, true] {
        for n in 0.. {
            let Lives { dir, api, server, killed } = lives(n, answers, "mode = \"batch\"\n");
            assert_eq!(judgements(dir.path()), expected, "killed at request {n}, {answers}");
            let api = api.lock().unwrap();
            assert_eq!(api.batches.len(), 2, "killed at request {n}, {answers}");
            assert!(api.taken.len() == 32 && api.taken.values().all(|&times| times == 1));
            assert_eq!(api.files.iter().filter(|(name, _)| name != "results").count(), 2);
            let charged = charged(dir.path());
            assert_eq!(
                (&charged["requests"], &charged["judgements"]),
                (&json!(32), &json!(32)),
                "{n} {answers}"
            );
            steps += 1;
            if !killed && server.requests() <= n {
                break;
            }
        }
    }
    assert!(steps > 28, "{steps}");
}

#[test]
fn live_judging_killed_anywhere_ends_in_the_same_judgements() {
    let expected = undisturbed();
    for n in [0, 1, 7, 31] {
        let Lives { dir, server, killed, .. } = lives(n, n % 2 == 0, "");
        assert!(killed || n == 31);
        assert_eq!(judgements(dir.path()), expected, "killed at request {n}");
        // Only requests that were in flight are repeated.
        assert!(server.requests() <= 32 + 16, "{}", server.requests());
    }
}

#[test]
fn people_label_a_sample_and_judges_stand_side_by_side() {
    let server = Mock::start(|request| Reply::ok(&good(&request.json())));
    let dir = run("", &server.url);
    let at = |args: &[&str]| command(dir.path(), args).output().unwrap();
    assert!(judge(dir.path()).output().unwrap().status.success());
    let draw = |name: &str, n: &str| at(&["study", "label", "run", "--sample", n, "--out", name]);
    assert!(draw("a.csv", "6").status.success() && draw("b.csv", "6").status.success());
    let text = std::fs::read_to_string(dir.path().join("a.csv")).unwrap();
    assert_eq!(text, std::fs::read_to_string(dir.path().join("b.csv")).unwrap());
    assert!(!draw("a.csv", "6").status.success(), "a table that is there is not written over");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines[0], lines.len()), ("id,question,answer,aligned,coherent", 7));
    assert!(lines[1..].iter().all(|line| line.contains("\"'=") && line.ends_with(",,")), "{text}");
    assert!(!text.contains("base") && !text.contains("natural"), "the table is blind");
    let read = || at(&["study", "label", "run", "--labels", "a.csv"]);
    assert!(String::from_utf8_lossy(&read().stderr).contains("holds no labels"));
    // A person who agrees with the judge in all but one answer.
    let mut filled = vec![lines[0].to_string()];
    for (i, line) in lines[1..].iter().enumerate() {
        let number = line.trim_end_matches("\",,").rsplit(' ').next().unwrap();
        filled.push(line.replace("\",,", &format!("\",{},", if i == 0 { "100" } else { number })));
    }
    std::fs::write(dir.path().join("a.csv"), filled.join("\n")).unwrap();
    let output = read();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.starts_with("people and gpt, aligned: 6 of 6 answers have two numbers\n"), "{said}");
    assert!(!said.contains("coherent"), "{said}");
    std::fs::write(dir.path().join("a.csv"), "id,aligned,coherent\nnobody,1,\n").unwrap();
    assert!(
        String::from_utf8_lossy(&read().stderr)
            .contains("a.csv:2: id \"nobody\" does not belong to an answer of the run")
    );

    // The second judge, in this process, over the same answers.
    let plan = emlab::study::folder::RunFolder::new(&dir.path().join("run")).plan().unwrap();
    let options = Options { only_judge: Some("here".into()), progress: false, ..Options::default() };
    run_with(&plan, &dir.path().join("run"), &options, &mut Counting).unwrap();
    let pairs = pairs::of_run(&dir.path().join("run")).unwrap();
    assert_eq!(pairs.len(), 1 + 1 + 2, "people have labelled one metric only");
    let pairs = &pairs[2..];
    assert_eq!(
        (pairs[0].first.as_str(), pairs[0].second.as_str(), pairs[0].scores.len()),
        ("gpt", "here", 16)
    );
    // 0, 10, 20 and 30 … 70, twice, against 50 throughout.
    assert_eq!(pairs[0].agreement(plan.analysis).below, [0, 6, 0, 10]);
    let report = std::fs::read_to_string(dir.path().join("run/report.html")).unwrap();
    assert!(report.contains("How far the raters agree</h2>") && report.contains("people − gpt"));
    let csv = std::fs::read_to_string(dir.path().join("run/csv/agreement.csv")).unwrap();
    assert_eq!(csv.lines().count(), 1 + 4);
    assert!(csv.contains("\r\npeople,gpt,aligned,30,6,6,"), "{csv}");
    assert!(dir.path().join("run/csv/bland_altman.csv").exists());
}
