//! From the command line to a loaded model.

use std::path::Path;

use glm::backends;
use glm::model::Options;
use glm::source::ModelSource;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ops::Context;

use crate::args::Global;
use crate::failure::Failure;

/// Opens the device of `--device`.
pub(crate) fn context(global: &Global) -> Result<Context, Failure> {
    let options = backends::Options {
        threads: global.threads,
    };
    let accelerator = backends::open(&global.device, &options).map_err(Failure::device)?;
    Ok(Context::new(accelerator))
}

/// `options` with what `--dtype` says.
pub(crate) fn with_dtype(global: &Global, options: Options) -> Options {
    let Some(precision) = global.dtype else {
        return options;
    };
    let dense = precision.activations().map(hal::WeightFormat::Dense);
    Options {
        dtype: precision.activations(),
        weights: Some(precision.weights()),
        tables: dense.or(options.tables),
        ..options
    }
}

/// The files of a folder, or those inside this program.
pub(crate) fn source(folder: Option<&Path>) -> ModelSource {
    match folder {
        Some(folder) => ModelSource::Folder(folder.into()),
        None => glm::demo::folder_files(),
    }
}

/// Runs `load` with a progress callback that draws a bar on stderr.
pub(crate) fn with_progress<T>(
    global: &Global,
    load: impl FnOnce(&mut dyn FnMut(usize, usize)) -> hal::Result<T>,
) -> Result<T, Failure> {
    let bar = progress_bar(global);
    let result = load(&mut |done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    Ok(result?)
}

/// Hidden when stderr is no terminal, or with `--quiet`.
fn progress_bar(global: &Global) -> ProgressBar {
    let style =
        ProgressStyle::with_template("loading [{bar:32}] {bytes}/{total_bytes} {bytes_per_sec}")
            .expect("a valid template")
            .progress_chars("=> ");
    let target = match global.quiet {
        true => ProgressDrawTarget::hidden(),
        false => ProgressDrawTarget::stderr(),
    };
    ProgressBar::with_draw_target(Some(0), target).with_style(style)
}
