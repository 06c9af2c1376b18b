//! The gated linear unit, forward and backward.

use emlab::ops::glu::{self, Activation};

use super::{DTYPES, card, close, host, poisoned, random, twice, upload};

#[test]
fn glu_forward_and_backward() {
    let Some(card) = card() else { return };
    for [n, f] in [[5, 37], [3, 1], [130, 640], [65, 6912], [1, 4096], [40, 9728]] {
        for activation in [Activation::GeluTanh, Activation::Silu] {
            for dtype in DTYPES {
                let name = |what: &str| format!("{what} of {n} × {f}, {activation:?}");
                // Far out on both sides, too.
                let mut x = random("gate_up", &[n, 2 * f], dtype);
                for (i, x) in x.f32_mut().iter_mut().enumerate() {
                    *x *= [1.0, 4.0, 16.0, 128.0][i % 4];
                }
                let dy = random("dy", &[n, f], dtype);
                let (mut y, mut dx) = (host(&[n, f]), host(&[n, 2 * f]));
                glu::forward(&mut y, &x, activation).unwrap();
                glu::backward(&mut dx, &dy, &x, activation).unwrap();
                let [x, dy] = [&x, &dy].map(|t| upload(t, dtype, card));
                let [gy, gdx] = twice(&name("glu"), || {
                    let (mut y, mut dx) =
                        (poisoned(&[n, f], dtype, card), poisoned(&[n, 2 * f], dtype, card));
                    glu::forward(&mut y, &x, activation).unwrap();
                    glu::backward(&mut dx, &dy, &x, activation).unwrap();
                    [y, dx]
                });
                close(&name("y"), &gy, &y);
                close(&name("dgate_up"), &gdx, &dx);
            }
        }
    }
}
