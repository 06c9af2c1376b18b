//! What some tests need and a machine may lack: a GPU, NVRTC, the real tokenizers, Chromium, data that is not part of the
//! repository. A test that leaves something out says so in one line on stderr, `left out: …, because …`. CI (`CI` set) has
//! NVRTC, the tokenizers and the data: there a test fails instead.
//!
//! A GPU and Chromium are not part of CI: its machines have no card, and a browser is too much to install for six tests.
//! With `CHROMIUM` set it is there, too.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use emlab::device::{Gpu, compile};

/// Says once that `what` is left out. Past the test harness, which keeps what is printed of tests that pass.
pub fn left_out(what: &str, why: &str) {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let line = format!("left out: {what}, because {why}\n");
    if SAID.lock().unwrap().insert(line.clone()) {
        std::io::stderr().write_all(line.as_bytes()).unwrap();
    }
}

/// `found`, or the line; an error in CI.
fn in_ci<T>(found: Option<T>, what: &str, why: &str) -> Option<T> {
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none(), "CI must not leave out {what}: {why}");
        left_out(what, why);
    }
    found
}

/// The card.
pub fn gpu(what: &str) -> Option<Gpu> {
    Gpu::open().map_err(|error| left_out(what, &error.to_string())).ok()
}

/// The version of NVRTC, which compiles kernels without a card.
pub fn nvrtc(what: &str) -> Option<(i32, i32)> {
    let why = "there is no NVRTC (pip install nvidia-cuda-nvrtc, and its folder in PYTHONPATH)";
    in_ci(compile::nvrtc_version(), what, why)
}

/// The folder of the real tokenizers.
pub fn tokenizers(what: &str) -> Option<PathBuf> {
    in_ci(std::env::var_os("EMLAB_TOKENIZERS").map(PathBuf::from), what, "EMLAB_TOKENIZERS is not set")
}

/// A file of data that is not part of the repository: in the folder that `variable` names, or in `default`, relative to
/// the repository.
pub fn data(variable: &str, default: &str, name: &str, what: &str) -> Option<PathBuf> {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join(default);
    let path = std::env::var_os(variable).map_or(default, PathBuf::from).join(name);
    let why = format!("there is no {} ({variable} names its folder)", path.display());
    in_ci(path.exists().then_some(path), what, &why)
}

/// The browser: what `CHROMIUM` names, or what is found on the path.
pub fn chromium(what: &str) -> Option<PathBuf> {
    let named = std::env::var_os("CHROMIUM").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let names = ["chromium", "google-chrome", "chromium-browser"];
    let found = std::env::split_paths(&path)
        .flat_map(|folder| names.map(|name| folder.join(name)))
        .find(|program| program.is_file());
    let program = named.or(found);
    if program.is_none() {
        left_out(what, "there is no Chromium (CHROMIUM names it, or it lies on the path)");
    }
    program
}
