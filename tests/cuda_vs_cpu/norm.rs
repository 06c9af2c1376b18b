//! RMSNorm, alone and after the addition to the stream.

use emlab::device::{DType, Device, Tensor};
use emlab::ops::norm::{self, Gain, Norm};

use super::{DTYPES, card, close, download, host, poisoned, random, twice, upload};

/// Rows and width: odd ones, more rows than a card has under way 32 times, then the widths of the models.
const CASES: [[usize; 2]; 10] = [
    [5, 37],
    [3, 3],
    [7, 1000],
    [2, 5377],
    [5000, 1021],
    [33, 640],
    [600, 1152],
    [70, 2560],
    [300, 4096],
    [9, 5376],
];

fn compare([n, c]: [usize; 2], norm: Norm, dtype: DType, card: Device) {
    let name = |what: &str| format!("{what} of {n} × {c}, {:?}", norm.gain);
    let make = |name: &str| random(name, &[n, c], dtype);
    let [x, delta, dy, stream] = ["x", "delta", "dy", "stream"].map(make);
    let [w, before] = ["w", "dw"].map(|name| random(name, &[c], DType::F32));
    let [gx, gdelta, gdy] = [&x, &delta, &dy].map(|t| upload(t, dtype, card));
    let gw = w.to(card).unwrap();

    let (mut y, mut r) = (host(&[n, c]), host(&[n]));
    norm::forward(&mut y, &mut r, &x, &w, norm).unwrap();
    let [gy, gr] = twice(&name("forward"), || {
        let (mut y, mut r) = (poisoned(&[n, c], dtype, card), poisoned(&[n], DType::F32, card));
        norm::forward(&mut y, &mut r, &gx, &gw, norm).unwrap();
        [y, r]
    });
    close(&name("y"), &gy, &y);
    close(&name("r"), &gr, &r);

    // The norm is that of the sum as it was stored.
    let [gsum, gy, gr] = twice(&name("add_forward"), || {
        let [mut sum, mut y] = [0, 1].map(|_| poisoned(&[n, c], dtype, card));
        let mut r = poisoned(&[n], DType::F32, card);
        norm::add_forward(&mut sum, &mut y, &mut r, &gx, &gdelta, &gw, norm).unwrap();
        [sum, y, r]
    });
    let (mut sum, mut y) = (host(&[n, c]), host(&[n, c]));
    norm::add_forward(&mut sum, &mut y, &mut r, &x, &delta, &w, norm).unwrap();
    close(&name("sum"), &gsum, &sum);
    let sum = Tensor::from_f32(&[n, c], download(&gsum));
    norm::forward(&mut y, &mut r, &sum, &w, norm).unwrap();
    close(&name("y of sum"), &gy, &y);
    close(&name("r of sum"), &gr, &r);

    for trained in [false, true] {
        let (mut dx, mut dstream, mut dw) = (host(&[n, c]), stream.clone(), before.clone());
        norm::backward(&mut dx, trained.then_some(&mut dw), &dy, &sum, &r, &w, norm).unwrap();
        norm::add_backward(&mut dstream, trained.then_some(&mut dw), &dy, &sum, &r, &w, norm).unwrap();
        let gr = r.to(card).unwrap();
        let [gdx, gdstream, gdw] = twice(&name("backward"), || {
            let (mut dx, mut stream) = (poisoned(&[n, c], dtype, card), upload(&stream, dtype, card));
            let mut dw = before.to(card).unwrap();
            norm::backward(&mut dx, trained.then_some(&mut dw), &gdy, &gsum, &gr, &gw, norm).unwrap();
            norm::add_backward(&mut stream, trained.then_some(&mut dw), &gdy, &gsum, &gr, &gw, norm).unwrap();
            [dx, stream, dw]
        });
        close(&name("dx"), &gdx, &dx);
        close(&name("stream"), &gdstream, &dstream);
        close(&name("dw"), &gdw, &dw);
    }
}

#[test]
fn norm_forward_and_backward() {
    let Some(card) = card() else { return };
    for (i, case) in CASES.into_iter().enumerate() {
        let gain = [Gain::OnePlus, Gain::Plain][i % 2];
        for dtype in DTYPES {
            compare(case, Norm { gain, eps: 1e-6 }, dtype, card);
        }
    }
}
