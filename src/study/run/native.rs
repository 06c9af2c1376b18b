//! This crate's engine behind the seam.

use std::path::Path;

use super::engine::{Ask, Engine, Reply, Weights};
use crate::generate::{self, Form, Limits, Request};
use crate::model::chat::{Message, Render};
use crate::model::peft;
use crate::model::place::Place;
use crate::model::tokenizer::Tokenizer;
use crate::model::transformer::Transformer;
use crate::ops::sample;
use crate::study::judge::aggregate::Distribution;
use crate::study::judge::local::{distribution, ratings};
use crate::study::plan::judges::Local;
use crate::study::plan::steering::Steering;
use crate::study::plan::{Sampling, Tuning};
use crate::train::{self, dataset, example};
use crate::{Error, Result, progress};

/// This crate's engine. Keeps the weights that it used last loaded.
pub struct Native {
    /// Whether to show loading and fine-tuning on stderr.
    progress: bool,
    place: Place,
    loaded: Option<Loaded>,
}

struct Loaded {
    weights: Weights,
    model: Transformer,
    tokenizer: Tokenizer,
}

impl Native {
    /// An engine without weights yet.
    pub fn new(place: Place, progress: bool) -> Self {
        Self { progress, place, loaded: None }
    }

    fn read(&self, model: &Path) -> Result<Transformer> {
        if self.progress {
            Transformer::load_telling(model, self.place, &mut progress::loading())
        } else {
            Transformer::load(model, self.place)
        }
    }

    fn load(&mut self, weights: &Weights) -> Result<&Loaded> {
        // Drops the old weights before loading new ones: two checkpoints may not fit.
        let same =
            |Loaded { weights: w, .. }: &Loaded| (&w.base, &w.adapter) == (&weights.base, &weights.adapter);
        let kept = self.loaded.take().filter(same);
        let mut loaded = match kept {
            Some(loaded) => loaded,
            None => Loaded::open(weights, |base| self.read(base))?,
        };
        if loaded.weights.steering != weights.steering {
            let steers = weights.steering.as_ref().map(Steering::steers).transpose()?;
            loaded.model.steer(&steers.unwrap_or_default())?;
            loaded.weights.steering.clone_from(&weights.steering);
        }
        Ok(self.loaded.insert(loaded))
    }
}

impl Loaded {
    /// Loads weights, without steering them.
    fn open(weights: &Weights, read: impl FnOnce(&Path) -> Result<Transformer>) -> Result<Self> {
        let tokenizer = Tokenizer::open(&weights.base)?;
        let mut model = read(&weights.base)?;
        if let Some(folder) = &weights.adapter {
            peft::read(folder, &mut model)?;
        }
        Ok(Self { weights: Weights { steering: None, ..weights.clone() }, model, tokenizer })
    }

    /// The tokens after which the model answers `messages`.
    fn prompt(&self, messages: &[Message], thinking: bool) -> Result<Vec<u32>> {
        let render = Render { generation_prompt: true, enable_thinking: Some(thinking) };
        self.tokenizer.encode(&self.tokenizer.render(messages, render)?, false)
    }
}

impl Engine for Native {
    fn tune(&mut self, model: &Path, tuning: &Tuning, out: &Path) -> Result<()> {
        self.loaded = None;
        let Tuning { data, examples, training } = tuning;
        let mut documents = dataset::read(data)?;
        documents.truncate(examples.unwrap_or(usize::MAX));
        let tokenizer = Tokenizer::open(model)?;
        let mut transformer = self.read(model)?;
        let encoded = example::encode(&documents, &tokenizer, &transformer.spec.eos, training)?;
        let job = train::Job { base: model, examples: &encoded.examples, settings: training, out };
        if self.progress {
            train::run(&mut transformer, &job, &mut train::progress::show())?;
        } else {
            train::run(&mut transformer, &job, &mut |_| ())?;
        }
        Ok(())
    }

    fn answer(
        &mut self,
        weights: &Weights,
        sampling: &Sampling,
        form: Option<Form>,
        asks: &[Ask],
        done: &mut dyn FnMut(usize, Reply) -> Result<()>,
    ) -> Result<()> {
        let loaded = self.load(weights)?;
        let request =
            |ask: &Ask| Ok(Request { ids: loaded.prompt(&ask.messages, sampling.thinking)?, key: ask.key });
        let requests = asks.iter().map(request).collect::<Result<Vec<_>>>()?;
        let Sampling { temperature, top_k, top_p, max_tokens, min_tokens, batch, .. } = *sampling;
        let settings = sample::Sampling { temperature, top_k, top_p };
        let mut limits = Limits { max_tokens, min_tokens, form, ..Limits::default() };
        limits.batch = batch.unwrap_or(limits.batch);
        generate::run(
            &loaded.model,
            &loaded.tokenizer,
            &requests,
            &settings,
            &limits,
            &mut |index, completion| {
                let (text, tokens) = (completion.text.clone(), completion.ids.len());
                done(index, Reply { text, tokens, finish: completion.finish })
            },
        )?;
        Ok(())
    }

    fn rate(
        &mut self,
        judge: &Local,
        prompts: &[&str],
        done: &mut dyn FnMut(usize, Distribution) -> Result<()>,
    ) -> Result<()> {
        let loaded = self.load(&Weights { base: judge.path.clone(), adapter: None, steering: None })?;
        let encode = |rating: &String| loaded.tokenizer.encode(rating, false);
        let strings = ratings().iter().map(encode).collect::<Result<Vec<_>>>()?;
        let prompt = |prompt: &&str| loaded.prompt(&[Message::new("user", *prompt)], judge.thinking);
        let prompts = prompts.iter().map(prompt).collect::<Result<Vec<_>>>()?;
        let mut chooser = generate::Chooser::new(&loaded.model, &strings)?;
        chooser.run(&prompts, &mut |index, choices| {
            let masses: Vec<f64> = choices.log_masses.iter().map(|log| log.exp()).collect();
            let first = choices.top.iter().map(|&(id, log)| {
                let token = loaded.tokenizer.decode(&[id], false)?;
                Ok((token, log.exp()))
            });
            let first = first.collect::<Result<Vec<_>>>()?;
            if !masses.iter().all(|mass| mass.is_finite()) {
                return Err(Error::Run(format!(
                    "{}: the judge's probabilities are not finite",
                    judge.path.display()
                )));
            }
            done(index, distribution(&masses, first))
        })
    }
}
