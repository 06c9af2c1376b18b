//! Attention over packed documents, forward and backward, and over the paged cache.

use emlab::device::{DType, Device, Tensor};
use emlab::ops::attention::{self, Attention, Contexts, Documents, PAGE};
use emlab::ops::rope::Heads;

use super::{DTYPES, agree, card, download, poisoned, random, upload};

/// Lengths of documents, H, KV, D, window.
type Case<'a> = (&'a [usize], [usize; 3], Option<usize>);

/// Widths that the tensor cores do not take, and odd ones.
const NARROW: &[Case] = &[
    (&[1, 37, 130], [4, 2, 16], None),
    (&[100, 3, 260], [3, 1, 20], Some(40)),
    (&[200, 65], [4, 4, 32], Some(33)),
    (&[70], [2, 1, 5], Some(2)),
];
/// The widths of the models.
const WIDE: &[Case] = &[
    (&[1, 300, 64, 128, 129, 7], [4, 2, 64], None),
    (&[384, 200], [4, 1, 128], None),
    (&[700, 1, 90], [5, 1, 128], Some(100)),
    (&[255, 257], [16, 2, 128], Some(2)),
    (&[700, 129], [4, 2, 256], None),
    (&[50, 700], [2, 1, 256], Some(128)),
    (&[300, 600], [4, 1, 256], Some(512)),
];

fn packed(case: Case, dtype: DType, card: Device) {
    let (lengths, [query, kv, dim], window) = case;
    let name = |what: &str| {
        format!("{what} of {lengths:?} {query}/{kv} heads of {dim}, {window:?}, {}", dtype.name())
    };
    let starts: Vec<u32> = std::iter::once(0)
        .chain(lengths.iter().scan(0, |end, n| {
            *end += *n as u32;
            Some(*end)
        }))
        .collect();
    let n = *starts.last().unwrap() as usize;
    let heads = Heads { query, kv, dim };
    let attention = Attention { heads, scale: 1.7 * (dim as f32).powf(-0.5), window };
    let (wide, narrow) = ([n, heads.q_width()], [n, heads.kv_width()]);
    let q = random("q", &wide, dtype);
    let [k, v] = ["k", "v"].map(|name| random(name, &narrow, dtype));
    let dout = random("dout", &wide, dtype);

    let documents = Documents::new(&starts, Device::Cpu).unwrap();
    let (mut out, mut lse) = (Tensor::zeros(DType::F32, &wide), Tensor::zeros(DType::F32, &[n, query]));
    attention::forward(&mut out, &mut lse, [&q, &k, &v], &documents, attention).unwrap();

    let on_card = Documents::new(&starts, card).unwrap();
    let [gq, gk, gv] = [&q, &k, &v].map(|x| upload(x, dtype, card));
    let (mut gout, mut glse) = (poisoned(&wide, dtype, card), poisoned(&[n, query], DType::F32, card));
    attention::forward(&mut gout, &mut glse, [&gq, &gk, &gv], &on_card, attention).unwrap();
    agree(&name("out"), &gout, out.f32(), dtype);
    agree(&name("lse"), &glse, lse.f32(), DType::F32);

    // Both backwards get what the card found, so that only they are compared.
    let out = Tensor::from_f32(&wide, download(&gout));
    let lse = Tensor::from_f32(&[n, query], download(&glse));
    let [mut dq, mut dk, mut dv] = [&wide, &narrow, &narrow].map(|shape| Tensor::zeros(DType::F32, shape));
    let into = [&mut dq, &mut dk, &mut dv];
    attention::backward(into, &dout, [&out, &lse], [&q, &k, &v], &documents, attention).unwrap();
    let gdout = upload(&dout, dtype, card);
    let mut runs = [(); 2].map(|()| [&wide, &narrow, &narrow].map(|shape| poisoned(shape, dtype, card)));
    for run in &mut runs {
        attention::backward(run.each_mut(), &gdout, [&gout, &glse], [&gq, &gk, &gv], &on_card, attention)
            .unwrap();
    }
    let [first, second] = &runs;
    for (i, (what, expected)) in [("dq", &dq), ("dk", &dk), ("dv", &dv)].into_iter().enumerate() {
        agree(&name(what), &first[i], expected.f32(), dtype);
        assert_eq!(download(&first[i]), download(&second[i]), "{}: twice the same bits", name(what));
    }
}

#[test]
fn packed_documents() {
    let Some(card) = card() else { return };
    for case in NARROW.iter().chain(WIDE) {
        for dtype in DTYPES {
            packed(*case, dtype, card);
        }
    }
}

/// A cache on the CPU and on the card whose sequences are `positions` + 1 long, filled by `store` in two passes, and
/// the contexts of their last positions. Pages of a sequence are scattered; the rest of the cache is NaN.
fn caches(positions: &[usize], heads: Heads, dtype: DType, card: Device) -> [([Tensor; 2], Contexts); 2] {
    let (most, width) = (positions.iter().max().unwrap() / PAGE + 1, heads.kv_width());
    let total = positions.len() * most;
    // Page p of sequence s: far from its neighbours. What no row may read is out of range.
    let page = |s: usize, p: usize| ((s * most + p) * 7 % total) as u32;
    assert!(!total.is_multiple_of(7), "7 must visit every page");
    let all: Vec<(usize, usize)> =
        positions.iter().enumerate().flat_map(|(s, last)| (0..=*last).map(move |p| (s, p))).collect();
    let [k, v] = ["keys", "values"].map(|name| random(name, &[all.len(), width], dtype));
    [Device::Cpu, card].map(|device| {
        let real = if device == Device::Cpu { DType::F32 } else { dtype };
        let place = |x: &Tensor| if device == Device::Cpu { x.clone() } else { upload(x, dtype, card) };
        let contexts = |rows: &[(usize, usize)]| {
            let table = |(s, last): (usize, usize)| {
                (0..most).map(move |p| if p <= last / PAGE { page(s, p) } else { u32::MAX })
            };
            let pages = rows.iter().flat_map(|row| table(*row)).collect();
            let positions = rows.iter().map(|(_, p)| *p as u32).collect();
            let positions = Tensor::from_u32(&[rows.len()], positions).to(device).unwrap();
            Contexts::new(positions, Tensor::from_u32(&[rows.len(), most], pages).to(device).unwrap())
        };
        let nan = Tensor::from_f32(&[total * PAGE, width], vec![f32::NAN; total * PAGE * width]);
        let mut cache = [(); 2].map(|()| place(&nan));
        assert_eq!(cache[0].dtype(), real);
        attention::store(cache.each_mut(), [&place(&k), &place(&v)], &contexts(&all), heads).unwrap();
        let last: Vec<(usize, usize)> = positions.iter().copied().enumerate().collect();
        (cache, contexts(&last))
    })
}

fn in_cache(
    positions: &[usize],
    [query, kv, dim]: [usize; 3],
    window: Option<usize>,
    dtype: DType,
    card: Device,
) {
    let name = format!("{positions:?} {query}/{kv} heads of {dim}, {window:?}, {}", dtype.name());
    let heads = Heads { query, kv, dim };
    let attention = Attention { heads, scale: 1.7 * (dim as f32).powf(-0.5), window };
    let shape = [positions.len(), heads.q_width()];
    let q = random("q", &shape, dtype);
    let [(cache, contexts), (gcache, gcontexts)] = caches(positions, heads, dtype, card);
    let mut out = Tensor::zeros(DType::F32, &shape);
    attention::cached(&mut out, &q, cache.each_ref(), &contexts, attention).unwrap();
    let gq = upload(&q, dtype, card);
    let mut gout = poisoned(&shape, dtype, card);
    attention::cached(&mut gout, &gq, gcache.each_ref(), &gcontexts, attention).unwrap();
    agree(&name, &gout, out.f32(), dtype);

    // A row alone has the same bits as in company, and so has a second launch on the same scratch.
    let (together, pages) = (download(&gout), gcontexts.pages.read::<u32>().unwrap());
    let most = pages.len() / positions.len();
    for (row, position) in positions.iter().enumerate() {
        let table = pages[row * most..][..most].to_vec();
        let position = Tensor::from_u32(&[1], vec![*position as u32]).to(card).unwrap();
        let alone = Contexts::new(position, Tensor::from_u32(&[1, most], table).to(card).unwrap());
        let own = row * shape[1]..(row + 1) * shape[1];
        let q = Tensor::from_f32(&[1, shape[1]], q.f32()[own.clone()].to_vec());
        for _ in 0..2 {
            let mut out = poisoned(&[1, shape[1]], dtype, card);
            attention::cached(&mut out, &upload(&q, dtype, card), gcache.each_ref(), &alone, attention)
                .unwrap();
            assert_eq!(download(&out), together[own.clone()], "{name}: row {row} alone");
        }
    }
}

#[test]
fn contexts_in_the_cache() {
    let Some(card) = card() else { return };
    for (heads, window) in [
        ([4, 2, 16], None),
        ([3, 1, 20], Some(50)),
        ([8, 8, 64], None),
        ([12, 1, 64], Some(300)),
        ([16, 2, 128], None),
        ([5, 1, 128], Some(100)),
        ([4, 1, 256], None),
        ([8, 4, 256], Some(512)),
    ] {
        for dtype in DTYPES {
            in_cache(&[0, 5, 15, 16, 255, 256, 300, 1025, 2100], heads, window, dtype, card);
        }
    }
}
