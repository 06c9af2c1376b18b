//! What probes and steering do to a pass, exactly: nothing where they change nothing, the other run where they put all of it in.

use std::collections::HashMap;

use crate::golden::{Golden, MODELS, check_all, numbers, places};
use emlab::Result;
use emlab::device::Tensor;
use emlab::model::probe::{Probe, Site};
use emlab::model::saved::Saved;
use emlab::model::steering::{Action, Steer};
use emlab::model::transformer::{Batch, Transformer};

/// Keeps every activation.
#[derive(Default)]
struct Keep(HashMap<(usize, Site), Vec<f32>>);

impl Probe for Keep {
    fn at(&mut self, layer: usize, site: Site, x: &mut Tensor) -> Result<bool> {
        self.0.insert((layer, site), numbers(x));
        Ok(false)
    }
}

/// Says that everything was changed, though nothing was.
struct Touch;

impl Probe for Touch {
    fn at(&mut self, _: usize, _: Site, _: &mut Tensor) -> Result<bool> {
        Ok(true)
    }
}

/// Puts what was kept in at one place.
struct Put<'a>(&'a Keep, (usize, Site));

impl Probe for Put<'_> {
    fn at(&mut self, layer: usize, site: Site, x: &mut Tensor) -> Result<bool> {
        let here = (layer, site) == self.1;
        if here {
            let kept = Tensor::from_f32(x.shape(), self.0.0[&self.1].clone());
            let kept = if x.dtype() == kept.dtype() { kept } else { kept.to_bf16() };
            x.copy_from(&kept.to(x.device())?)?;
        }
        Ok(here)
    }
}

fn batch(model: &Transformer, seed: u32) -> Batch {
    let tokens = (0..9).map(|i| (i * 7 + seed) % model.spec.vocab as u32).collect();
    Batch { tokens, starts: vec![0, 9], dropout: None }
}

/// The head's input after a pass.
fn run(model: &Transformer, batch: &Batch, probe: &mut dyn Probe) -> Vec<f32> {
    let mut saved = Saved::for_inference(&model.spec, model.place);
    model.forward(&mut saved, batch, probe).unwrap();
    numbers(saved.hidden())
}

fn load(golden: &Golden) -> Transformer {
    Transformer::load(&golden.folder, golden.place).unwrap()
}

fn check(test: impl Fn(&Golden, &Transformer)) {
    check_all(&places(), &MODELS, |golden| test(golden, &load(golden)));
}

#[test]
fn what_is_not_changed_stays_as_it_is() {
    check(|golden, model| {
        let batch = batch(model, 3);
        let plain = run(model, &batch, &mut ());
        assert_eq!(run(model, &batch, &mut Keep::default()), plain, "{}", golden.title());
        assert_eq!(run(model, &batch, &mut Touch), plain, "{}", golden.title());
        let mut steered = load(golden);
        let nothing =
            |depth| Steer { depth, direction: vec![1.0; model.spec.channels], action: Action::Add(0.0) };
        steered.steer(&(0..=model.spec.layers).map(nothing).collect::<Vec<_>>()).unwrap();
        assert_eq!(run(&steered, &batch, &mut ()), plain, "{}", golden.title());
    });
}

#[test]
fn a_whole_patch_gives_the_other_run() {
    check(|golden, model| {
        let [from, to] = [3, 5].map(|seed| batch(model, seed));
        let mut kept = Keep::default();
        let expected = run(model, &from, &mut kept);
        let layers = model.spec.layers;
        let streams = (0..layers).flat_map(|l| [(l, Site::ResidualMid), (l, Site::Residual)]);
        for place in streams.chain([(0, Site::Embedding), (layers, Site::FinalNorm)]) {
            // From the middle of a block on, nothing but the stream is left of what came before.
            let found = run(model, &to, &mut Put(&kept, place));
            assert_eq!(found, expected, "{} {place:?}", golden.title());
        }
        // One update is not the whole.
        let found = run(model, &to, &mut Put(&kept, (0, Site::MlpDelta)));
        assert_ne!(found, expected);
        assert_ne!(found, run(model, &to, &mut ()));
    });
}

#[test]
fn steering_moves_the_stream_and_nothing_else() {
    check(|golden, model| {
        let (batch, [n, c], layers) = (batch(model, 3), [9, model.spec.channels], model.spec.layers);
        let mut plain = Keep::default();
        run(model, &batch, &mut plain);
        let direction: Vec<f32> = (0..c).map(|i| (i as f32 * 0.7).sin()).collect();
        let close = |found: f32, expected: f32, size: f32| {
            let bound = if golden.title().contains("bf16") { 0.02 } else { 1e-4 };
            assert!((found - expected).abs() <= bound * size, "{}: {found} {expected}", golden.title());
        };
        for depth in [0, 1, layers] {
            let place = if depth == 0 { (0, Site::Embedding) } else { (depth - 1, Site::Residual) };
            let mut steered = load(golden);
            steered
                .steer(&[Steer { depth, direction: direction.clone(), action: Action::Add(-1.5) }])
                .unwrap();
            let mut found = Keep::default();
            run(&steered, &batch, &mut found);
            // Nothing is moved before, and nothing else after.
            let before = |&(layer, site): &(usize, Site)| {
                depth > 0 && (site == Site::Embedding || layer < depth && (layer, site) != place)
            };
            for at in plain.0.keys().filter(|at| before(at)) {
                assert_eq!(found.0[at], plain.0[at], "{} {at:?}", golden.title());
            }
            assert_eq!(
                run(model, &batch, &mut Put(&found, place)),
                run(&steered, &batch, &mut ()),
                "{} depth {depth}",
                golden.title()
            );
            for i in 0..n * c {
                let expected = plain.0[&place][i] - 1.5 * direction[i % c];
                close(found.0[&place][i], expected, expected.abs().max(1.0));
            }
        }
        // Erased everywhere: nothing that a block reads has a share along the direction.
        let mut steered = load(golden);
        let erase = |depth| Steer { depth, direction: direction.clone(), action: Action::Erase };
        steered.steer(&(0..=layers).map(erase).collect::<Vec<_>>()).unwrap();
        let mut found = Keep::default();
        run(&steered, &batch, &mut found);
        for ((_, site), x) in &found.0 {
            if matches!(site, Site::Embedding | Site::ResidualMid | Site::Residual) {
                for row in x.chunks(c) {
                    let along: f32 = row.iter().zip(&direction).map(|(x, v)| x * v).sum();
                    let sizes = [row, &direction].map(|x| x.iter().map(|x| x * x).sum::<f32>().sqrt());
                    close(along, 0.0, sizes[0] * sizes[1]);
                }
            }
        }
        // Without steers the model is what it was.
        steered.steer(&[]).unwrap();
        assert_eq!(run(&steered, &batch, &mut ()), run(model, &batch, &mut ()));
    });
}

#[test]
fn what_cannot_steer_says_so() {
    let golden = Golden::read("qwen3", places()[0]);
    let mut model = load(&golden);
    let c = model.spec.channels;
    for (depth, direction, dose, part) in [
        (model.spec.layers + 1, vec![1.0; c], 1.0, "depths 0 to"),
        (0, vec![1.0; c + 1], 1.0, "width"),
        (0, vec![0.0; c], 1.0, "length"),
        (0, vec![f32::NAN; c], 1.0, "length"),
        (0, vec![1.0; c], f32::INFINITY, "dose"),
    ] {
        let error = model.steer(&[Steer { depth, direction, action: Action::Add(dose) }]).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
    model.steer(&[Steer { depth: 1, direction: vec![1.0; c], action: Action::Erase }]).unwrap();
    let (batch, mut saved) = (batch(&model, 1), Saved::for_training(&model.spec, model.place));
    model.forward(&mut saved, &batch, &mut ()).unwrap();
    model.loss_gradient(&mut saved, &[1], &[2], 1.0).unwrap();
    let error = model.backward(&mut saved, &batch, &mut ()).unwrap_err();
    assert!(error.to_string().contains("steered"), "{error}");
}
