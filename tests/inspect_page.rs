//! The page of `emlab inspect trace` in a real browser.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use crate::browser::{driven, open, title};
use crate::needs::chromium;
use emlab::device::philox::Key;
use emlab::inspect::trace::lens::Lens;
use emlab::inspect::trace::{Mlp, Norms, Sizes, Trace};
use emlab::model::tokenizer::Tokenizer;
use safetensors::SafeTensors;
use serde_json::{Value, json};

fn demo() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo/gemma3"))
}

/// A trace of the demo's checkpoint in `out`.
fn traced(out: &Path, arguments: &[&str]) {
    let output = Command::new(env!("CARGO_BIN_EXE_emlab"))
        .args(["inspect", "trace", "--device", "cpu", "--model"])
        .arg(demo())
        .args(["--prompt", "Who are you?", "--answer", "I am a gardener.", "--out"])
        .arg(out)
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What `steps`, the body of an async function, return in the page; `wait` lets the page come to rest, `over` moves the
/// pointer to a share of an element's width and height, and `tip` is what the page says there.
fn drive(chromium: &Path, page: &Path, steps: &str, arguments: &[&str]) -> Value {
    let script = format!(
        "<script>(async () => {{
        const wait = () => new Promise((done) => setTimeout(done, 300));
        const over = (element, kind = 'pointermove', x = 0.5, y = 0.5) => {{
          const box = element.getBoundingClientRect();
          element.dispatchEvent(new PointerEvent(kind, {{ bubbles: true,
            clientX: box.left + x * box.width, clientY: box.top + y * box.height }}));
        }};
        const set = (id, value) => {{
          document.getElementById(id).value = value;
          document.getElementById(id).dispatchEvent(new Event('input', {{ bubbles: true }}));
        }};
        const texts = (selector) => [...document.querySelectorAll(selector)].map((e) => e.textContent);
        const said = (depth, token) => document.querySelector(`.said[data-depth='${{depth}}'][data-token='${{token}}']`);
        const tips = () => texts('#tip .line');
        const show = async (id) => {{ document.getElementById(id).scrollIntoView();
          // A browser that draws no frames tells of no scrolling.
          dispatchEvent(new Event('scroll')); await wait(); await wait(); }};
        await wait();
        const run = async () => {{ {steps} }};
        document.title = JSON.stringify(await run().catch((error) => String(error)));
        }})();</script></body>"
    );
    let html = std::fs::read_to_string(page).unwrap();
    let path = page.with_file_name("driven.html");
    std::fs::write(&path, driven(&html, &script)).unwrap();
    let seen = open(chromium, &path, arguments);
    assert!(!seen.log.contains("CONSOLE"), "{}", seen.log);
    let text = title(&seen).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The number behind `name` in a text.
fn number(text: &str, name: &str) -> f64 {
    let rest = text.split(name).nth(1).unwrap_or_else(|| panic!("no {name:?} in {text:?}"));
    let digits = rest.trim_start().split([' ', '·']).next().unwrap();
    digits.replace(',', "").parse().unwrap_or_else(|_| panic!("{digits:?} in {text:?}"))
}

fn near(found: f64, expected: f64, bound: f64) {
    assert!((found - expected).abs() <= bound, "{found}, expected {expected}");
}

#[test]
fn untimed_traces_are_the_same_page() {
    let folder = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|name| folder.path().join(name));
    traced(&a, &["--untimed"]);
    traced(&b, &["--untimed"]);
    let [a, b] = [a, b].map(|folder| std::fs::read(folder.join("index.html")).unwrap());
    assert!(a == b);
}

/// A walk through the page of the demo's trace: every panel once.
const WALK: &str = "
    const found = {};
    document.querySelectorAll('.chip')[6].click();
    set('layer', 2);
    found.selected = texts('#selected')[0];
    found.layer = texts('#layer-name')[0];
    over(document.querySelectorAll('.chip')[8], 'pointerover');
    found.chip = tips();
    await show('attention');
    document.querySelectorAll('#heads button')[2].click();
    const n = document.querySelectorAll('.chip').length;
    const map = document.getElementById('map');
    over(map, 'pointermove', 3.5 / n, 7.5 / n);
    found.weight = tips();
    over(map, 'pointermove', 9.5 / n, 7.5 / n);
    found.blind = tips();
    document.getElementById('by-reads').click();
    found.reads = document.getElementById('strip').className;
    await show('streams');
    found.lines = document.querySelectorAll('#streams path').length;
    await show('mlp');
    found.neurons = texts('#neurons .bar');
    await show('lens');
    found.cell = said(3, 6).textContent;
    found.top = texts('#top .bar');
    over(said(4, 7), 'pointerover');
    found.said = tips();
    said(2, 5).click();
    found.clicked = [texts('#layer-name')[0], texts('#selected')[0], texts('#said-where')[0]];
    document.body.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowRight', bubbles: true }));
    document.body.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowDown', bubbles: true }));
    found.keys = [texts('#layer-name')[0], texts('#selected')[0]];
    found.ops = document.querySelectorAll('#by-op tbody tr').length;
    for (const link of document.querySelectorAll('#attention a')) link.click();
    found.source = texts('pre .now');
    return found;";

#[test]
fn the_page_shows_what_the_trace_holds() {
    let Some(chromium) = chromium("the page of a trace in a browser") else { return };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    traced(out, &[]);
    let page = out.join("index.html");
    // As it is: under its own policy.
    let seen = open(&chromium, &page, &[]);
    assert!(!seen.log.contains("CONSOLE"), "{}", seen.log);
    assert!(seen.page.contains("aria-selected=\"true\""));

    let found = drive(&chromium, &page, WALK, &["--window-size=1280,800"]);
    let trace: Value = serde_json::from_slice(&std::fs::read(out.join("trace.json")).unwrap()).unwrap();
    let n = trace["tokens"].as_array().unwrap().len();
    let text = |value: &Value| {
        trace["texts"][value.to_string()].as_str().unwrap().replace(' ', "·").replace('\n', "↵")
    };
    let string = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{found}")).to_owned();

    let selected = string(&found["selected"]);
    assert!(selected.starts_with("token 6 ") && string(&found["layer"]).starts_with("2 of"), "{selected}");
    let loss = |token: usize| trace["loss"][token - 1].as_f64().unwrap();
    near(number(&selected, "loss"), loss(6), 0.01 * loss(6));
    let chip = string(&found["chip"][2]);
    near(number(&chip, "loss"), loss(8), 0.01 * loss(8));
    near(number(&chip, "rank"), trace["lens"]["next_rank"][4 * (n - 1) + 7].as_f64().unwrap() + 1.0, 0.0);

    let bytes = std::fs::read(out.join("trace.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let attention = tensors.tensor("attention").unwrap();
    let at = 4 * (((2 * 4 + 1) * n + 7) * n + 3);
    let weight = f64::from(f32::from_le_bytes(attention.data()[at..at + 4].try_into().unwrap()));
    let told = string(&found["weight"][0]);
    assert!(told.starts_with("layer 2, head 1: 7 ") && told.contains("→ 3 "), "{told}");
    let step = 0.5 / 255.0;
    near(number(&told, "weight"), weight, 2.0 * weight.sqrt() * step + step * step + 5e-5);
    assert!(string(&found["blind"][0]).contains("cannot look at"), "{}", found["blind"]);
    assert_eq!(found["reads"], "reads");
    assert_eq!(found["lines"], 6);
    let neuron = &trace["mlp"]["largest"][(2 * n + 6) * 5];
    assert!(string(&found["neurons"][0]).starts_with(&format!("neuron {neuron}")), "{}", found["neurons"]);

    let lens = &trace["lens"];
    let k = (3 * n + 6) * 5;
    assert_eq!(string(&found["cell"]), text(&lens["tokens"][k]));
    let p = lens["probabilities"][k].as_f64().unwrap();
    let top = string(&found["top"][0]);
    let shown: f64 =
        top.trim_start_matches(&text(&lens["tokens"][k])).trim_end_matches(" %").parse().unwrap();
    near(shown / 100.0, p, 0.01 * p);
    let said = found["said"].as_array().unwrap();
    assert_eq!(said.len(), 1 + 5 + 2);
    near(number(&string(&said[6]), "entropy"), lens["entropy"][4 * n + 7].as_f64().unwrap(), 0.01);
    let rank = lens["next_rank"][4 * (n - 1) + 7].as_f64().unwrap() + 1.0;
    near(number(&string(&said[7]), "rank"), rank, 0.0);
    assert!(
        string(&found["clicked"][0]).starts_with("1 of")
            && string(&found["clicked"][1]).starts_with("token 5 ")
    );
    assert_eq!(found["clicked"][2], "At depth 2, after token 5");
    assert!(
        string(&found["keys"][0]).starts_with("2 of") && string(&found["keys"][1]).starts_with("token 6 ")
    );
    assert_eq!(found["ops"], 15, "14 ops and their sum");
    for line in found["source"].as_array().unwrap() {
        assert!(line.as_str().unwrap().contains("fn "), "{line}");
    }

    // In both themes the first query, which sees itself alone, has the colour of weight 1.
    let steps = "
        await show('attention');
        const pixel = document.querySelector('#map canvas').getContext('2d').getImageData(0, 0, 1, 1).data;
        return [getComputedStyle(document.body).color, [...pixel].join()];";
    for (scheme, ink, most) in
        [("1", "rgb(27, 31, 36)", "8,48,107,255"), ("0", "rgb(232, 234, 237)", "228,241,255,255")]
    {
        let theme = format!("--blink-settings=preferredColorScheme={scheme}");
        assert_eq!(drive(&chromium, &page, steps, &[&theme]), json!([ink, most]));
    }
}

/// A trace of random numbers: `layers` layers, `n` tokens, of `ids`.
fn random(layers: usize, n: usize, ids: &[u32]) -> Trace {
    const HEADS: usize = 4;
    const TOP: usize = 5;
    let key = Key::new(1, &["trace"]);
    let numbers = |row: u32, count: usize| (0..count as u32).map(move |i| key.uniform(row, i));
    let some = |row: u32, count: usize| -> Vec<u32> {
        numbers(row, count).map(|x| ids[(x * ids.len() as f32) as usize]).collect()
    };
    let mut attention = Vec::with_capacity(layers * HEADS * n * n);
    for row in 0..layers * HEADS * n {
        let seen = row % n + 1;
        let weights: Vec<f32> = numbers(100 + row as u32, seen).map(|x| (6.0 * x).exp()).collect();
        let sum: f32 = weights.iter().sum();
        attention.extend(weights.iter().map(|x| x / sum));
        attention.resize((row + 1) * n, 0.0);
    }
    let list = |row: u32, rows: usize| numbers(row, rows * n).map(|x| 100.0 * x).collect::<Vec<f32>>();
    let shares = |row: u32, count: usize| numbers(row, count).collect::<Vec<f32>>();
    Trace {
        sizes: Sizes {
            vocab: 735,
            channels: 1,
            layers,
            heads: HEADS,
            kv_heads: 1,
            head_dim: 256,
            mlp_width: 6912,
            windows: (0..layers).map(|layer| (layer % 6 != 5).then_some(512)).collect(),
        },
        tokens: some(1, n),
        streams: Vec::new(),
        final_norm: Vec::new(),
        attention,
        norms: Norms {
            stream: list(2, layers + 1),
            attention_delta: list(3, layers),
            residual_mid: list(4, layers),
            mlp_delta: list(5, layers),
        },
        mlp: Mlp {
            open: shares(6, layers * n),
            rms: list(7, layers),
            largest: numbers(8, layers * n * TOP).map(|x| (6912.0 * x) as u32).collect(),
            values: list(9, layers * TOP),
        },
        lens: Lens {
            top: TOP,
            tokens: some(10, (layers + 1) * n * TOP),
            probabilities: numbers(11, (layers + 1) * n * TOP).map(|x| x / 5.0).collect(),
            entropy: list(12, layers + 1),
            next_nll: numbers(13, (layers + 1) * (n - 1)).map(|x| 10.0 * x).collect(),
            next_rank: numbers(14, (layers + 1) * (n - 1)).map(|x| (735.0 * x) as u32).collect(),
        },
        ops: Vec::new(),
    }
}

#[test]
fn a_long_trace_is_small_and_quick() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = Tokenizer::open(demo()).unwrap();
    let ids: Vec<u32> = (0..735).collect();
    let about = json!({ "model": "random", "family": "Gemma 3" });
    let long = random(26, 500, &ids);
    long.write_page(folder.path(), &long.json(&tokenizer, &about).unwrap()).unwrap();
    let page = folder.path().join("index.html");
    let size = std::fs::metadata(&page).unwrap().len();
    eprintln!("{size} bytes");
    assert!(size < 20_000_000, "{size} bytes");

    let Some(chromium) = chromium("how quickly the page of a long trace moves") else { return };
    // The browser's own clock stands still while it works: two runs, of few and of many scrubs, are held against each other.
    let scrubs = |count: usize| {
        let steps = format!(
            "await show('attention');
            for (let i = 0; i < {count}; i += 1) {{ set('layer', i % 26); set('token', (37 * i) % 500); await wait(); }}
            return [document.querySelectorAll('*').length < 3000, document.querySelectorAll('.column').length < 40,
              document.getElementById('ops') === null, texts('#head-name')[0].startsWith(`Layer ${{({count} - 1) % 26}}`)];"
        );
        let before = Instant::now();
        let found = drive(&chromium, &page, &steps, &["--window-size=1280,800"]);
        assert_eq!(found, json!([true, true, true, true]));
        before.elapsed().as_secs_f64()
    };
    let few = scrubs(2);
    let each = (scrubs(32) - few) / 30.0;
    eprintln!("{few:.1} s to open; a scrub of layer and token: {:.0} ms", 1e3 * each);
    assert!(each < 0.7, "{each} s a scrub");
}

#[test]
fn hostile_tokens_are_text() {
    const HOSTILE: [&str; 5] = [
        "</script><script>document.title='ran'</script><!--<script>",
        "<img src=x onerror=\"document.title='ran'\">",
        "\"'`${document.title='ran'}",
        "right to \u{202e}tfel\u{2028}line",
        "שלום",
    ];
    let folder = tempfile::tempdir().unwrap();
    let mut file: Value =
        serde_json::from_slice(&std::fs::read(demo().join("tokenizer.json")).unwrap()).unwrap();
    for (i, text) in HOSTILE.into_iter().enumerate() {
        file["added_tokens"].as_array_mut().unwrap().push(json!({
            "id": 735 + i, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true
        }));
    }
    for name in ["tokenizer_config.json", "config.json", "generation_config.json"] {
        std::fs::copy(demo().join(name), folder.path().join(name)).unwrap();
    }
    std::fs::write(folder.path().join("tokenizer.json"), file.to_string()).unwrap();
    let tokenizer = Tokenizer::open(folder.path()).unwrap();
    let ids: Vec<u32> = (735..740).collect();
    let about = json!({ "model": HOSTILE[0], "adapter": HOSTILE[1], "family": HOSTILE[2] });
    let short = random(2, 12, &ids);
    short.write_page(folder.path(), &short.json(&tokenizer, &about).unwrap()).unwrap();
    let page = folder.path().join("index.html");
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(!html.contains(['\u{202e}', '\u{2028}']) && !html.contains("<img"));
    let Some(chromium) = chromium("hostile tokens in a browser") else { return };
    let seen = open(&chromium, &page, &[]);
    assert!(!seen.log.contains("CONSOLE"), "{}", seen.log);
    assert!(title(&seen).starts_with("Trace of &lt;/script&gt;"), "{}", title(&seen));
    assert!(!seen.page.contains("<img") && !seen.page.contains('\u{202e}'));
    let steps = "await show('lens'); over(said(1, 3), 'pointerover');
        return [document.images.length, texts('.chip').length, texts('.chip').some((t) => t.includes('⟨202E⟩')), tips().length];";
    assert_eq!(drive(&chromium, &page, steps, &[]), json!([0, 12, true, 8]));
}

#[test]
fn a_page_of_patches_holds_every_map() {
    let Some(chromium) = chromium("the page of patches in a browser") else { return };
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("patch.html");
    let hostile = "<script>document.title='ran'</script>\u{202e}";
    let output = Command::new(env!("CARGO_BIN_EXE_emlab"))
        .args(["inspect", "patch", "--device", "cpu", "--json", "--model"])
        .arg(demo())
        .args(["--source", &format!("Who {hostile}?"), "--target", &format!("What {hostile}?"), "--out"])
        .arg(&page)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let seen = open(&chromium, &page, &["--blink-settings=preferredColorScheme=0"]);
    assert!(!seen.log.contains("CONSOLE"), "{}", seen.log);
    assert!(title(&seen).starts_with("Patching "), "{}", title(&seen));
    let maps = found["maps"].as_array().unwrap();
    assert_eq!(seen.page.matches("<figure>").count(), maps.len());
    let effects = maps.iter().flat_map(|map| map["effects"].as_array().unwrap());
    // And all of a layer together.
    let cells: usize = effects.map(|layer| layer.as_array().unwrap().len() + 1).sum();
    assert_eq!(seen.page.matches("fill-opacity").count(), cells);
    let together = maps[0]["together"][3].as_f64().unwrap();
    assert!(seen.page.contains(&format!("<title>layer 3, all together: {together:.3}</title>")));
    assert!(!seen.page.contains('\u{202e}'));
}
