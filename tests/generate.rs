//! Sampling, exact choices and scoring, on random tiny models of both families.

use emlab::device::DType;
use emlab::device::philox::Key;
use emlab::generate::{self, Choices, Chooser, Completion, Finish, Form, Limits, Request};
use emlab::model::cache::Cache;
use emlab::model::saved::Saved;
use emlab::model::transformer::{Batch, Transformer};
use emlab::ops::sample::Sampling;

use crate::tiny;

const DRAW: Sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0 };

/// Prompts of unequal lengths, each asked for several times.
fn requests(seed: u64) -> Vec<Request> {
    let prompts = ["", "a", "why is it so?", "a", "tell me of the long road to the hills", "a"];
    let request = |(i, prompt): (usize, &&str)| Request {
        ids: std::iter::once(256).chain(prompt.bytes().map(u32::from)).collect(),
        key: Key::new(seed, &[&i.to_string()]),
    };
    prompts.iter().enumerate().map(request).collect()
}

fn limits(max_tokens: usize, batch: usize) -> Limits {
    Limits { max_tokens, batch, ..Limits::default() }
}

#[test]
fn text_does_not_depend_on_the_batch_or_the_cache() {
    for (family, place) in
        tiny::FAMILIES.into_iter().flat_map(|f| tiny::places().into_iter().map(move |p| (f, p)))
    {
        let (model, tokenizer) = tiny::model_on(family, place);
        let run = |requests: &[Request], limits: &Limits| {
            generate::run(&model, &tokenizer, requests, &DRAW, limits, &mut |_, _| Ok(())).unwrap()
        };
        let all: Vec<Request> = (0..11).flat_map(requests).collect();
        let together = run(&all, &limits(30, 64));
        assert_eq!(together, run(&all, &limits(30, 1)));
        assert_eq!(together, run(&all, &limits(30, 2)));
        let cache_bytes = Some(9 * Cache::page_bytes(&model.spec, model.place));
        assert_eq!(
            together,
            run(&all, &Limits { cache_bytes, ..limits(30, 64) }),
            "a cache for one at a time"
        );
        for (request, expected) in all.iter().zip(&together).take(6) {
            assert_eq!(run(std::slice::from_ref(request), &limits(30, 8)), std::slice::from_ref(expected));
        }
        assert_ne!(together[1].ids, together[3].ids, "another key, another text");
    }
}

#[test]
fn each_request_is_reported_once() {
    let (model, tokenizer) = tiny::model("qwen3");
    let mut seen: Vec<Option<Completion>> = vec![None; 6];
    let done =
        generate::run(&model, &tokenizer, &requests(3), &DRAW, &limits(20, 4), &mut |i, completion| {
            assert!(seen[i].replace(completion.clone()).is_none());
            Ok(())
        });
    assert_eq!(seen.into_iter().map(Option::unwrap).collect::<Vec<_>>(), done.unwrap());
}

#[test]
fn a_forced_form_holds() {
    for (family, place) in
        tiny::FAMILIES.into_iter().flat_map(|f| tiny::places().into_iter().map(move |p| (f, p)))
    {
        let (model, tokenizer) = tiny::model_on(family, place);
        let all: Vec<Request> = (0..20).flat_map(requests).collect();
        let run = |requests: &[Request], batch: usize| {
            let limits = Limits { form: Some(Form::JsonObject), min_tokens: 8, ..limits(60, batch) };
            generate::run(&model, &tokenizer, requests, &DRAW, &limits, &mut |_, _| Ok(())).unwrap()
        };
        let together = run(&all, 64);
        let ended: Vec<&Completion> = together.iter().filter(|c| c.finish == Finish::Eos).collect();
        assert!(ended.len() > 5, "{family} {place:?}: {} ended", ended.len());
        for completion in &ended {
            let parsed = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&completion.text);
            assert!(parsed.is_ok(), "{}", completion.text);
        }
        assert!(together.iter().all(|c| c.text.trim_start().starts_with('{')));
        assert_eq!(together[..12], run(&all[..12], 1));
    }
}

#[test]
fn answers_end_as_they_say() {
    let (mut model, tokenizer) = tiny::model("gemma3");
    let request = &requests(3)[2..3];
    let run = |model: &Transformer, limits: &Limits| {
        generate::run(model, &tokenizer, request, &DRAW, limits, &mut |_, _| Ok(())).unwrap().remove(0)
    };
    let whole = run(&model, &limits(12, 1));
    assert_eq!((whole.finish, whole.ids.len()), (Finish::Length, 12));
    // The fourth token as end of turn: the answer ends there, but not before min_tokens.
    model.spec.eos = vec![whole.ids[3]];
    let first = whole.ids.iter().position(|id| *id == whole.ids[3]).unwrap();
    let ended = run(&model, &limits(12, 1));
    assert_eq!((ended.finish, &ended.ids[..]), (Finish::Eos, &whole.ids[..=first]));
    let longer = run(&model, &Limits { min_tokens: 12, ..limits(12, 1) });
    assert!(!longer.ids.contains(&whole.ids[3]));
    // The context ends an answer too.
    model.spec.eos.clear();
    let full = run(&model, &limits(1000, 1));
    assert_eq!(full.ids.len() + request[0].ids.len(), model.spec.context);
}

#[test]
fn streamed_text_is_the_text() {
    let (model, tokenizer) = tiny::model("gemma3");
    let request = &requests(3)[4];
    let stream = |limits: &Limits| {
        let mut text = String::new();
        let show = &mut |piece: &str| {
            text += piece;
            Ok(())
        };
        let completion = generate::stream(&model, &tokenizer, request, &DRAW, limits, show).unwrap();
        (text, completion)
    };
    let (text, completion) = stream(&limits(25, 1));
    assert_eq!(text, completion.text);
    let stop: String = text.chars().skip(5).take(2).collect();
    let (cut, completion) = stream(&Limits { stop: vec![stop.clone()], ..limits(25, 1) });
    assert_eq!((&cut, completion.finish), (&completion.text, Finish::Stop));
    assert_eq!(cut, text[..text.find(&stop).unwrap()]);
}

#[test]
fn prompts_that_cannot_run_are_refused() {
    let (model, tokenizer) = tiny::model("qwen3");
    let refusal = |ids: Vec<u32>, limits: &Limits| {
        let requests = [Request { ids, key: Key::new(0, &[]) }];
        generate::run(&model, &tokenizer, &requests, &DRAW, limits, &mut |_, _| Ok(()))
            .unwrap_err()
            .to_string()
    };
    assert!(refusal(vec![], &limits(4, 1)).contains("empty"));
    assert!(refusal(vec![1; 96], &limits(4, 1)).contains("96"));
    assert!(refusal(vec![1; 90], &Limits { cache_bytes: Some(4096), ..limits(4, 1) }).contains("MiB"));
    assert!(refusal(vec![999], &limits(4, 1)).contains("999"));
}

/// log p of `continuation` after `prompt`, by one uncached pass.
fn log_probability(model: &Transformer, prompt: &[u32], continuation: &[u32]) -> f64 {
    let tokens = [prompt, continuation].concat();
    let starts = vec![0, tokens.len() as u32];
    let mut saved = Saved::for_training(&model.spec, model.place);
    model.forward(&mut saved, &Batch { tokens, starts, dropout: None }, &mut ()).unwrap();
    let rows: Vec<u32> = (0..continuation.len()).map(|i| (prompt.len() - 1 + i) as u32).collect();
    -model.loss(&mut saved, &rows, continuation).unwrap().iter().map(|&nll| f64::from(nll)).sum::<f64>()
}

#[test]
fn choices_equal_the_plain_probabilities() {
    let strings: Vec<Vec<u32>> =
        (0..=100).map(|i: u32| i.to_string().bytes().map(u32::from).collect()).collect();
    for (family, place) in
        tiny::FAMILIES.into_iter().flat_map(|f| tiny::places().into_iter().map(move |p| (f, p)))
    {
        // A plain pass in bf16 rounds elsewhere.
        let tolerance = if place.real == DType::Bf16 { 3e-2 } else { 1e-5 };
        let (model, _) = tiny::model_on(family, place);
        let mut chooser = Chooser::new(&model, &strings).unwrap();
        // More prompts than go through the model together, so that the cache is used again.
        let question = |i: usize| format!("rate this, {}: ", "and that, ".repeat(i % 5));
        let prompt = |i| [256].into_iter().chain(question(i).bytes().map(u32::from)).collect();
        let prompts: Vec<Vec<u32>> = (0..30).map(prompt).collect();
        let mut all: Vec<Choices> = Vec::new();
        let mut keep = |index, choices| {
            assert_eq!(index, all.len());
            all.push(choices);
            Ok(())
        };
        chooser.run(&prompts, &mut keep).unwrap();
        for (prompt, found) in prompts.iter().zip(&all).take(5) {
            for (i, string) in strings.iter().enumerate() {
                // A string's mass is its probability less that of going on to a longer string of the list.
                let longer = strings
                    .iter()
                    .filter(|other| other.len() == string.len() + 1 && other.starts_with(string));
                let plain = log_probability(&model, prompt, string).exp()
                    - longer.map(|other| log_probability(&model, prompt, other).exp()).sum::<f64>();
                let mass = found.log_masses[i].exp();
                assert!((mass - plain).abs() < tolerance * plain + 1e-9, "{family} {i}: {mass} {plain}");
            }
            assert_eq!(found.top.len(), 20);
            let (best, log) = found.top[0];
            assert!((log - log_probability(&model, prompt, &[best])).abs() < tolerance);
        }
        assert!((5..30).all(|i| all[i] == all[i % 5]), "the same question, the same answer");
    }
}

#[test]
fn scores_equal_one_pass_and_windows_start_afresh() {
    let (model, _) = tiny::model("gemma3");
    let ids: Vec<u32> = (0..90).map(|i| (i * 37 + 5) % 256).collect();
    let nll = generate::score(&model, &ids, Some(256)).unwrap();
    let total: f64 = nll.iter().map(|&nll| f64::from(nll)).sum();
    let plain = -log_probability(&model, &ids[..1], &ids[1..]);
    assert!((total - plain).abs() < 1e-4 * plain, "{total} {plain}");
    // The context is 96: three tokens are left for a second window, which starts with BOS.
    let long: Vec<u32> = ids.iter().chain(&ids[..9]).copied().collect();
    let nll = generate::score(&model, &long, Some(256)).unwrap();
    assert_eq!(nll.len(), 98);
    let last: f64 = nll[95..].iter().map(|&nll| f64::from(nll)).sum();
    assert!((last + log_probability(&model, &[256], &long[96..])).abs() < 1e-4 * last);
    assert!(generate::score(&model, &[], None).unwrap().is_empty());
}
