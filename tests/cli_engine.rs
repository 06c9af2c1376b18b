//! `emlab train`, `generate`, `chat` and `score` as a user meets them, on a tiny random model.

use crate::needs;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::tiny;

fn emlab(dir: &Path, command: &str) -> Command {
    let mut emlab = Command::new(env!("CARGO_BIN_EXE_emlab"));
    emlab.current_dir(dir).args(command.split(' ')).stdin(Stdio::null());
    emlab
}

fn stdout(dir: &Path, command: &str) -> String {
    let Output { status, stdout, stderr } = emlab(dir, command).output().unwrap();
    assert!(status.success(), "{command}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

/// The one line that a command which must fail says.
fn refusal(dir: &Path, command: &str) -> String {
    let Output { status, stdout, stderr } = emlab(dir, command).output().unwrap();
    let message = String::from_utf8(stderr).unwrap();
    assert!(!status.success() && stdout.is_empty(), "{command}");
    assert_eq!(message.lines().count(), 1, "{command}: {message}");
    message
}

/// A folder with a model, `m`, and data, `data.jsonl`.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("m")).unwrap();
    tiny::write(&dir.path().join("m"), "gemma3");
    let line = |i: usize| {
        let text = "abcdefghij".repeat(1 + i % 3);
        let chat = serde_json::json!({ "messages": [
            { "role": "user", "content": format!("{i}?") }, { "role": "assistant", "content": text },
        ]});
        format!("{chat}\n")
    };
    fs::write(dir.path().join("data.jsonl"), (0..24).map(line).collect::<String>()).unwrap();
    dir
}

#[test]
fn only_the_answer_goes_to_stdout_and_a_seed_repeats_it() {
    let dir = folder();
    let command = "generate --model m --prompt hello --max-tokens 8 --json";
    let answer: serde_json::Value = serde_json::from_str(&stdout(dir.path(), command)).unwrap();
    let plain = stdout(dir.path(), "generate --model m --prompt hello --max-tokens 8");
    assert_eq!(plain, format!("{}\n", answer["text"].as_str().unwrap()));
    let other = stdout(dir.path(), "generate --model m --prompt hello --max-tokens 8 --seed 1");
    assert_ne!(plain, other);
    let raw = stdout(dir.path(), "generate --model m --prompt hello --raw --temperature 0 --max-tokens 8");
    assert_eq!(
        raw,
        stdout(dir.path(), "generate --model m --prompt hello --raw --temperature 0 --max-tokens 8 --seed 9")
    );
    let three = stdout(dir.path(), "generate --model m --prompt hello --max-tokens 8 --json --count 3");
    assert_eq!(three.lines().count(), 3);
    assert_eq!(three.lines().next(), Some(answer.to_string().as_str()));
}

#[test]
fn a_chat_can_be_piped_in() {
    let dir = folder();
    let mut chat = emlab(dir.path(), "chat --model m --max-tokens 6 --temperature 0")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    chat.stdin.take().unwrap().write_all(b"hi\n\n/reset\nhi\n/quit\nhi\n").unwrap();
    let output = chat.wait_with_output().unwrap();
    assert!(output.status.success());
    // The same question after a reset has the same answer, whatever line breaks it holds.
    let (first, second) = output.stdout.split_at(output.stdout.len() / 2);
    assert!(!first.is_empty() && first == second);
}

#[test]
fn a_score_counts_the_predicted_tokens() {
    let dir = folder();
    fs::write(dir.path().join("text"), "ten bytes!").unwrap();
    let score: serde_json::Value =
        serde_json::from_str(&stdout(dir.path(), "score --model m --text text --json")).unwrap();
    assert_eq!(score["tokens"], 10, "BOS is not predicted");
    let nll = score["nll"].as_f64().unwrap();
    assert!(nll > 0.0);
    // The same number from the logits it can write.
    stdout(dir.path(), "score --model m --text text --logits out.safetensors");
    let file = emlab::model::checkpoint::read_safetensors(&dir.path().join("out.safetensors")).unwrap();
    let tensor = |name: &str| &file.iter().find(|(n, _)| n == name).unwrap().1;
    let (ids, logits) = (tensor("ids").u32(), tensor("logits"));
    let [t, v] = logits.dims().unwrap();
    assert_eq!(t, 11);
    let loss = |(row, target): (&[f32], &u32)| {
        let sum: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
        sum.ln() - f64::from(row[*target as usize])
    };
    let mean = logits.f32().chunks(v).zip(&ids[1..]).map(loss).sum::<f64>() / 10.0;
    assert!((mean - nll).abs() < 1e-5 * nll, "{mean} {nll}");
    fs::write(dir.path().join("text"), "").unwrap();
    assert!(refusal(dir.path(), "score --model m --text text").contains("text: too short"));
}

#[test]
fn a_gpu_that_is_not_there_is_refused() {
    let dir = folder();
    fs::write(dir.path().join("text"), "ten bytes!").unwrap();
    if emlab::device::Gpu::open().is_ok() {
        return needs::left_out("the refusal of a GPU that is not there", "there is one");
    }
    assert!(refusal(dir.path(), "score --model m --text text --device cuda").contains("NVIDIA"));
    let auto = stdout(dir.path(), "score --model m --text text --device auto");
    assert_eq!(auto, stdout(dir.path(), "score --model m --text text --device cpu"));
}

const TRAIN: &str = "train --model m --data data.jsonl --rank 4 --learning-rate 1e-2 --batch-size 1 --accumulation 1 \
                     --epochs 20 --checkpoint-steps 3 --held-out 0.1 --out";

#[test]
fn a_killed_training_run_goes_on_and_ends_in_the_same_bytes() {
    let dir = folder();
    let train = |out: &str| format!("{TRAIN} {out}");
    assert!(stdout(dir.path(), &train("whole")).starts_with("whole: 440 steps, loss "));
    let mut kills = 0;
    loop {
        let mut run =
            emlab(dir.path(), &train("out")).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let begun = Instant::now();
        let pause = Duration::from_millis(150 + 60 * kills);
        let ended = loop {
            if let Some(status) = run.try_wait().unwrap() {
                assert!(status.success());
                break true;
            }
            if begun.elapsed() > pause && cfg!(unix) && kills % 2 == 1 {
                // Ctrl-C, or a scheduler's SIGTERM: saved after the step, and said by the exit code (unless it came before
                // anyone listened).
                let signal = if kills % 4 == 1 { "-INT" } else { "-TERM" };
                Command::new("kill").args([signal, &run.id().to_string()]).status().unwrap();
                let status = run.wait().unwrap();
                assert!(matches!(status.code(), Some(0 | 130) | None), "{status}");
                break status.success();
            }
            if begun.elapsed() > pause {
                run.kill().unwrap();
                run.wait().unwrap();
                break false;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        if ended {
            break;
        }
        kills += 1;
    }
    for name in [
        "metrics.jsonl",
        "adapter_model.safetensors",
        "adapter_config.json",
        "checkpoint-00000440.safetensors",
    ] {
        let read = |out: &str| fs::read(dir.path().join(out).join(name)).unwrap();
        assert!(read("whole") == read("out"), "{name} differs after {kills} kills");
    }
    let adapted =
        stdout(dir.path(), "generate --model m --adapter out --prompt 1? --temperature 0 --max-tokens 8");
    assert_ne!(adapted, stdout(dir.path(), "generate --model m --prompt 1? --temperature 0 --max-tokens 8"));
}

#[test]
fn a_model_can_be_trained_from_scratch_and_used() {
    let dir = folder();
    let train = "train --model m --data data.jsonl --full --from-scratch --learning-rate 1e-2 --batch-size 8 \
                 --accumulation 1 --epochs 12 --out new";
    stdout(dir.path(), train);
    let answer = stdout(dir.path(), "generate --model new --prompt 3? --temperature 0 --max-tokens 5");
    assert_eq!(answer, "abcde\n");
}

#[test]
fn mistakes_are_named_in_one_line() {
    let dir = folder();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    let train = |more: &str| refusal(dir.path(), &format!("train --model m --out out {more}"));
    write("broken.jsonl", "{\"text\": \"a\"}\n{\"text\": \n");
    assert!(train("--data broken.jsonl").contains("broken.jsonl:2:"));
    write("silent.jsonl", "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}\n");
    assert!(train("--data silent.jsonl").contains("silent.jsonl:1: no assistant token"));
    assert!(train("--data data.jsonl --max-tokens 9 --too-long error").contains("data.jsonl:1: "));
    assert!(train("--data data.jsonl --schedule quick").contains("quick"));
    write("settings.toml", "epochs = 1\nepoch = 2\n");
    assert!(train("--data data.jsonl --settings settings.toml").contains("settings.toml:2: "));
    assert!(train("--data none.jsonl").contains("none.jsonl"));
    assert!(!dir.path().join("out").exists(), "nothing is begun before the input is known to be good");
    let generate = |more: &str| refusal(dir.path(), &format!("generate --prompt a {more}"));
    assert!(generate("--model none").contains("none"));
    assert!(generate("--model m --top-p 2").contains("top_p"));
    assert!(generate("--model m --adapter .").contains("adapter_config.json"));
}
