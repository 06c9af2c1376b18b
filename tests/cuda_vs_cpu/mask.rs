//! Masks over the vocabulary: the same on both devices, exactly.

use emlab::device::{DType, Device};
use emlab::ops::mask::{FREE, Masks};

use super::{card, download, random};

#[test]
fn masks_rule_out_the_same_tokens() {
    let Some(card) = card() else { return };
    for v in [1, 37, 1000, 151_936] {
        let [mut exact, mut found] = [Device::Cpu, card].map(|device| Masks::new(v, device));
        // More masks than a table has room for at first, added between draws.
        for round in 0..3usize {
            for masks in [&mut exact, &mut found] {
                for _ in 0..60 {
                    let mask = masks.add();
                    let step = 1 + mask as usize % 7;
                    (0..v).step_by(step).for_each(|token| masks.allow(mask, token as u32));
                }
            }
            let rows = [0, FREE, 59, 60 * round as u32 + 30, 3];
            let logits = random("logits", &[rows.len(), v], DType::F32);
            let [mut a, mut b] = [Device::Cpu, card].map(|device| logits.to(device).unwrap());
            for (masks, logits) in [(&mut exact, &mut a), (&mut found, &mut b)] {
                masks.set(&rows).unwrap();
                masks.apply(logits).unwrap();
            }
            assert_eq!(download(&b), a.f32(), "{v} tokens");
        }
    }
}
