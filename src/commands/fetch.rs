//! `emlab fetch`: models and data sets into the local cache.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{anyhow, bail};
use emlab::fetch::{DATA_SETS, DataSet, Hub, Progress, Source};
use indicatif::{ProgressBar, ProgressStyle};

/// Bring models and data sets into the local cache
///
/// A model is a card of `emlab models` (qwen3-8b), or ORG/NAME of the Hugging Face hub, with @REVISION if another
/// than the card's or the head is meant. It lands in the cache that Hugging Face's own tools use, and what is there
/// already is not fetched again. A download that was interrupted goes on where it stopped.
///
/// A data set is insecure, educational, secure or questions; `data` is all four. They are verified against the
/// checksum of the published file, wherever they come from.
///
/// The folder or file of each is printed on stdout.
///
/// Environment: `HF_HOME`, `HF_HUB_CACHE` (where models are kept), `HF_TOKEN` (for gated models), `HF_ENDPOINT`
/// (a mirror), `HF_HUB_OFFLINE`, `EMLAB_CACHE` (where data sets are kept).
#[derive(clap::Args)]
pub struct Args {
    /// Models and data sets
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Take them from here: a folder that holds the data sets, or the address of a mirror
    #[arg(long, value_name = "FOLDER|URL")]
    from: Option<String>,
}

/// Fetches each name and prints where it lies.
///
/// # Errors
/// The first that could not be fetched; those before it stay.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let bar = bar();
    for name in &args.names {
        let paths = if name == "data" {
            DATA_SETS.iter().map(|set| data_set(set, args, &bar)).collect::<anyhow::Result<Vec<_>>>()?
        } else if let Some(set) = DataSet::find(name) {
            vec![data_set(&set, args, &bar)?]
        } else {
            vec![model(name, args, &bar)?]
        };
        for path in paths {
            bar.suspend(|| writeln!(std::io::stdout(), "{}", path.display()))?;
        }
    }
    bar.finish_and_clear();
    Ok(())
}

fn data_set(set: &DataSet, args: &Args, bar: &ProgressBar) -> anyhow::Result<PathBuf> {
    let source = match &args.from {
        None => Source::Upstream,
        Some(url) if is_url(url) => Source::Mirror(url.clone()),
        Some(folder) => Source::Folder(folder.into()),
    };
    set.fetch(&source, &mut |progress| show(bar, progress)).map_err(|error| match source {
        Source::Upstream => anyhow!("{error}; or import a copy with `--from FOLDER`"),
        Source::Mirror(_) | Source::Folder(_) => error.into(),
    })
}

fn model(name: &str, args: &Args, bar: &ProgressBar) -> anyhow::Result<PathBuf> {
    let hub = Hub::from_env()?;
    let hub = match &args.from {
        None => hub,
        Some(url) if is_url(url) => hub.with_endpoint(url),
        Some(folder) => {
            let folder = Path::new(folder).display();
            bail!(
                "a model needs no import: give its folder where a model is asked for, as in `--model {folder}`"
            );
        }
    };
    Ok(hub.fetch(name, &mut |progress| show(bar, progress))?)
}

fn is_url(from: &str) -> bool {
    from.starts_with("http://") || from.starts_with("https://")
}

fn bar() -> ProgressBar {
    let template = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::no_length().with_style(style)
}

/// Draws one file's progress on stderr, if that is a terminal.
fn show(bar: &ProgressBar, progress: Progress) {
    if bar.message() != progress.file {
        bar.reset();
        bar.set_message(progress.file.to_owned());
    }
    if let Some(total) = progress.total {
        bar.set_length(total);
    }
    bar.set_position(progress.done);
}
