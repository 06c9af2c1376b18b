//! What is timed: each op at the sizes of a model.

mod attention;
mod linear;
mod rows;

use std::collections::HashSet;

use super::case::{Case, ModelSizes};
use super::inputs::Inputs;
use crate::Result;
use crate::model::cards::Card;

/// The cases whose rates are the limits of the machine are never left out: copies, and a product as large as any.
///
/// # Errors
/// If the card describes no model that this engine computes.
pub fn limits(model: &Card, n: usize, inputs: &Inputs) -> Result<Vec<Case>> {
    let mut limits = rows::copies(inputs);
    limits.push(linear::product(&ModelSizes::new(model, n, inputs)?));
    Ok(limits)
}

/// Every case of these models for passes of `n` tokens, ordered by op.
///
/// # Errors
/// As [`limits`].
pub fn all(models: &[Card], n: usize, inputs: &Inputs) -> Result<Vec<Case>> {
    let groups = [rows::embedding, rows::norm, rows::rope, rows::glu, linear::cases, attention::cases];
    let groups = groups.into_iter().chain([rows::linear_cross_entropy, rows::sample]);
    let models =
        models.iter().map(|card| ModelSizes::new(card, n, inputs)).collect::<Result<Vec<ModelSizes>>>()?;
    let mut cases: Vec<Case> = groups.flat_map(|group| models.iter().flat_map(group)).collect();
    cases.extend(rows::adamw(n));
    // A small pass may have as many rows as one of decoding.
    let mut seen = HashSet::new();
    cases.retain(|case| seen.insert((case.op, case.model.clone(), case.sizes.clone())));
    Ok(cases)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::cards;
    use crate::model::place::Place;

    #[test]
    fn cases_have_names_of_their_own_and_some_work_to_do() {
        let cases = all(&cards::all(), 4096, &Inputs::new(Place::CPU)).unwrap();
        let mut names: Vec<_> = cases.iter().map(|case| (case.op, &case.model, &case.sizes)).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(cases.iter().all(|case| case.bytes > 0.0 && !case.sizes.contains(',')));
    }
}
