//! p values of a family of tests, corrected for their number.

use serde::{Deserialize, Serialize};

/// How the p values of a family are corrected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Correction {
    /// Not at all.
    None,
    /// Times the number of tests (Bonferroni): the family-wise error rate.
    Bonferroni,
    /// Step-down (Holm 1979): the same guarantee, never less power.
    #[default]
    Holm,
    /// Step-up (Benjamini & Hochberg 1995): the false discovery rate.
    BenjaminiHochberg,
}

impl Correction {
    /// Its name in plans and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Bonferroni => "Bonferroni",
            Self::Holm => "Holm",
            Self::BenjaminiHochberg => "Benjamini–Hochberg",
        }
    }
}

/// The corrected p values, in the order of `p` (`statsmodels.stats.multitest.multipletests`; methods `bonferroni`,
/// `holm`, `fdr_bh`).
pub fn adjust(p: &[f64], correction: Correction) -> Vec<f64> {
    let m = p.len();
    let mut order: Vec<usize> = (0..m).collect();
    order.sort_by(|&i, &j| p[i].total_cmp(&p[j]));
    let mut adjusted = p.to_vec();
    match correction {
        Correction::None => {}
        Correction::Bonferroni => adjusted.iter_mut().for_each(|p| *p = (*p * m as f64).min(1.0)),
        Correction::Holm => {
            let mut highest = 0.0_f64;
            for (rank, &i) in order.iter().enumerate() {
                highest = highest.max(p[i] * (m - rank) as f64).min(1.0);
                adjusted[i] = highest;
            }
        }
        Correction::BenjaminiHochberg => {
            let mut lowest = 1.0_f64;
            for (rank, &i) in order.iter().enumerate().rev() {
                lowest = lowest.min(p[i] * m as f64 / (rank + 1) as f64);
                adjusted[i] = lowest;
            }
        }
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corrections_are_ordered() {
        let p = [0.01, 0.04, 0.03, 0.04, 0.9, 0.0];
        let [bonferroni, holm, fdr] =
            [Correction::Bonferroni, Correction::Holm, Correction::BenjaminiHochberg]
                .map(|correction| adjust(&p, correction));
        for i in 0..p.len() {
            assert!(p[i] <= fdr[i] && fdr[i] <= holm[i] && holm[i] <= bonferroni[i] && bonferroni[i] <= 1.0);
        }
        assert_eq!(adjust(&p, Correction::None), p);
        assert!(adjust(&[], Correction::Holm).is_empty());
        assert_eq!(adjust(&[0.2], Correction::Holm), [0.2]);
    }
}
