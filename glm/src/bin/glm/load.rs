//! From the command line to a loaded model.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use glm::backends;
use glm::checkpoint::Checkpoint;
use glm::config::GenerationConfig;
use glm::engine::{BeamSearch, Engine, GenerationParams};
use glm::model::{Model, Options};
use glm::source::ModelSource;
use glm::tokenizer::Tokenizer;
use hal::{Error, ErrorKind, kept};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ops::{Accelerator, Context};

use crate::args::{Activations, CacheType, Generate, Global, Precision};
use crate::compiling;
use crate::failure::Failure;

/// Opens the device of `--device`.
pub(crate) fn context(global: &Global) -> Result<Context, Failure> {
    Ok(Context::new(accelerator(global, &global.device)?))
}

/// Opens `device`.
pub(crate) fn accelerator(global: &Global, device: &str) -> Result<Accelerator, Failure> {
    backends::open(device, &device_options(global)).map_err(Failure::device)
}

/// How devices are opened.
pub(crate) fn device_options(global: &Global) -> backends::Options {
    backends::Options {
        threads: global.threads(),
        int8_activations: global.activations == Activations::Int8,
        on_compile: (!global.quiet).then_some(compiling::tell),
    }
}

/// A file of text.
pub(crate) fn text(path: &Path) -> hal::Result<String> {
    std::fs::read_to_string(path).map_err(|e| {
        let kind = match e.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            _ => ErrorKind::Io,
        };
        Error::new(kind, format!("read {}", path.display()), e.to_string())
            .next_step("check the path")
    })
}

/// `options` with what `--dtype` and `--kv-cache-dtype` say.
pub(crate) fn with_dtype(global: &Global, options: Options) -> Options {
    let kv = global.kv_cache_dtype.map(CacheType::dtype);
    let options = Options {
        kv: kv.or(options.kv),
        ..options
    };
    with_precision(global.dtype, options)
}

/// `options` with what a `--dtype` would say.
pub(crate) fn with_precision(precision: Option<Precision>, options: Options) -> Options {
    let Some(precision) = precision else {
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

/// A model with its tokenizer, large enough for what `args` ask for; `context` when they do not say one.
pub(crate) fn engine(
    global: &Global,
    args: &Generate,
    source: &ModelSource,
    tokenizer: Tokenizer,
    context: Option<usize>,
) -> Result<Engine, Failure> {
    let options = Options {
        context: args.context.or(context),
        ..Options::default()
    };
    let options = Options {
        max_sequences: args.beams.unwrap_or(options.max_sequences),
        max_logits: args.beams.unwrap_or(options.max_logits),
        ..options
    };
    let options = with_dtype(global, options);
    let context = self::context(global)?;
    let model = model(global, &context, source, args.ptuning.as_deref(), &options)?;
    let engine = Engine::new(&context, model, tokenizer)?;
    compiling::finish();
    Ok(engine)
}

/// The model of `source`, with the trained prefix in the folder `ptuning`, if one is given.
pub(crate) fn model(
    global: &Global,
    context: &Context,
    source: &ModelSource,
    ptuning: Option<&Path>,
    options: &Options,
) -> Result<Model, Failure> {
    let (architecture, checkpoint) = (source.architecture()?, checkpoint(global, source)?);
    let tuned = ptuning.map(Checkpoint::open).transpose()?;
    let own = architecture.prefix.map(|_| &checkpoint);
    let prefix = tuned.as_ref().or(own);
    with_progress(global, |progress| {
        Model::load_tuned(
            context,
            &architecture,
            &checkpoint,
            prefix,
            options,
            progress,
        )
    })
}

/// The tensors of `source`, kept as `--keep-packed` says.
pub(crate) fn checkpoint(global: &Global, source: &ModelSource) -> Result<Checkpoint, Failure> {
    let checkpoint = source.checkpoint()?;
    if !global.keep_packed {
        return Ok(checkpoint);
    }
    let folder = kept::needed_folder("keep packed weights")
        .map_err(|e| e.next_step("set GLM_CACHE to a folder, or leave out --keep-packed"))?;
    Ok(checkpoint.keep_packed(folder.join(kept::PACKED)))
}

/// What the publisher recommends, changed by what `args` say.
pub(crate) fn params(
    global: &Global,
    args: &Generate,
    recommended: &GenerationConfig,
    stop_ids: &[u32],
) -> Result<GenerationParams, Failure> {
    let mut params = GenerationParams::from(recommended);
    params.stop_ids.extend(stop_ids);
    params.stop_ids.sort_unstable();
    params.stop_ids.dedup();
    params.stop = args.stop.clone();
    params.max_new_tokens = args.max_tokens;
    let sampling = &mut params.sampling;
    sampling.temperature = args.temperature.unwrap_or(sampling.temperature);
    sampling.top_k = args.top_k.unwrap_or(sampling.top_k);
    sampling.top_p = args.top_p.unwrap_or(sampling.top_p);
    sampling.repetition_penalty = args
        .repetition_penalty
        .unwrap_or(sampling.repetition_penalty);
    sampling.seed = global.seed.unwrap_or_else(clock_seed);
    sampling.check()?;
    params.beams = args.beams.map(|beams| BeamSearch {
        beams,
        length_penalty: args.length_penalty.unwrap_or(1.0),
        no_repeat_ngram: args.no_repeat_ngram.unwrap_or(0),
    });
    Ok(params)
}

/// Sampled answers differ from run to run unless `--seed` is given.
pub(crate) fn clock_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| now.as_nanos() as u64)
}

/// A flag that Ctrl-C sets: it ends an answer, not the program.
pub(crate) fn catch_interrupts() -> Result<Arc<AtomicBool>, Failure> {
    let flag = Arc::new(AtomicBool::new(false));
    let seen = flag.clone();
    ctrlc::set_handler(move || {
        // A second Ctrl-C while the first still waits to be noticed.
        if seen.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    })
    .map_err(|e| Error::new(ErrorKind::Io, "listen for Ctrl-C", e.to_string()))?;
    Ok(flag)
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
        // Everything is planned: what follows is the bar's line.
        compiling::finish();
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
