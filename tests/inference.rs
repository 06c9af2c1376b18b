//! Cached inference against the packed forward, on random tiny models of both families.

use emlab::device::Tensor;
use emlab::model::cache::{Cache, SequenceRow};
use emlab::model::lora::Lora;
use emlab::model::place::Place;
use emlab::model::saved::Saved;
use emlab::model::spec::{Family, Spec};
use emlab::model::transformer::{Batch, Transformer};
use emlab::ops::glu::Activation;
use emlab::ops::norm::Gain;
use emlab::ops::rope::Rope;

fn tiny(family: Family) -> Spec {
    let gemma = family == Family::Gemma3;
    Spec {
        family,
        vocab: 61,
        channels: 24,
        layers: 3,
        heads: 4,
        kv_heads: 2,
        head_dim: 10,
        mlp_width: 36,
        context: 512,
        norm_eps: 1e-6,
        gain: if gemma { Gain::OnePlus } else { Gain::Plain },
        post_norms: gemma,
        activation: if gemma { Activation::GeluTanh } else { Activation::Silu },
        windows: if gemma { vec![Some(5), Some(5), None] } else { vec![None; 3] },
        ropes: vec![Rope { base: 1e4, factor: 1.0 }; 3],
        softmax_scale: 0.3,
        embedding_scale: gemma.then_some(24f32.sqrt()),
        tied: gemma,
        bos: None,
        eos: vec![],
        pad: None,
    }
}

/// A random model with adapters whose B is not zero.
fn model(family: Family) -> Transformer {
    let mut model = Transformer::random(tiny(family), 5, Place::CPU).unwrap();
    model.attach(&Lora { rank: 3, alpha: 4.0, rslora: false, ..Lora::default() }, 5).unwrap();
    for (_, parameter) in model.trainable_mut() {
        for (i, x) in parameter.value.f32_mut().iter_mut().enumerate() {
            *x += 0.1 * (i as f32 * 0.7).sin();
        }
    }
    model
}

fn tokens(n: usize, step: usize) -> Vec<u32> {
    (0..n).map(|i| ((i * step + 3) % 61) as u32).collect()
}

/// Logits after every position of one document.
fn whole(model: &Transformer, tokens: &[u32]) -> Vec<Vec<f32>> {
    let mut saved = Saved::for_training(&model.spec, model.place);
    let n = tokens.len() as u32;
    model
        .forward(&mut saved, &Batch { tokens: tokens.to_vec(), starts: vec![0, n], dropout: None }, &mut ())
        .unwrap();
    logits(model, &mut saved, &(0..n).collect::<Vec<_>>())
}

fn logits(model: &Transformer, saved: &mut Saved, rows: &[u32]) -> Vec<Vec<f32>> {
    let mut out = Tensor::empty();
    model.logits(&mut out, saved, rows).unwrap();
    out.f32().chunks(model.spec.vocab).map(<[f32]>::to_vec).collect()
}

fn close(a: &[f32], b: &[f32]) {
    let scale = b.iter().fold(0f32, |m, x| m.max(x.abs()));
    for (a, b) in a.iter().zip(b) {
        assert!((a - b).abs() < 1e-5 * scale.max(1.0), "{a} against {b}");
    }
}

#[test]
fn cached_decoding_equals_the_packed_forward() {
    for family in [Family::Gemma3, Family::Qwen3] {
        let model = model(family);
        let text = tokens(40, 7);
        let expected = whole(&model, &text);
        let mut cache = Cache::new(&model.spec, model.place, 8).unwrap();
        let mut saved = Saved::for_inference(&model.spec, model.place);
        let sequence = cache.add();
        let prompt: Vec<SequenceRow> = (0..21).map(|position| SequenceRow { sequence, position }).collect();
        model.infer(&mut saved, &mut cache, &text[..21], &prompt).unwrap();
        close(&logits(&model, &mut saved, &[20])[0], &expected[20]);
        // A fork in the middle of a page goes its own way; the parent is not disturbed.
        let fork = cache.fork(sequence).unwrap();
        let other = [text[..21].to_vec(), tokens(19, 5)].concat();
        let expected_other = whole(&model, &other);
        for position in 21..40 {
            let rows = [SequenceRow { sequence, position }, SequenceRow { sequence: fork, position }];
            model.infer(&mut saved, &mut cache, &[text[position], other[position]], &rows).unwrap();
            let found = logits(&model, &mut saved, &[0, 1]);
            close(&found[0], &expected[position]);
            close(&found[1], &expected_other[position]);
        }
        cache.remove(sequence);
        cache.remove(fork);
        assert_eq!(cache.free_pages(), 8);
    }
}

#[test]
fn a_row_has_the_same_bits_in_any_batch() {
    let model = model(Family::Gemma3);
    let run = |others: usize| {
        let mut cache = Cache::new(&model.spec, model.place, 64).unwrap();
        let mut saved = Saved::for_inference(&model.spec, model.place);
        let sequences: Vec<usize> = (0..=others)
            .map(|s| {
                let sequence = cache.add();
                let prompt = tokens(5 + 3 * s, 7);
                let rows: Vec<SequenceRow> =
                    (0..prompt.len()).map(|position| SequenceRow { sequence, position }).collect();
                model.infer(&mut saved, &mut cache, &prompt, &rows).unwrap();
                sequence
            })
            .collect();
        let rows: Vec<SequenceRow> =
            sequences.iter().map(|s| SequenceRow { sequence: *s, position: cache.length(*s) }).collect();
        model.infer(&mut saved, &mut cache, &vec![9; rows.len()], &rows).unwrap();
        logits(&model, &mut saved, &[0]).remove(0)
    };
    let alone = run(0);
    assert_eq!(alone, run(1));
    assert_eq!(alone, run(6));
}

#[test]
fn packed_documents_do_not_see_each_other() {
    let model = model(Family::Qwen3);
    let (a, b) = (tokens(9, 7), tokens(14, 11));
    let mut saved = Saved::for_training(&model.spec, model.place);
    let batch = Batch { tokens: [a.clone(), b.clone()].concat(), starts: vec![0, 9, 23], dropout: None };
    model.forward(&mut saved, &batch, &mut ()).unwrap();
    let packed = logits(&model, &mut saved, &(0..23).collect::<Vec<_>>());
    for (found, expected) in packed.iter().zip(whole(&model, &a).iter().chain(&whole(&model, &b))) {
        close(found, expected);
    }
}

#[test]
fn a_full_cache_says_so() {
    let model = model(Family::Qwen3);
    let (mut cache, mut saved) =
        (Cache::new(&model.spec, model.place, 1).unwrap(), Saved::for_inference(&model.spec, model.place));
    let sequence = cache.add();
    let rows: Vec<SequenceRow> = (0..17).map(|position| SequenceRow { sequence, position }).collect();
    let error = model.infer(&mut saved, &mut cache, &tokens(17, 7), &rows).unwrap_err();
    assert!(error.to_string().contains("cache is full"));
}
