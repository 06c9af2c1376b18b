//! [`Cache`]: keys and values of many sequences, in pages of [`PAGE`] positions.
//!
//! A sequence is a list of pages. A fork shares the full pages of its parent and copies the last one if it is only
//! partly filled, so a hundred samples of one question hold its prompt once.

use crate::device::{Tensor, memory};
use crate::error::{Error, Result};
use crate::model::place::Place;
use crate::model::spec::Spec;
use crate::ops::attention::{Contexts, PAGE};

/// One position to compute: the next one of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SequenceRow {
    /// The sequence, as [`Cache::add`] or [`Cache::fork`] named it.
    pub sequence: usize,
    /// The position in it, from 0.
    pub position: usize,
}

#[derive(Clone, Debug, Default)]
struct Sequence {
    pages: Vec<u32>,
    length: usize,
}

/// Paged keys and values of every layer.
#[derive(Debug)]
pub struct Cache {
    /// Keys and values ((pages + 1) · [`PAGE`], KV·D) of each layer. The last page is for rows that are padding.
    layers: Vec<[Tensor; 2]>,
    /// How many sequences hold each page.
    holders: Vec<u32>,
    free: Vec<u32>,
    sequences: Vec<Option<Sequence>>,
}

impl Cache {
    /// Room for `pages` pages a layer.
    ///
    /// # Errors
    /// [`Error::Memory`] if they do not fit on the GPU.
    pub fn new(spec: &Spec, place: Place, pages: usize) -> Result<Self> {
        let shape = [(pages + 1) * PAGE, spec.kv_heads * spec.head_dim];
        let tensor = || Tensor::zeros_on(place.device, place.real, &shape);
        let layer = |_| Ok([tensor()?, tensor()?]);
        Ok(Self {
            layers: memory::purpose("cache", || (0..spec.layers).map(layer).collect::<Result<_>>())?,
            holders: vec![0; pages],
            free: (0..pages as u32).rev().collect(),
            sequences: Vec::new(),
        })
    }

    /// Bytes that one page takes in all layers together.
    pub fn page_bytes(spec: &Spec, place: Place) -> usize {
        2 * spec.layers * PAGE * spec.kv_heads * spec.head_dim * place.real.size()
    }

    /// Pages that `positions` positions need.
    pub fn pages_for(positions: usize) -> usize {
        positions.div_ceil(PAGE)
    }

    /// Pages that no sequence holds.
    pub fn free_pages(&self) -> usize {
        self.free.len()
    }

    /// A new, empty sequence.
    pub fn add(&mut self) -> usize {
        self.insert(Sequence::default())
    }

    /// A new sequence that begins with all of `parent`.
    ///
    /// # Errors
    /// [`Error::Run`] if no page is left for the copy of a part-filled page.
    pub fn fork(&mut self, parent: usize) -> Result<usize> {
        let mut child = self.sequence(parent).clone();
        let full = child.length / PAGE;
        if full < child.pages.len() {
            let copy = self.take_page()?;
            let last = std::mem::replace(&mut child.pages[full], copy);
            for tensor in self.layers.iter_mut().flatten() {
                let width = tensor.shape()[1] * PAGE;
                tensor.copy_within(last as usize * width, copy as usize * width, width)?;
            }
        }
        for page in &child.pages[..full] {
            self.holders[*page as usize] += 1;
        }
        Ok(self.insert(child))
    }

    /// Removes a sequence. Its pages become free once no fork holds them.
    pub fn remove(&mut self, sequence: usize) {
        let gone = self.sequences[sequence].take().expect("a sequence that exists");
        for page in gone.pages {
            self.holders[page as usize] -= 1;
            if self.holders[page as usize] == 0 {
                self.free.push(page);
            }
        }
    }

    /// Removes all sequences.
    pub fn clear(&mut self) {
        self.sequences.clear();
        self.free = (0..self.holders.len() as u32).rev().collect();
        self.holders.fill(0);
    }

    /// Positions held for a sequence.
    pub fn length(&self, sequence: usize) -> usize {
        self.sequence(sequence).length
    }

    /// Makes room for the next position of each row's sequence.
    ///
    /// # Errors
    /// [`Error::Run`] if no page is left.
    pub(super) fn extend(&mut self, rows: &[SequenceRow]) -> Result<()> {
        for row in rows {
            assert_eq!(row.position, self.length(row.sequence), "positions of a sequence come in order");
            if row.position % PAGE == 0 {
                let page = self.take_page()?;
                self.sequence_mut(row.sequence).pages.push(page);
            }
            self.sequence_mut(row.sequence).length += 1;
        }
        Ok(())
    }

    /// Keys and values of a layer.
    pub(super) fn layer(&self, layer: usize) -> [&Tensor; 2] {
        self.layers[layer].each_ref()
    }

    /// [`layer`](Self::layer), to be written.
    pub(super) fn layer_mut(&mut self, layer: usize) -> [&mut Tensor; 2] {
        self.layers[layer].each_mut()
    }

    /// Pages of the longest of the rows' sequences.
    pub(super) fn most_pages(rows: &[SequenceRow]) -> usize {
        rows.iter().map(|row| row.position / PAGE + 1).max().unwrap_or(1)
    }

    /// Writes the pages of each row's sequence into the table of `contexts`, `most` pages a row; the positions are set already.
    /// Any rows of the pass beyond `rows` are padding and get the cache's last page.
    pub(super) fn locate(&self, contexts: &mut Contexts, rows: &[SequenceRow], most: usize) -> Result<()> {
        let all = contexts.positions.len();
        let mut pages = vec![self.holders.len() as u32; all * most];
        for (row, out) in rows.iter().zip(pages.chunks_exact_mut(most)) {
            let used = row.position / PAGE + 1;
            out[..used].copy_from_slice(&self.sequence(row.sequence).pages[..used]);
        }
        contexts.pages.set(&[all, most], &pages)
    }

    fn insert(&mut self, sequence: Sequence) -> usize {
        if let Some(id) = self.sequences.iter().position(Option::is_none) {
            self.sequences[id] = Some(sequence);
            return id;
        }
        self.sequences.push(Some(sequence));
        self.sequences.len() - 1
    }

    fn take_page(&mut self) -> Result<u32> {
        let page = self.free.pop().ok_or_else(|| {
            Error::Run("the key-value cache is full: fewer answers at a time or fewer tokens will fit".into())
        })?;
        self.holders[page as usize] = 1;
        Ok(page)
    }

    fn sequence(&self, id: usize) -> &Sequence {
        self.sequences[id].as_ref().expect("a sequence that exists")
    }

    fn sequence_mut(&mut self, id: usize) -> &mut Sequence {
        self.sequences[id].as_mut().expect("a sequence that exists")
    }
}
