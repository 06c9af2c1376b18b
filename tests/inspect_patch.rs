//! Activation patching and comparison of two models, where the outcome is known.

use std::ops::Range;

use crate::golden::{Golden, MODELS, check_all, places};
use emlab::Result;
use emlab::device::{DType, Tensor};
use emlab::inspect::compare::{observe, part};
use emlab::inspect::patch::{Columns, Metric, likeliest, patch};
use emlab::model::peft;
use emlab::model::probe::{Probe, Site};
use emlab::model::saved::Saved;
use emlab::model::transformer::{Batch, Transformer};

fn check(test: impl Fn(&Golden, Transformer)) {
    let exact: Vec<_> = places().into_iter().filter(|place| place.real == DType::F32).collect();
    check_all(&exact, &MODELS, |golden| {
        test(golden, Transformer::load(&golden.folder, golden.place).unwrap());
    });
}

const SOURCE: [u32; 6] = [2, 9, 17, 30, 41, 8];
/// Differs at position 2 alone.
const TARGET: [u32; 6] = [2, 9, 55, 30, 41, 8];

#[test]
fn the_whole_stream_is_the_other_run_and_the_update_of_the_same_token_is_nothing() {
    check(|golden, model| {
        let metric = Metric::Logits { yes: 3, no: 4 };
        let sites = [Site::Residual, Site::ResidualMid, Site::AttentionDelta, Site::Attention];
        let found = patch(&model, [&SOURCE, &TARGET], &metric, &sites).unwrap();
        let near = |x: f64, y: f64| assert!((x - y).abs() < 2e-3, "{}: {x} {y}", golden.title());
        for map in &found.maps[..2] {
            assert_eq!((map.columns, map.effects.len()), (Columns::Positions, model.spec.layers));
            for together in &map.together {
                near(*together, 1.0);
            }
            for effects in &map.effects {
                // Before the prompts differ there is nothing to put in.
                near(effects[0], 0.0);
                near(effects[1], 0.0);
            }
            // Only the last position is read, so that of the last stream is all that counts.
            let last = map.effects.last().unwrap();
            near(last[5], 1.0);
            near(last[2], 0.0);
        }
        for effects in &found.maps[2].effects {
            near(effects[0], 0.0);
            near(effects[1], 0.0);
        }
        // The first layer's stream differs where the token does, and only from there on.
        assert!(found.maps[0].effects[0][2].abs() > 1e-3);
        let heads = &found.maps[3];
        assert_eq!((heads.columns, heads.effects[0].len()), (Columns::Heads, model.spec.heads));
        assert_eq!(found.pairs.len(), 6);
    });
}

/// Keeps, or puts in, the output of one head.
struct Head {
    layer: usize,
    part: Range<usize>,
    kept: Vec<f32>,
    put: bool,
}

impl Probe for Head {
    fn at(&mut self, layer: usize, site: Site, x: &mut Tensor) -> Result<bool> {
        if (layer, site) != (self.layer, Site::Attention) {
            return Ok(false);
        }
        if !self.put {
            self.kept = x.numbers()?;
            return Ok(false);
        }
        let [n, width] = x.dims()?;
        for row in 0..n {
            let part = row * width + self.part.start..row * width + self.part.end;
            x.write(part.start, &self.kept[part])?;
        }
        Ok(true)
    }
}

#[test]
fn one_head_is_one_head() {
    check(|golden, model| {
        let found =
            patch(&model, [&SOURCE, &TARGET], &Metric::Logits { yes: 3, no: 4 }, &[Site::Attention]).unwrap();
        let mut saved = Saved::for_inference(&model.spec, model.place);
        let mut logits = model.logits_tensor();
        let mut run = |tokens: [u32; 6], probe: &mut dyn Probe| {
            let batch = Batch { tokens: tokens.to_vec(), starts: vec![0, 6], dropout: None };
            model.forward(&mut saved, &batch, probe).unwrap();
            model.logits(&mut logits, &mut saved, &[5]).unwrap();
            let logits = logits.read::<f32>().unwrap();
            f64::from(logits[3]) - f64::from(logits[4])
        };
        let [from, to] = [SOURCE, TARGET].map(|tokens| run(tokens, &mut ()));
        let dim = model.spec.head_dim;
        for (layer, effects) in found.maps[0].effects.iter().enumerate() {
            for (head, effect) in effects.iter().enumerate() {
                let mut one =
                    Head { layer, part: head * dim..(head + 1) * dim, kept: Vec::new(), put: false };
                run(SOURCE, &mut one);
                one.put = true;
                let expected = (run(TARGET, &mut one) - to) / (from - to);
                assert!((effect - expected).abs() < 2e-3, "{} {layer} {head}: {effect}", golden.title());
            }
        }
    });
}

#[test]
fn prompts_of_other_lengths_are_patched_where_they_meet() {
    check(|golden, model| {
        let longer = [2, 9, 55, 56, 57, 30, 41, 8];
        let sites = [Site::ResidualMid, Site::Residual];
        let metric = Metric::Logits { yes: 3, no: 4 };
        let found = patch(&model, [&SOURCE, &longer], &metric, &sites).unwrap();
        assert_eq!(found.pairs, [[0, 0], [1, 1], [3, 5], [4, 6], [5, 7]]);
        for map in &found.maps {
            let last = map.effects.last().unwrap();
            let expected = [0.0, 0.0, 0.0, 0.0, 1.0];
            // Before the last layer's MLP only the last position is read any more.
            for (effect, expected) in last.iter().zip(expected) {
                assert!((effect - expected).abs() < 2e-3, "{}: {last:?}", golden.title());
            }
        }
    });
}

#[test]
fn an_answer_is_measured_as_a_whole() {
    check(|golden, model| {
        for answer in [&[33][..], &[33, 7, 50]] {
            let metric = Metric::Answer(answer.to_vec());
            let sites = [Site::ResidualMid, Site::MlpDelta];
            let found = patch(&model, [&SOURCE, &TARGET], &metric, &sites).unwrap();
            for (prompt, found) in [(SOURCE, found.source), (TARGET, found.target)] {
                let whole = [&prompt[..], answer].concat();
                let seen = observe(&model, &whole).unwrap();
                let after = part(&model, &seen, &seen, 1).unwrap().after;
                let nll: f64 = after[5..5 + answer.len()].iter().map(|a| f64::from(a.nll.unwrap()[0])).sum();
                assert!((nll + found).abs() < 1e-4 * nll, "{}: {found} {nll}", golden.title());
            }
            // The answer's tokens are positions, too, and the same in both: with the stream of all of them the runs are the same.
            assert_eq!(found.pairs.len(), 5 + answer.len());
            for together in &found.maps[0].together {
                assert!((together - 1.0).abs() < 2e-3, "{}: {together}", golden.title());
            }
        }
        let found = likeliest(&model, [&SOURCE, &SOURCE]).unwrap();
        assert!(matches!(&found, Metric::Answer(one) if one.len() == 1), "{found:?}");
        let first = observe(&model, &SOURCE).unwrap();
        assert!(part(&model, &first, &observe(&model, &TARGET).unwrap(), 1).is_err());
    });
}

#[test]
fn a_model_does_not_part_from_itself_and_an_adapter_parts_it_after_the_embedding() {
    check(|golden, mut model| {
        let logits = |model: &Transformer| {
            let (mut saved, mut logits) =
                (Saved::for_inference(&model.spec, model.place), model.logits_tensor());
            let batch = Batch { tokens: SOURCE.to_vec(), starts: vec![0, 6], dropout: None };
            model.forward(&mut saved, &batch, &mut ()).unwrap();
            model.all_logits(&mut logits, &mut saved).unwrap();
            logits.read::<f32>().unwrap()
        };
        let before = logits(&model);
        let first = observe(&model, &SOURCE).unwrap();
        let same = part(&model, &first, &observe(&model, &SOURCE).unwrap(), 3).unwrap();
        assert!(same.streams.iter().flatten().all(|x| *x == 0.0));
        assert!(same.after.iter().all(|after| after.kl == 0.0 && after.moved.iter().all(|m| m.logit == 0.0)));
        peft::read(&golden.folder.join("adapter"), &mut model).unwrap();
        let found = part(&model, &first, &observe(&model, &SOURCE).unwrap(), 3).unwrap();
        assert!(found.streams[0].iter().all(|x| *x == 0.0));
        assert!(found.streams[1..].iter().flatten().all(|x| *x > 0.0));
        let (v, adapted) = (model.spec.vocab, logits(&model));
        for (row, after) in found.after.iter().enumerate() {
            let [x, y] = [&before, &adapted].map(|all| &all[row * v..(row + 1) * v]);
            let ln_sum = |x: &[f32]| x.iter().map(|x| f64::from(*x).exp()).sum::<f64>().ln();
            let log_p = |x: &[f32]| {
                let sum = ln_sum(x);
                x.iter().map(|x| f64::from(*x) - sum).collect::<Vec<f64>>()
            };
            let [p, q] = [x, y].map(log_p);
            let kl = |p: &[f64], q: &[f64]| p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
            for (found, expected) in [(after.kl, kl(&p, &q)), (after.kl_back, kl(&q, &p))] {
                assert!((found - expected).abs() < 1e-4 * expected.max(1e-2), "{found} {expected}");
            }
            let mean = |x: &[f32]| x.iter().map(|x| f64::from(*x)).sum::<f64>() / v as f64;
            for moved in &after.moved {
                let token = moved.token as usize;
                let expected = f64::from(y[token]) - mean(y) - (f64::from(x[token]) - mean(x));
                assert!((f64::from(moved.logit) - expected).abs() < 1e-3, "{} {expected}", moved.logit);
            }
            let size = |i: usize| (after.moved[i].log_p[0].exp() - after.moved[i].log_p[1].exp()).abs();
            assert!(size(0) >= size(1) && size(1) >= size(2));
        }
        assert_eq!(found.after.iter().filter(|after| after.nll.is_some()).count(), SOURCE.len() - 1);
    });
}

#[test]
fn what_cannot_be_patched_says_so() {
    let golden = Golden::read("qwen3", places()[0]);
    let model = Transformer::load(&golden.folder, golden.place).unwrap();
    let metric = Metric::Logits { yes: 3, no: 4 };
    for (source, target, metric, site, message) in [
        (&SOURCE[..], &[][..], &metric, Site::Residual, "0 tokens"),
        (&SOURCE[..], &SOURCE[..], &metric, Site::Residual, "same metric"),
        (&SOURCE[..3], &[5, 6][..], &metric, Site::Residual, "no position"),
        (&SOURCE[..], &TARGET[..], &Metric::Answer(vec![9999]), Site::Residual, "vocabulary"),
        (&SOURCE[..], &TARGET[..], &Metric::Answer(vec![]), Site::Residual, "without tokens"),
        (&SOURCE[..], &TARGET[..], &metric, Site::Embedding, "inside layers"),
    ] {
        let error = patch(&model, [source, target], metric, &[site]).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
    let error = likeliest(&model, [&SOURCE, &[]]).unwrap_err().to_string();
    assert!(error.contains("0 tokens"), "{error}");
}
