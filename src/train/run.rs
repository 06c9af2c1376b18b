//! The training loop.

use std::time::Instant;

use super::job::Job;
use super::memory::MemoryPlan;
use super::metrics::{Metric, Metrics};
use super::optimiser::Optimiser;
use super::output;
use super::packing::{self, Order, Packed, Pass};
use super::progress::{Event, Status};
use super::settings::Settings;
use super::state;
use crate::device::memory;
use crate::device::philox::Key;
use crate::error::{Error, Result};
use crate::interrupt;
use crate::model::saved::Saved;
use crate::model::transformer::Transformer;
use crate::ops::adamw::AdamW;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    /// Optimiser steps of the run.
    pub steps: usize,
    /// The step that it continued from; 0 for a fresh run.
    pub resumed: usize,
    /// Loss of the last step, before its update.
    pub loss: f64,
    /// Loss on the held-out examples after the last step, if there are any.
    pub held_out: Option<f64>,
}

/// Trains `model`, or an adapter on it, and writes the result into the job's folder: a PEFT adapter, or with `full` a
/// Hugging Face model. If the folder holds checkpoints of the same job, it continues from the newest, and the files end in
/// the same bytes as those of an uninterrupted run. The model holds the trained weights afterwards.
///
/// # Errors
/// [`Error::Setting`] for settings that cannot work; [`Error::File`] if the folder holds another run;
/// [`Error::Run`] naming the step and the example if the loss is not finite, the checkpoints being kept;
/// [`Error::Io`] if a file cannot be read or written.
pub fn run(model: &mut Transformer, job: &Job, progress: &mut dyn FnMut(Event)) -> Result<Report> {
    let settings = job.settings;
    settings.check()?;
    if job.examples.is_empty() {
        return Err(Error::Setting("no training example".into()));
    }
    if settings.full {
        model.train_everything()?;
    } else {
        model.attach(&settings.lora, settings.seed)?;
    }
    state::claim(job.out, &state::fingerprint(model, job.examples, settings)?, settings)?;
    let mut trainer = Trainer::new(model, job)?;
    if let Some(plan) = &trainer.plan {
        progress(Event::Memory(plan));
    }
    let resumed = state::load(job.out, trainer.model, &mut trainer.optimiser.moments)?;
    let mut metrics = Metrics::resume(job.out, resumed)?;
    let begun = Instant::now();
    for step in resumed..trainer.order.steps {
        let metric = trainer.step(step)?;
        metrics.append(&metric)?;
        if let Some(metric) = trainer.evaluate(step + 1)? {
            metrics.append(&metric)?;
        }
        let stop = interrupt::requested() && step + 1 < trainer.order.steps;
        if stop || trainer.is_due(step + 1, settings.checkpoint_steps) {
            // The lines first: when a checkpoint exists, every line up to its step must be on the disk.
            metrics.sync()?;
            state::save(job.out, step + 1, trainer.model, &trainer.optimiser.moments)?;
        }
        if let Metric::Train { step, loss, learning_rate, .. } = metric {
            let (steps, tokens, elapsed) = (trainer.order.steps, trainer.tokens, begun.elapsed());
            progress(Event::Step(&Status { step, steps, loss, learning_rate, tokens, elapsed }));
        }
        if stop {
            return Err(Error::Interrupted(format!("{} holds step {}", job.out.display(), step + 1)));
        }
    }
    let steps = trainer.order.steps;
    output::write(model, job)?;
    Ok(report(steps, resumed, &metrics.read()?))
}

fn report(steps: usize, resumed: usize, metrics: &[Metric]) -> Report {
    let mut report = Report { steps, resumed, loss: f64::NAN, held_out: None };
    for metric in metrics {
        match metric {
            Metric::Train { loss, .. } => report.loss = *loss,
            Metric::HeldOut { eval_loss, .. } => report.held_out = Some(*eval_loss),
        }
    }
    report
}

struct Trainer<'a> {
    model: &'a mut Transformer,
    job: &'a Job<'a>,
    order: Order,
    optimiser: Optimiser,
    plan: Option<MemoryPlan>,
    saved: Saved,
    /// Tokens that went through the model since this process began.
    tokens: usize,
}

impl<'a> Trainer<'a> {
    fn new(model: &'a mut Transformer, job: &'a Job<'a>) -> Result<Self> {
        let optimiser = Optimiser::new(model)?;
        let order = Order::new(job.examples.len(), job.settings);
        let plan = MemoryPlan::new(model, largest_pass(&order, job))?;
        let recompute = plan.as_ref().is_some_and(|plan| plan.recompute);
        let saved = memory::purpose("activations", || {
            if recompute {
                Saved::for_recomputing(&model.spec, model.place)
            } else {
                Saved::for_training(&model.spec, model.place)
            }
        });
        Ok(Self { model, job, order, optimiser, plan, saved, tokens: 0 })
    }

    /// Makes optimiser step `step` (from 0).
    fn step(&mut self, step: usize) -> Result<Metric> {
        let settings = self.job.settings;
        let batches = self.order.step(step);
        let (mut loss, mut tokens) = (0.0, 0);
        for (number, pass) in packing::passes(self.job.examples, &batches, settings).iter().enumerate() {
            let key = Key::new(settings.seed, &["dropout", &step.to_string(), &number.to_string()]);
            let Packed { batch, rows, targets, .. } = &Packed::new(self.job.examples, pass, Some(key));
            self.model.forward(&mut self.saved, batch, &mut ())?;
            let nll = self.model.loss_gradient(&mut self.saved, rows, targets, pass.weight as f32)?;
            self.check(step, pass, &nll)?;
            self.model.backward(&mut self.saved, batch, &mut ())?;
            loss += pass.weight * sum(&nll);
            tokens += rows.len();
            self.tokens += batch.tokens.len();
        }
        let factor = settings.schedule.factor(step, settings.warmup_steps, self.order.steps);
        let learning_rate = settings.learning_rate * factor;
        let grad_norm = self.update(step, learning_rate)?;
        let epoch = (step + 1) as f64 / self.order.steps_per_epoch() as f64;
        Ok(Metric::Train { step: step + 1, epoch, loss, grad_norm, learning_rate, tokens })
    }

    /// Applies the gradients and clears them; returns their global norm before clipping.
    fn update(&mut self, step: usize, learning_rate: f64) -> Result<f64> {
        let Settings { beta1, beta2, epsilon, weight_decay, max_grad_norm, .. } = *self.job.settings;
        let betas = [beta1 as f32, beta2 as f32];
        let (lr, decay) = (learning_rate as f32, weight_decay as f32);
        let adamw = AdamW { lr, betas, eps: epsilon as f32, decay, step: step as u32 + 1 };
        let norm = self.optimiser.step(self.model, adamw, max_grad_norm)?;
        if norm.is_finite() { Ok(norm) } else { Err(self.diverged(step, "the gradient")) }
    }

    /// Whether something that happens every `every` steps, and after the last, happens after `step` steps.
    fn is_due(&self, step: usize, every: usize) -> bool {
        step == self.order.steps || every > 0 && step.is_multiple_of(every)
    }

    /// The loss on the held-out examples, if there are any and it is time.
    fn evaluate(&mut self, step: usize) -> Result<Option<Metric>> {
        let Settings { evaluate_steps, pack_tokens, .. } = *self.job.settings;
        if self.order.held_out.is_empty() || !self.is_due(step, evaluate_steps) {
            return Ok(None);
        }
        let (mut total, mut eval_tokens) = (0.0, 0);
        for pass in packing::pack(self.job.examples, &self.order.held_out, 1.0, pack_tokens) {
            let Packed { batch, rows, targets, .. } = &Packed::new(self.job.examples, &pass, None);
            self.model.forward(&mut self.saved, batch, &mut ())?;
            let nll = self.model.loss(&mut self.saved, rows, targets)?;
            self.check(step, &pass, &nll)?;
            total += sum(&nll);
            eval_tokens += rows.len();
        }
        Ok(Some(Metric::HeldOut { step, eval_loss: total / eval_tokens as f64, eval_tokens }))
    }

    /// Checks that the losses are finite; the error names the examples whose loss is not.
    fn check(&self, step: usize, pass: &Pass, nll: &[f32]) -> Result<()> {
        if nll.iter().all(|nll| nll.is_finite()) {
            return Ok(());
        }
        let packed = Packed::new(self.job.examples, pass, None);
        let broken = |i: &usize| nll[packed.rows_of(*i)].iter().any(|nll| !nll.is_finite());
        let broken = (0..pass.examples.len()).filter(broken);
        let names: Vec<String> =
            broken.map(|i| self.job.examples[pass.examples[i]].origin.to_string()).collect();
        Err(self.diverged(step, &format!("the loss of {}", names.join(", "))))
    }

    fn diverged(&self, step: usize, what: &str) -> Error {
        Error::Run(format!(
            "step {}: {what} is not finite; lower learning_rate or look at the data (checkpoints stay in {})",
            step + 1,
            self.job.out.display()
        ))
    }
}

/// Tokens of the largest pass of the whole run.
fn largest_pass(order: &Order, job: &Job) -> usize {
    let tokens = |pass: &Pass| pass.examples.iter().map(|&i| job.examples[i].text.inputs()).sum::<usize>();
    let passes = (0..order.steps)
        .flat_map(|step| packing::passes(job.examples, &order.step(step), job.settings))
        .chain(packing::pack(job.examples, &order.held_out, 1.0, job.settings.pack_tokens));
    passes.map(|pass| tokens(&pass)).max().unwrap_or(0)
}

fn sum(nll: &[f32]) -> f64 {
    nll.iter().copied().map(f64::from).sum()
}
