//! Activation patching and comparison of two models, where the outcome is known.
#![allow(clippy::unwrap_used)]

mod golden;

use emlab::device::DType;
use emlab::inspect::compare::{observe, part};
use emlab::inspect::patch::{Columns, Metric, likeliest, patch};
use emlab::model::adapter;
use emlab::model::probe::Site;
use emlab::model::transformer::Transformer;
use golden::{Golden, MODELS, check_all, places};

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
        // The first layer's stream differs where the token does, and only from there on.
        assert!(found.maps[0].effects[0][2].abs() > 1e-3);
        let heads = &found.maps[3];
        assert_eq!((heads.columns, heads.effects[0].len()), (Columns::Heads, model.spec.heads));
        assert_eq!(found.pairs.len(), 6);
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
                let after = part(&seen, &seen, 1).unwrap().after;
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
        assert!(part(&first, &observe(&model, &TARGET).unwrap(), 1).is_err());
    });
}

#[test]
fn a_model_does_not_part_from_itself_and_an_adapter_parts_it_after_the_embedding() {
    check(|golden, mut model| {
        let first = observe(&model, &SOURCE).unwrap();
        let same = part(&first, &observe(&model, &SOURCE).unwrap(), 3).unwrap();
        assert!(same.streams.iter().flatten().all(|x| *x == 0.0));
        assert!(same.after.iter().all(|after| after.kl == 0.0 && after.moved.iter().all(|m| m.logit == 0.0)));
        adapter::read(&golden.folder.join("adapter"), &mut model).unwrap();
        let found = part(&first, &observe(&model, &SOURCE).unwrap(), 3).unwrap();
        assert!(found.streams[0].iter().all(|x| *x == 0.0));
        assert!(found.streams[1..].iter().flatten().all(|x| *x > 0.0));
        for after in &found.after {
            assert!(after.kl > 0.0 && after.kl_back > 0.0);
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
