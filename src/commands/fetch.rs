//! `emlab fetch`: downloads models and data sets into the local cache.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{anyhow, bail};
use emlab::fetch::{DATA_SETS, DataSet, Hub, Progress, Source};
use indicatif::{ProgressBar, ProgressStyle};

/// Download models and data sets into the local cache
///
/// A model is named by its card (`emlab models` lists them: qwen3-8b) or as ORG/NAME on the Hugging Face hub. Append
/// @REVISION for a revision other than the card's, or the newest. Models go into the cache that Hugging Face's own
/// tools use, and files that are already there are not downloaded again. An interrupted download resumes.
///
/// A data set is insecure, educational, secure or questions; `data` stands for all four. Whatever the source, each is
/// verified against the checksum of the published file.
///
/// Prints the folder or file of each on stdout.
///
/// Examples: emlab fetch gemma-3-1b-it; emlab fetch data; emlab fetch data --from FOLDER
///
/// Environment: HF_HOME, HF_HUB_CACHE (where models are kept), HF_TOKEN (for gated models), HF_ENDPOINT (a mirror),
/// HF_HUB_OFFLINE, EMLAB_CACHE (where data sets are kept).
#[derive(clap::Args)]
pub struct Args {
    /// Names of models and data sets
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Take them from a folder that holds the data sets, or from the address of a mirror
    #[arg(long, value_name = "FOLDER|URL")]
    from: Option<String>,
}

/// Downloads each name and prints its path.
///
/// # Errors
/// The first download that failed; those before it are kept.
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

/// Shows the progress of one file on stderr, if that is a terminal.
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
