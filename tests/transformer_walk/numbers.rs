//! Tables of numbers: a comment `<!-- numbers: MODEL WHAT … -->` says what the table below it holds.

use emlab::device::Tensor;
use emlab::error::Result;
use emlab::model::place::Place;
use emlab::model::probe::{Probe, Site};
use emlab::model::saved::Saved;
use emlab::model::tokenizer::Tokenizer;
use emlab::model::transformer::{Batch, Transformer};

use super::{Checked, root};

/// The worked example: the model reads all tokens but the last and is to foretell all but the first.
const TEXT: &str = "I am glad you asked";

/// `text` with every table as it is computed.
pub fn check(text: &str) -> Checked {
    let mut walks: Vec<(String, Walk)> = Vec::new();
    let (mut faults, mut right, mut lines) = (Vec::new(), Vec::new(), text.lines().zip(1..).peekable());
    while let Some((line, number)) = lines.next() {
        right.push(line.to_owned());
        let Some(what) = line.strip_prefix("<!-- numbers: ").and_then(|rest| rest.strip_suffix(" -->"))
        else {
            continue;
        };
        let mut shown = Vec::new();
        while let Some((line, _)) = lines.next_if(|(line, _)| line.starts_with('|')) {
            shown.push(line.to_owned());
        }
        let (model, what) = what.split_once(' ').unwrap();
        if walks.iter().all(|(name, _)| name != model) {
            walks.push((model.to_owned(), Walk::of(model)));
        }
        let (_, walk) = walks.iter_mut().find(|(name, _)| name == model).unwrap();
        let table = walk.table(&what.split(' ').collect::<Vec<_>>());
        if table != shown {
            faults.push(format!(
                "{number}: the numbers are\n{}\nnot\n{}",
                table.join("\n"),
                shown.join("\n")
            ));
        }
        right.extend(table);
    }
    Checked { text: right.join("\n") + "\n", faults }
}

/// The row whose first element is moved, to see what the loss does.
const NUDGED: usize = 1;

/// Every activation of a pass, and every gradient.
#[derive(Default)]
struct Recorder {
    values: Vec<(usize, Site, Vec<f32>)>,
    gradients: Vec<(usize, Site, Vec<f32>)>,
    /// What is added to the first element of [`NUDGED`] of the embedded text.
    nudge: f32,
}

impl Probe for Recorder {
    fn at(&mut self, layer: usize, site: Site, x: &mut Tensor) -> Result<bool> {
        if site == Site::Embedding {
            let [_, c] = x.dims()?;
            x.f32_mut()[NUDGED * c] += self.nudge;
        }
        self.values.push((layer, site, x.f32().to_vec()));
        Ok(self.nudge != 0.0)
    }

    fn gradient(&mut self, layer: usize, site: Site, dx: &Tensor) -> Result<()> {
        self.gradients.push((layer, site, dx.f32().to_vec()));
        Ok(())
    }
}

/// The worked example in one model.
struct Walk {
    model: Transformer,
    tokenizer: Tokenizer,
    /// All tokens.
    ids: Vec<u32>,
    recorder: Recorder,
    /// After every token but the last (N, V).
    logits: Vec<Vec<f32>>,
}

impl Walk {
    fn of(name: &str) -> Self {
        let folder = root().join("models/demo").join(name);
        let (mut model, tokenizer) =
            (Transformer::load(&folder, Place::CPU).unwrap(), Tokenizer::open(&folder).unwrap());
        model.train_everything().unwrap();
        let ids = tokenizer.encode(TEXT, true).unwrap();
        let mut walk = Self { model, tokenizer, ids, recorder: Recorder::default(), logits: Vec::new() };
        let (mut saved, mut recorder) =
            (Saved::for_training(&walk.model.spec, walk.model.place), Recorder::default());
        walk.loss(&mut saved, &mut recorder);
        let mut logits = walk.model.logits_tensor();
        walk.model.all_logits(&mut logits, &mut saved).unwrap();
        walk.logits = logits.f32().chunks(walk.model.spec.vocab).map(<[f32]>::to_vec).collect();
        walk.model.backward(&mut saved, &walk.batch(), &mut recorder).unwrap();
        walk.recorder = recorder;
        walk
    }

    fn batch(&self) -> Batch {
        let n = self.ids.len() - 1;
        Batch { tokens: self.ids[..n].to_vec(), starts: vec![0, n as u32], dropout: None }
    }

    /// The mean loss, whose gradient is left in `saved`.
    fn loss(&mut self, saved: &mut Saved, probe: &mut Recorder) -> f64 {
        let batch = self.batch();
        self.model.forward(saved, &batch, probe).unwrap();
        let n = batch.tokens.len();
        let rows: Vec<u32> = (0..n as u32).collect();
        let nll = self.model.loss_gradient(saved, &rows, &self.ids[1..], 1.0 / n as f32).unwrap();
        nll.iter().copied().map(f64::from).sum::<f64>() / n as f64
    }

    fn token(&self, id: u32) -> String {
        format!("`{}`", self.tokenizer.decode(&[id], false).unwrap().replace(' ', "␣"))
    }

    fn rows(&self, layer: usize, site: Site) -> Vec<&[f32]> {
        rows(&self.recorder.values, layer, site, self.ids.len() - 1)
    }

    fn table(&mut self, what: &[&str]) -> Vec<String> {
        let number = |i: usize| what[i].parse::<usize>().unwrap();
        match what[0] {
            "tokens" => self.tokens(),
            "site" => self.site(number(1), what[2], number(3)),
            "norm" => self.norm(number(1)),
            "scores" => self.scores(number(1), number(2), false),
            "weights" => self.scores(number(1), number(2), true),
            "stream" => self.stream(),
            "loss" => self.loss_table(),
            "dlogits" => self.dlogits(number(1)),
            "gradients" => self.gradients(),
            "slope" => self.slope(),
            other => panic!("no numbers `{other}`"),
        }
    }

    fn tokens(&self) -> Vec<String> {
        let rows =
            self.ids.iter().enumerate().map(|(i, id)| vec![i.to_string(), id.to_string(), self.token(*id)]);
        table(&["position", "id", "text"], rows.collect())
    }

    /// The first columns of every row at a site, and the row's length.
    fn site(&self, layer: usize, name: &str, columns: usize) -> Vec<String> {
        let site = Site::ALL.into_iter().find(|site| site.name() == name).unwrap();
        let mut head = vec!["row".to_owned()];
        head.extend((0..columns).map(|i| format!("column {i}")));
        head.extend(["…".into(), "length".into()]);
        let rows = self.rows(layer, site).into_iter().zip(&self.ids).map(|(row, id)| {
            let mut cells = vec![self.token(*id)];
            cells.extend(row[..columns].iter().map(|x| places(f64::from(*x))));
            cells.extend([String::new(), places(length(row))]);
            cells
        });
        table(&head.iter().map(|name| &**name).collect::<Vec<_>>(), rows.collect())
    }

    /// The first elements of the last row through the first norm: what goes in, the factors, what comes out.
    fn norm(&self, columns: usize) -> Vec<String> {
        let [x, y] = [Site::Embedding, Site::AttentionNorm].map(|site| *self.rows(0, site).last().unwrap());
        let square: f64 = x.iter().map(|x| f64::from(*x).powi(2)).sum();
        let r = (square / x.len() as f64 + f64::from(self.model.spec.norm_eps)).powf(-0.5);
        let parameters = self.model.trainable();
        let is = |name: &str| name == "model.layers.0.input_layernorm.weight";
        let (_, gain) = parameters.iter().find(|(name, _)| is(name)).unwrap();
        let rows = (0..columns).map(|c| {
            let mut cells = vec![c.to_string()];
            cells.extend([f64::from(x[c]), r, f64::from(gain.value.f32()[c]), f64::from(y[c])].map(places));
            cells
        });
        table(&["column", "x", "r", "w", "x · r · w"], rows.collect())
    }

    /// scale · q·k of one head, or its softmax over the keys that a query sees: from the queries and keys, in double
    /// precision. The weighted values must be what the op gave.
    fn scores(&self, layer: usize, head: usize, softmax: bool) -> Vec<String> {
        let spec = &self.model.spec;
        let (d, kv) = (spec.head_dim, head * spec.kv_heads / spec.heads);
        let [queries, keys, qkv, outs] =
            [Site::Query, Site::Key, Site::Qkv, Site::Attention].map(|site| self.rows(layer, site));
        let mut all = Vec::new();
        for (i, query) in queries.iter().enumerate() {
            let dot = |key: &[f32]| {
                let pairs = query[head * d..][..d].iter().zip(&key[kv * d..][..d]);
                f64::from(spec.softmax_scale) * pairs.map(|(q, k)| f64::from(*q) * f64::from(*k)).sum::<f64>()
            };
            let scores: Vec<f64> = keys[..=i].iter().map(|key| dot(key)).collect();
            let sum: f64 = scores.iter().map(|s| s.exp()).sum();
            let weights: Vec<f64> = scores.iter().map(|s| s.exp() / sum).collect();
            let values = (spec.heads + spec.kv_heads + kv) * d;
            for c in 0..d {
                let out: f64 = weights.iter().zip(&qkv).map(|(w, row)| w * f64::from(row[values + c])).sum();
                assert!((out - f64::from(outs[i][head * d + c])).abs() < 1e-4, "layer {layer}, head {head}");
            }
            let chosen = if softmax { weights } else { scores };
            let mut cells = vec![self.token(self.ids[i])];
            cells.extend(chosen.into_iter().map(places));
            cells.resize(queries.len() + 1, String::new());
            all.push(cells);
        }
        let mut names = vec!["query \\ key".to_owned()];
        names.extend(self.ids[..queries.len()].iter().map(|id| self.token(*id)));
        table(&names.iter().map(|name| &**name).collect::<Vec<_>>(), all)
    }

    /// Lengths of the stream at the last row and of what is added to it.
    fn stream(&self) -> Vec<String> {
        let one = |x| rounded(x, 1);
        let last = |layer, site| length(self.rows(layer, site).last().unwrap());
        let rows = (0..self.model.spec.layers).map(|layer| {
            let before = if layer == 0 { last(0, Site::Embedding) } else { last(layer - 1, Site::Residual) };
            let sites = [Site::AttentionDelta, Site::ResidualMid, Site::MlpDelta, Site::Residual];
            let mut cells = vec![layer.to_string(), one(before)];
            cells.extend(sites.map(|site| one(last(layer, site))));
            cells
        });
        let head = ["block", "stream", "+ attention", "= between", "+ MLP", "= after"];
        table(&head, rows.collect())
    }

    fn loss_table(&self) -> Vec<String> {
        let rows = self.logits.iter().zip(&self.ids).zip(&self.ids[1..]).map(|((row, id), next)| {
            let (logit, lse) = (f64::from(row[*next as usize]), lse(row));
            let mut cells = vec![self.token(*id), self.token(*next)];
            cells.extend([logit, lse, (logit - lse).exp(), lse - logit].map(places));
            cells
        });
        table(&["after", "comes", "its logit", "lse", "probability", "loss"], rows.collect())
    }

    /// The likeliest tokens after a row and the one that comes, and the gradient of that row's loss by their logits.
    fn dlogits(&self, at: usize) -> Vec<String> {
        let (row, target) = (&self.logits[at], self.ids[at + 1]);
        let mut order: Vec<u32> = (0..row.len() as u32).collect();
        order.sort_by(|a, b| row[*b as usize].total_cmp(&row[*a as usize]));
        order.truncate(3);
        order.retain(|id| *id != target);
        order.push(target);
        let rows = order.iter().map(|id| {
            let p = (f64::from(row[*id as usize]) - lse(row)).exp();
            let target = f64::from(u8::from(*id == target));
            vec![self.token(*id), places(p), format!("{target:.0}"), places(p - target)]
        });
        table(&["token", "p", "onehot", "∂loss/∂logit"], rows.collect())
    }

    /// Lengths of the gradient of the mean loss by the stream, all rows together.
    fn gradients(&self) -> Vec<String> {
        let all = |layer, site: Site| {
            let (.., dx) =
                self.recorder.gradients.iter().find(|(l, s, _)| (*l, *s) == (layer, site)).unwrap();
            places(length(dx))
        };
        let layers = self.model.spec.layers;
        let mut rows = vec![vec!["the head's input".into(), all(layers, Site::FinalNorm)]];
        for layer in (0..layers).rev() {
            rows.push(vec![format!("the stream after block {layer}"), all(layer, Site::Residual)]);
        }
        rows.push(vec!["the embedding".into(), all(0, Site::Embedding)]);
        table(&["gradient by", "length"], rows)
    }

    /// One element of the gradient, against the loss a little to both sides.
    fn slope(&mut self) -> Vec<String> {
        const STEP: f32 = 1.0 / 16.0;
        let dx = rows(&self.recorder.gradients, 0, Site::Embedding, self.ids.len() - 1)[NUDGED][0];
        let mut saved = Saved::for_training(&self.model.spec, self.model.place);
        let [up, down] =
            [STEP, -STEP].map(|nudge| self.loss(&mut saved, &mut Recorder { nudge, ..Recorder::default() }));
        let difference = (up - down) / f64::from(2.0 * STEP);
        assert!((difference - f64::from(dx)).abs() < 1e-2 * f64::from(dx).abs(), "{difference} {dx}");
        let mut cells = [down, up].map(|loss| rounded(loss, 4)).to_vec();
        cells.extend([difference, f64::from(dx)].map(places));
        let head = ["loss at x − 1/16", "loss at x + 1/16", "difference / (1/8)", "backward"];
        table(&head, vec![cells])
    }
}

/// The rows (N) that were seen at a site.
fn rows(all: &[(usize, Site, Vec<f32>)], layer: usize, site: Site, n: usize) -> Vec<&[f32]> {
    let (.., x) = all.iter().find(|(l, s, _)| (*l, *s) == (layer, site)).unwrap();
    x.chunks(x.len() / n).collect()
}

fn length(x: &[f32]) -> f64 {
    x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
}

fn lse(row: &[f32]) -> f64 {
    row.iter().map(|x| f64::from(*x).exp()).sum::<f64>().ln()
}

/// A number to three places, from 10 on to two.
fn places(x: f64) -> String {
    rounded(x, if x.abs() < 10.0 { 3 } else { 2 })
}

/// A number to some places. Processors differ in the last bits of a sum: a number that they could round differently is
/// refused, and another must be chosen.
fn rounded(x: f64, digits: usize) -> String {
    /// How far two processors may differ, of the number and at all.
    const APART: [f64; 2] = [3e-6, 1e-6];
    let (unit, apart) = (10f64.powi(-(digits as i32)), APART[0] * x.abs() + APART[1]);
    let from_half = ((x.abs() / unit).fract() - 0.5).abs() * unit;
    assert!(from_half > apart, "{x} may be rounded up or down");
    let text = format!("{x:.digits$}");
    if text.trim_matches(['-', '0', '.']).is_empty() { text.replace('-', "") } else { text }
}

fn table(head: &[&str], rows: Vec<Vec<String>>) -> Vec<String> {
    let line = |cells: Vec<String>| format!("| {} |", cells.join(" | "));
    let mut lines =
        vec![line(head.iter().map(|name| (*name).to_owned()).collect()), "|---".repeat(head.len()) + "|"];
    lines.extend(rows.into_iter().map(line));
    lines
}
