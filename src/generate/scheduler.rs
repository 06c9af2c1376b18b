//! Continuous batching. Prompts are prefilled one at a time, identical ones once; then all active requests advance together
//! by one token a step, and when one finishes the next in the queue takes its place.
//!
//! A request's text depends on its prompt, its key and the settings, never on the other requests of its batch: a
//! prefill holds one prompt, a decode step at most [`stable_rows`] rows, and a draw is keyed by request and position.

use std::collections::{HashMap, HashSet, VecDeque};

use serde::{Deserialize, Serialize};

use super::grammar::{Grammar, GrammarState};
use super::memory::cache_bytes;
use crate::device::Tensor;
use crate::device::philox::Key;
use crate::error::{Error, Result};
use crate::interrupt;
use crate::model::cache::{Cache, SequenceRow};
use crate::model::decoder::Decoder;
use crate::model::saved::Saved;
use crate::model::tokenizer::Tokenizer;
use crate::model::transformer::Transformer;
use crate::ops::linear::stable_rows;
use crate::ops::mask::Masks;
use crate::ops::sample::{self, Draw, Sampling};

/// A prompt to be continued.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The prompt's tokens.
    pub ids: Vec<u32>,
    /// The key of the random numbers for its continuation.
    pub key: Key,
}

/// How long continuations may be, and how much memory they may use.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Most new tokens.
    pub max_tokens: usize,
    /// Fewest new tokens: end-of-turn tokens cannot be drawn before, unless the form is complete.
    pub min_tokens: usize,
    /// Stop texts: they end a continuation and are cut from it.
    pub stop: Vec<String>,
    /// The form to which continuations are constrained, if any.
    pub form: Option<Form>,
    /// Most requests that advance together; at most [`stable_rows`] are used.
    pub batch: usize,
    /// Bytes that the cache of keys and values may take; by default 2 GiB of the host's memory, or all free memory of
    /// the GPU less a reserve.
    pub cache_bytes: Option<usize>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_tokens: 600,
            min_tokens: 1,
            stop: Vec::new(),
            form: None,
            batch: usize::MAX,
            cache_bytes: None,
        }
    }
}

/// A form to which a text can be constrained: tokens that would break it cannot be drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One JSON object and nothing else.
    JsonObject,
}

/// Why a continuation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Finish {
    /// The model ended its turn.
    Eos,
    /// It reached the longest length, or the end of the model's context.
    Length,
    /// It wrote one of the stop texts.
    Stop,
}

/// A finished continuation.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// The new tokens, the end-of-turn token included.
    pub ids: Vec<u32>,
    /// Their text, without special tokens.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
}

/// Continues every request, and returns the continuations in the order of the requests. `on_done` is called with the
/// index of each as soon as it is finished; its error ends the call.
///
/// # Errors
/// [`Error::Setting`] for a prompt that is empty, longer than the model's context or too large for the cache, and
/// whatever `on_done` returns.
pub fn run(
    model: &Transformer,
    tokenizer: &Tokenizer,
    requests: &[Request],
    sampling: &Sampling,
    limits: &Limits,
    on_done: &mut dyn FnMut(usize, &Completion) -> Result<()>,
) -> Result<Vec<Completion>> {
    let mut done: Vec<Option<Completion>> = vec![None; requests.len()];
    Scheduler::new(model, tokenizer, requests, sampling, limits)?.run(&mut |event| {
        if let RequestEvent::Done(request, completion) = event {
            on_done(request, &completion)?;
            done[request] = Some(completion);
        }
        Ok(())
    })?;
    Ok(done.into_iter().map(|done| done.expect("the scheduler finishes every request")).collect())
}

/// Continues one request, passing its text to `on_text` piece by piece.
///
/// # Errors
/// As [`run`], and whatever `on_text` returns.
pub fn stream(
    model: &Transformer,
    tokenizer: &Tokenizer,
    request: &Request,
    sampling: &Sampling,
    limits: &Limits,
    on_text: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<Completion> {
    let mut shown = 0;
    let mut last = None;
    let requests = std::slice::from_ref(request);
    Scheduler::new(model, tokenizer, requests, sampling, limits)?.run(&mut |event| {
        let text = match event {
            RequestEvent::Token(ids) => tokenizer.decode(ids, true)?,
            RequestEvent::Done(_, completion) => last.insert(completion).text.clone(),
        };
        // A character may need several tokens, and the beginning of a possible stop text must not be shown yet.
        let whole = !text.ends_with('\u{FFFD}') && !limits.stop.iter().any(|stop| may_become(&text, stop));
        if last.is_some() || whole {
            on_text(text.get(shown..).unwrap_or_default())?;
            shown = text.len();
        }
        Ok(())
    })?;
    Ok(last.expect("the scheduler finishes every request"))
}

/// Whether `text` ends in a beginning of `stop`.
fn may_become(text: &str, stop: &str) -> bool {
    (1..=stop.len()).any(|n| stop.is_char_boundary(n) && text.ends_with(&stop[..n]))
}

/// An event that the scheduler reports to its caller.
enum RequestEvent<'a> {
    /// A request continues; its new tokens so far.
    Token(&'a [u32]),
    /// A request, by index, is finished.
    Done(usize, Completion),
}

type OnEvent<'f> = &'f mut dyn FnMut(RequestEvent) -> Result<()>;

/// A request that is being continued.
struct Active {
    request: usize,
    /// Its sequence in the cache.
    sequence: usize,
    /// The new tokens; the last one is not in the cache yet.
    ids: Vec<u32>,
    /// Where they are in the grammar, if there is one.
    state: GrammarState,
}

/// Requests with the same prompt.
struct PromptGroup {
    waiting: VecDeque<usize>,
    /// Once the prompt is in the cache: its sequence, and the logits (1, V) of the first new token.
    prefilled: Option<(usize, Tensor)>,
}

struct Scheduler<'a> {
    model: &'a Transformer,
    tokenizer: &'a Tokenizer,
    requests: &'a [Request],
    sampling: &'a Sampling,
    limits: &'a Limits,
    /// Pages of the cache.
    pages: usize,
    decoder: Decoder<'a>,
    /// Of prompts.
    scratch: Saved,
    logits: Tensor,
    /// The grammar of the form, if there is one.
    grammar: Option<(Grammar, Masks)>,
    queue: VecDeque<PromptGroup>,
    active: Vec<Active>,
}

impl<'a> Scheduler<'a> {
    fn new(
        model: &'a Transformer,
        tokenizer: &'a Tokenizer,
        requests: &'a [Request],
        sampling: &'a Sampling,
        limits: &'a Limits,
    ) -> Result<Self> {
        sampling.check()?;
        if limits.max_tokens == 0 || limits.batch == 0 {
            return Err(Error::Setting("sampling needs max_tokens and batch of at least 1".into()));
        }
        let mut groups: HashMap<&[u32], usize> = HashMap::new();
        let mut queue: VecDeque<PromptGroup> = VecDeque::new();
        for (index, Request { ids, .. }) in requests.iter().enumerate() {
            if ids.is_empty() {
                return Err(Error::Setting("a prompt is empty: there is nothing to continue".into()));
            }
            if ids.len() >= model.spec.context {
                let (found, limit) = (ids.len(), model.spec.context);
                return Err(Error::Setting(format!(
                    "a prompt of {found} tokens fills the context of {limit}: shorten it"
                )));
            }
            let group = *groups.entry(ids).or_insert_with(|| {
                queue.push_back(PromptGroup { waiting: VecDeque::new(), prefilled: None });
                queue.len() - 1
            });
            queue[group].waiting.push_back(index);
        }
        let mut scheduler = Self {
            model,
            tokenizer,
            requests,
            sampling,
            limits,
            pages: 0,
            decoder: Decoder::new(model, Cache::new(&model.spec, model.place, 0)?, *sampling),
            scratch: Saved::for_inference(&model.spec, model.place),
            logits: model.logits_tensor(),
            grammar: limits.form.map(|Form::JsonObject| {
                let grammar = Grammar::new(tokenizer, model.spec.vocab, &model.spec.eos);
                (grammar, Masks::new(model.spec.vocab, model.place.device))
            }),
            queue,
            active: Vec::new(),
        };
        // No more than all requests together could use.
        let most = scheduler.pages_of(0..requests.len());
        scheduler.pages =
            most.min(cache_bytes(model, limits.cache_bytes)? / Cache::page_bytes(&model.spec, model.place));
        scheduler.decoder =
            Decoder::new(model, Cache::new(&model.spec, model.place, scheduler.pages)?, *sampling);
        Ok(scheduler)
    }

    fn run(mut self, on_event: OnEvent) -> Result<()> {
        loop {
            interrupt::check()?;
            while self.has_room()? {
                self.admit(on_event)?;
            }
            if self.active.is_empty() {
                return Ok(());
            }
            self.advance(on_event)?;
        }
    }

    /// The most tokens of a request and its continuation together.
    fn longest(&self, request: usize) -> usize {
        self.model.spec.context.min(self.requests[request].ids.len() + self.limits.max_tokens)
    }

    /// Whether a request is waiting that fits in the cache at its full length, beside the active ones and the prompt they share.
    fn has_room(&self) -> Result<bool> {
        let Some(&request) = self.queue.front().and_then(|group| group.waiting.front()) else {
            return Ok(false);
        };
        if self.active.len() >= self.limits.batch.min(stable_rows(self.model.place.device)) {
            return Ok(false);
        }
        let with_it = self.active.iter().map(|active| active.request).chain([request]);
        let room = self.pages_of(with_it) <= self.pages;
        if room || !self.active.is_empty() {
            return Ok(room);
        }
        let bytes = self.pages_of([request]) * Cache::page_bytes(&self.model.spec, self.model.place);
        let (prompt, mib) = (self.requests[request].ids.len(), bytes.div_ceil(1 << 20));
        Err(Error::Setting(format!(
            "a prompt of {prompt} tokens needs {mib} MiB of cache with its answer: allow more, or lower max_tokens"
        )))
    }

    /// Pages that requests use at most if they run together, full pages of equal prompts being shared.
    fn pages_of(&self, requests: impl IntoIterator<Item = usize>) -> usize {
        let mut prompts: HashSet<&[u32]> = HashSet::new();
        let pages = requests.into_iter().map(|request| {
            let prompt = self.requests[request].ids.as_slice();
            let whole = Cache::pages_for(self.longest(request));
            // The prompt's own sequence, from which its requests are forked, also holds the last page of the prompt.
            if prompts.insert(prompt) { whole + 1 } else { whole - (Cache::pages_for(prompt.len() + 1) - 1) }
        });
        pages.sum()
    }

    /// Starts the next request of the queue: draws its first token from its prompt's logits.
    fn admit(&mut self, on_event: OnEvent) -> Result<()> {
        let request = self.queue[0].waiting[0];
        if self.queue[0].prefilled.is_none() {
            self.queue[0].prefilled = Some(self.prefill(request)?);
        }
        let group = &mut self.queue[0];
        group.waiting.pop_front();
        let (prompt, logits) = group.prefilled.as_ref().expect("prefilled above");
        self.logits.resize(logits.shape())?;
        self.logits.copy_from(logits)?;
        let sequence = self.decoder.cache_mut().fork(*prompt)?;
        if group.waiting.is_empty() {
            self.decoder.cache_mut().remove(*prompt);
            self.queue.pop_front();
        }
        let started = Active { request, sequence, ids: Vec::new(), state: GrammarState::START };
        let mut token = [0];
        let draw = self.next_draw(&started);
        if let Some((grammar, masks)) = &mut self.grammar {
            let mask = grammar.mask(masks, started.state)?;
            masks.set(&[mask])?;
            masks.apply(&mut self.logits)?;
        }
        sample::forward(&mut token, &mut self.logits, *self.sampling, &[draw])?;
        let started = self.extended(vec![started], &token);
        self.settle(started, on_event)
    }

    /// Puts a request's prompt into the cache: its sequence, and the logits of the token after it.
    fn prefill(&mut self, request: usize) -> Result<(usize, Tensor)> {
        let ids = &self.requests[request].ids;
        let sequence = self.decoder.cache_mut().add();
        let rows: Vec<SequenceRow> =
            (0..ids.len()).map(|position| SequenceRow { sequence, position }).collect();
        self.model.infer(&mut self.scratch, self.decoder.cache_mut(), ids, &rows)?;
        self.model.logits(&mut self.logits, &mut self.scratch, &[ids.len() as u32 - 1])?;
        Ok((sequence, self.logits.to(self.logits.device())?))
    }

    /// Advances every active request by one token.
    fn advance(&mut self, on_event: OnEvent) -> Result<()> {
        let active = std::mem::take(&mut self.active);
        let mut tokens = Vec::with_capacity(active.len());
        let mut rows = Vec::with_capacity(active.len());
        for Active { sequence, ids, .. } in &active {
            tokens.push(*ids.last().expect("an active request has a first token"));
            rows.push(SequenceRow { sequence: *sequence, position: self.decoder.cache().length(*sequence) });
        }
        let draws: Vec<Draw> = active.iter().map(|active| self.next_draw(active)).collect();
        let mut masked = Vec::new();
        if let Some((grammar, masks)) = &mut self.grammar {
            let mask = |active: &Active| grammar.mask(masks, active.state);
            masked = active.iter().map(mask).collect::<Result<_>>()?;
        }
        let masks = self.grammar.as_mut().map(|(_, masks)| (masks, &masked[..]));
        self.decoder.step(&mut tokens, &rows, &draws, masks)?;
        let active = self.extended(active, &tokens);
        self.settle(active, on_event)
    }

    /// The requests with one more token each.
    fn extended(&self, mut active: Vec<Active>, tokens: &[u32]) -> Vec<Active> {
        for (active, token) in active.iter_mut().zip(tokens) {
            active.ids.push(*token);
            if let Some((grammar, _)) = &self.grammar {
                active.state = grammar.after(active.state, *token);
            }
        }
        active
    }

    /// The inputs of the draw of a request's next token.
    fn next_draw(&self, Active { request, ids, state, .. }: &Active) -> Draw<'a> {
        // A complete object cannot be continued.
        let too_short = ids.len() < self.limits.min_tokens && !state.is_whole();
        Draw {
            key: self.requests[*request].key,
            position: ids.len() as u32,
            forbidden: if too_short { &self.model.spec.eos } else { &[] },
        }
    }

    /// Reports each request's new token to the caller, and keeps the requests active that continue.
    fn settle(&mut self, active: Vec<Active>, on_event: OnEvent) -> Result<()> {
        for active in active {
            if let Some((text, finish)) = self.finished(&active)? {
                self.decoder.cache_mut().remove(active.sequence);
                on_event(RequestEvent::Done(active.request, Completion { ids: active.ids, text, finish }))?;
            } else {
                on_event(RequestEvent::Token(&active.ids))?;
                self.active.push(active);
            }
        }
        Ok(())
    }

    /// The text of a request that its last token ends, and why it ends.
    fn finished(&self, Active { request, ids, .. }: &Active) -> Result<Option<(String, Finish)>> {
        if ids.last().is_some_and(|last| self.model.spec.eos.contains(last)) {
            return Ok(Some((self.tokenizer.decode(&ids[..ids.len() - 1], true)?, Finish::Eos)));
        }
        let full = self.requests[*request].ids.len() + ids.len() >= self.longest(*request);
        if !full && self.limits.stop.is_empty() {
            return Ok(None);
        }
        let mut text = self.tokenizer.decode(ids, true)?;
        if let Some(cut) = self.limits.stop.iter().filter_map(|stop| text.find(stop)).min() {
            text.truncate(cut);
            return Ok(Some((text, Finish::Stop)));
        }
        Ok(full.then_some((text, Finish::Length)))
    }
}
