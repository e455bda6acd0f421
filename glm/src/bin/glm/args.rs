//! The command line.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use conformance::Levels;
use hal::{DType, WeightFormat, kept};

use crate::codes::Lang;

/// Run any GLM on any chip.
#[derive(Debug, Parser)]
#[command(version, about, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 ok, 1 a check failed, 2 usage, 3 device or back end \
unavailable, 4 bad input (file, model, prompt), 5 does not fit in memory, 6 NaN or infinity, \
7 nothing was tested, 8 only time-outs, 70 internal error, 130 interrupted.";

/// Flags of every command.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Global {
    /// Device to run on: `cpu`; `glm devices` lists them
    #[arg(
        long,
        global = true,
        env = "GLM_DEVICE",
        default_value = "cpu",
        value_name = "SPEC"
    )]
    pub(crate) device: String,

    /// Type of weights and activations; int8 and int4… quantise the weights while loading
    /// [default: as the checkpoint, where the device computes with it]
    #[arg(long, global = true, env = "GLM_DTYPE", value_enum)]
    pub(crate) dtype: Option<Precision>,

    /// What the CPU's products with int8 and int4 weights do with activations: take them as they are, or round each block of up
    /// to 128 to eight bits and multiply integers, which is faster
    #[arg(
        long,
        global = true,
        env = "GLM_ACTIVATIONS",
        value_enum,
        default_value = "f32"
    )]
    pub(crate) activations: Activations,

    /// Type of the KV cache; int8 halves its memory and is for the CPU [default: the type of --dtype, where it names one, else the
    /// checkpoint's]
    #[arg(long, global = true, env = "GLM_KV_CACHE_DTYPE", value_enum)]
    pub(crate) kv_cache_dtype: Option<CacheType>,

    /// Keep the weights of a model as the CPU uses them, in the cache folder, and take them from there at the next start: loading
    /// then takes the time of reading, and processes share the memory
    #[arg(long, global = true, env = "GLM_KEEP_PACKED")]
    pub(crate) keep_packed: bool,

    /// Threads of the CPU; `glm bench` takes several numbers [default: one per core]
    #[arg(
        long,
        short = 't',
        global = true,
        env = "GLM_THREADS",
        value_delimiter = ',',
        value_name = "N"
    )]
    pub(crate) threads: Vec<usize>,

    /// Seed of sampling [default: from the clock]; of random weights in `glm bench` [default: 1]
    #[arg(long, short = 's', global = true, env = "GLM_SEED", value_name = "N")]
    pub(crate) seed: Option<u64>,

    /// Print one JSON document instead of text
    #[arg(long, global = true, env = "GLM_JSON")]
    pub(crate) json: bool,

    /// Print no progress and no statistics
    #[arg(long, short, global = true, env = "GLM_QUIET")]
    pub(crate) quiet: bool,

    /// Language of `glm doctor` and `glm errors` [default: that of LC_ALL, LC_MESSAGES or LANG]
    #[arg(long, global = true, env = "GLM_LANG", value_enum)]
    pub(crate) lang: Option<Lang>,
}

impl Global {
    /// The number of threads, where one was given.
    pub(crate) fn threads(&self) -> Option<usize> {
        self.threads.first().copied()
    }

    /// The language, asked for or that of the locale.
    pub(crate) fn lang(&self) -> Lang {
        self.lang.unwrap_or_else(Lang::of_locale)
    }
}

/// What `--kv-cache-dtype` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CacheType {
    /// 32-bit floats
    F32,
    /// 16-bit IEEE floats
    F16,
    /// bfloat16
    Bf16,
    /// 8 bits, one scale per key and value of a head
    Int8,
}

impl CacheType {
    /// The type of the elements.
    pub(crate) fn dtype(self) -> DType {
        match self {
            CacheType::F32 => DType::F32,
            CacheType::F16 => DType::F16,
            CacheType::Bf16 => DType::BF16,
            CacheType::Int8 => DType::I8,
        }
    }
}

/// What `--activations` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Activations {
    /// As they are
    F32,
    /// Eight bits
    Int8,
}

/// What `--dtype` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Precision {
    /// 32-bit floats
    F32,
    /// 16-bit IEEE floats
    F16,
    /// bfloat16
    Bf16,
    /// weights in 8 bits, one scale per row (GLM's own)
    Int8,
    /// weights in 8 bits, one scale per 32
    Int8G32,
    /// weights in 4 bits, one scale per row (GLM's own)
    Int4,
    /// weights in 4 bits, one scale per 32
    Int4G32,
    /// weights in 4 bits, one scale per 64
    Int4G64,
    /// weights in 4 bits, one scale per 128
    Int4G128,
}

impl Precision {
    /// The type of activations, when it names one.
    pub(crate) fn activations(self) -> Option<DType> {
        match self {
            Precision::F32 => Some(DType::F32),
            Precision::F16 => Some(DType::F16),
            Precision::Bf16 => Some(DType::BF16),
            _ => None,
        }
    }

    /// As it is written after `--dtype`.
    pub(crate) fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// The format of the linear layers' weights.
    pub(crate) fn weights(self) -> WeightFormat {
        match self {
            Precision::F32 => WeightFormat::Dense(DType::F32),
            Precision::F16 => WeightFormat::Dense(DType::F16),
            Precision::Bf16 => WeightFormat::Dense(DType::BF16),
            Precision::Int8 => WeightFormat::Int8Row,
            Precision::Int8G32 => WeightFormat::Int8Group(32),
            Precision::Int4 => WeightFormat::Int4Row,
            Precision::Int4G32 => WeightFormat::Int4Group(32),
            Precision::Int4G64 => WeightFormat::Int4Group(64),
            Precision::Int4G128 => WeightFormat::Int4Group(128),
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Talk with a model
    Chat(Chat),
    /// Fill the blanks of a text, or complete it
    Fill(Fill),
    /// Print the logits of given token ids, to compare with other programs
    Logits(Logits),
    /// Tell what a checkpoint holds, and what it lacks
    Inspect(Inspect),
    /// List the devices of this machine
    Devices,
    /// Check machine, drivers and variables; run a kernel on every device
    Doctor(Doctor),
    /// Tell whether a model fits a device, and which operations run there how, before anything is loaded
    Plan(Plan),
    /// Show which operations devices have, in which types, from their planners
    Support(Support),
    /// Explain a code of `glm doctor` or of an error
    Errors(Errors),
    /// Write a checkpoint as safetensors, from PyTorch's files and parallel shards too
    Convert(Convert),
    /// Write a checkpoint with quantised weights
    Quantize(Convert),
    /// Prove that a device computes right: run the conformance suite, write a report
    Conform(Conform),
    /// Record what a model computes, launch by launch, or when
    Trace(Trace),
    /// Find where two traces part, or how two conformance reports differ
    Compare(Compare),
    /// Run recorded launches again on a device, and judge them
    Replay(Replay),
    /// Measure how a device computes a model's products best, and keep it for later starts
    Tune(Tune),
    /// Measure how fast a device runs a model, or single operations
    Bench(Bench),
    /// Tell what is kept between starts, and how large it is; remove it
    Cache(Cache),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// `glm cache`.
#[derive(Debug, clap::Args)]
pub(crate) struct Cache {
    #[command(subcommand)]
    pub(crate) what: Option<CacheWhat>,
}

/// What `glm cache` does but tell.
#[derive(Debug, Subcommand)]
pub(crate) enum CacheWhat {
    /// Remove what is kept of these kinds; it is made again when it is needed
    Clear {
        /// The kinds
        #[arg(required = true, value_enum)]
        kinds: Vec<Kept>,
    },
}

/// What is kept, by the name of its folder.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Kept {
    Packed,
    Programs,
    Pipelines,
    Tuning,
    Emulator,
}

impl Kept {
    pub(crate) const ALL: [Kept; 5] = [
        Kept::Packed,
        Kept::Programs,
        Kept::Pipelines,
        Kept::Tuning,
        Kept::Emulator,
    ];

    /// Its folder in the cache.
    pub(crate) fn folder(self) -> &'static str {
        match self {
            Kept::Packed => kept::PACKED,
            Kept::Programs => kept::PROGRAMS,
            Kept::Pipelines => kept::PIPELINES,
            Kept::Tuning => kept::TUNING,
            Kept::Emulator => kept::EMULATOR,
        }
    }

    /// What lies there.
    pub(crate) fn what(self) -> &'static str {
        match self {
            Kept::Packed => {
                "weights as the CPU uses them, of every model and version (--keep-packed)"
            }
            Kept::Programs => "compiled kernels",
            Kept::Pipelines => "pipelines of graphics drivers",
            Kept::Tuning => "what `glm tune` found",
            Kept::Emulator => "kernels compiled for the emulator",
        }
    }
}

/// `glm chat`.
#[derive(Debug, clap::Args)]
pub(crate) struct Chat {
    /// Folder of the model [default: the small one inside this program]
    pub(crate) model: Option<PathBuf>,

    /// Ask once and print the answer alone
    #[arg(long, short)]
    pub(crate) prompt: Option<String>,

    /// System message
    #[arg(long)]
    pub(crate) system: Option<String>,

    /// JSON file with a list of functions that the model may call
    #[arg(long, value_name = "FILE")]
    pub(crate) tools: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) generate: Generate,
}

/// `glm fill`.
#[derive(Debug, clap::Args)]
pub(crate) struct Fill {
    /// Folder of the model
    pub(crate) model: PathBuf,

    /// The text. Its blanks are [MASK] (words), [sMASK] (a sentence) and [gMASK] (the rest); without one, and for
    /// models that fill no blanks, the text is completed
    pub(crate) text: String,

    /// Begin with the comment that tells CodeGeeX this programming language
    #[arg(long, value_name = "NAME")]
    pub(crate) language: Option<String>,

    #[command(flatten)]
    pub(crate) generate: Generate,
}

/// How text is generated.
#[derive(Debug, clap::Args)]
pub(crate) struct Generate {
    /// Folder of a fine-tune with a trained prefix (P-Tuning v2) for this model
    #[arg(long, value_name = "DIR")]
    pub(crate) ptuning: Option<PathBuf>,

    /// Randomness; 0 takes the likeliest token [default: the model's own]
    #[arg(long, value_name = "T")]
    pub(crate) temperature: Option<f32>,

    /// Sample among the K likeliest; 0: all [default: the model's own]
    #[arg(long, value_name = "K")]
    pub(crate) top_k: Option<u32>,

    /// Sample among the likeliest of total probability P [default: the model's own]
    #[arg(long, value_name = "P")]
    pub(crate) top_p: Option<f32>,

    /// Divide the logits of tokens seen before by R [default: the model's own]
    #[arg(long, value_name = "R")]
    pub(crate) repetition_penalty: Option<f32>,

    /// Longest answer, in tokens; of each blank
    #[arg(long, short = 'n', value_name = "N", default_value_t = 1024)]
    pub(crate) max_tokens: usize,

    /// Context kept, in tokens [default: the model's own, at most 8192; 128 for the one inside]
    #[arg(long, short = 'c', env = "GLM_CONTEXT", value_name = "N")]
    pub(crate) context: Option<usize>,

    /// End the answer before this text; may be repeated
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,

    /// Search the likeliest text with N beams instead of sampling
    #[arg(
        long,
        value_name = "N",
        conflicts_with_all = ["temperature", "top_k", "top_p", "repetition_penalty"]
    )]
    pub(crate) beams: Option<usize>,

    /// Above 0 favours longer texts among those of a search [default: 1]
    #[arg(
        long,
        value_name = "P",
        requires = "beams",
        allow_negative_numbers = true
    )]
    pub(crate) length_penalty: Option<f64>,

    /// Let a search repeat no run of N tokens [default: 0, any may be repeated]
    #[arg(long, value_name = "N", requires = "beams")]
    pub(crate) no_repeat_ngram: Option<usize>,
}

/// `glm logits`.
#[derive(Debug, clap::Args)]
pub(crate) struct Logits {
    /// Folder of the model [default: the small one inside this program]
    pub(crate) model: Option<PathBuf>,

    /// Token ids
    #[arg(long, value_delimiter = ',', required = true, value_name = "ID,ID,…")]
    pub(crate) ids: Vec<u32>,

    /// Position of each token [default: 0, 1, 2, …]; a second one for each after all the first, where models have two
    /// [default: 0]
    #[arg(long, value_delimiter = ',', value_name = "P,P,…")]
    pub(crate) positions: Option<Vec<u32>>,

    /// Number of first tokens that every token sees (models with a bidirectional prefix)
    #[arg(long, value_name = "N")]
    pub(crate) context_visible: Option<usize>,

    /// Folder of a fine-tune with a trained prefix (P-Tuning v2) for this model
    #[arg(long, value_name = "DIR")]
    pub(crate) ptuning: Option<PathBuf>,

    /// Rows to print: `all`, `last`, or indices
    #[arg(long, default_value = "last", value_name = "all|last|I,J,…")]
    pub(crate) rows: RowChoice,
}

/// What `--rows` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RowChoice {
    All,
    Last,
    These(Vec<usize>),
}

impl std::str::FromStr for RowChoice {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "all" => Ok(RowChoice::All),
            "last" => Ok(RowChoice::Last),
            _ => s
                .split(',')
                .map(|i| {
                    i.trim()
                        .parse()
                        .map_err(|_| format!("'{i}' is not `all`, `last` or an index"))
                })
                .collect::<Result<_, _>>()
                .map(RowChoice::These),
        }
    }
}

/// `glm trace`.
#[derive(Debug, clap::Args)]
pub(crate) struct Trace {
    /// Folder of the model [default: the small one inside this program]
    pub(crate) model: Option<PathBuf>,

    /// A question, put as `glm chat -p` would; a text to complete for models that do not chat
    #[arg(long, short, required_unless_present = "ids")]
    pub(crate) prompt: Option<String>,

    /// Token ids instead of a question
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "ID,ID,…",
        conflicts_with = "prompt"
    )]
    pub(crate) ids: Option<Vec<u32>>,

    /// Tokens to generate, always the likeliest
    #[arg(long, short = 'n', value_name = "N", default_value_t = 1)]
    pub(crate) max_tokens: usize,

    /// Write the trace to this file: statistics of every argument
    #[arg(long, short, value_name = "FILE", required_unless_present = "timeline")]
    pub(crate) output: Option<PathBuf>,

    /// Keep whole tensors, weights included, where one of these is part of the place: layers.17, attention, all
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "PLACE,…",
        requires = "output"
    )]
    pub(crate) tensors: Vec<String>,

    /// Write when each launch ran, for https://ui.perfetto.dev
    #[arg(long, value_name = "FILE", conflicts_with = "output")]
    pub(crate) timeline: Option<PathBuf>,

    /// Folder of a fine-tune with a trained prefix (P-Tuning v2) for this model
    #[arg(long, value_name = "DIR")]
    pub(crate) ptuning: Option<PathBuf>,
}

/// `glm compare`.
#[derive(Debug, clap::Args)]
pub(crate) struct Compare {
    /// The reference: a trace, or a report.json of `glm conform`
    pub(crate) a: PathBuf,

    /// What is compared with it
    pub(crate) b: PathBuf,

    /// Share of its norm that an output may be away from the reference
    #[arg(long, value_name = "SHARE", default_value = "25%")]
    pub(crate) limit: Share,

    /// Feed each launch whose tensors the reference has with the reference's inputs, on the device of the second trace:
    /// which is wrong by itself?
    #[arg(long)]
    pub(crate) isolate: bool,
}

/// `glm replay`.
#[derive(Debug, clap::Args)]
pub(crate) struct Replay {
    /// A trace with tensors
    pub(crate) trace: PathBuf,

    /// Only these operations or places, with * and ?: `matmul`, `*mlp*`
    #[arg(long, value_delimiter = ',', value_name = "PATTERN,…")]
    pub(crate) ops: Vec<String>,
}

/// `glm tune`.
#[derive(Debug, clap::Args)]
pub(crate) struct Tune {
    /// Folder of the model [default: the small one inside this program]
    pub(crate) model: Option<PathBuf>,

    /// For each product: after this no new candidate is begun
    #[arg(long, default_value_t = 60, value_name = "N")]
    pub(crate) seconds: u64,
}

/// `glm bench`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Bench {
    #[command(subcommand)]
    pub(crate) ops: Option<BenchWhat>,

    /// Folder of the model [default: the small one inside this program]
    pub(crate) model: Option<PathBuf>,

    /// The shape of a published model with random weights instead: chatglm3-6b, glm-4-9b, glm-edge-1.5b, glm-130b, …
    #[arg(long, value_name = "NAME", conflicts_with = "model")]
    pub(crate) shape: Option<String>,

    /// Only the first N layers of the shape
    #[arg(long, value_name = "N", requires = "shape")]
    pub(crate) layers: Option<usize>,

    /// Tokens that a sequence of the shape may have, instead of the published model's
    #[arg(long, value_name = "N", requires = "shape")]
    pub(crate) context: Option<NonZeroUsize>,

    /// Tokens of prompts [default: 512, less where the context is short]
    #[arg(long, short, value_delimiter = ',', value_name = "N,N,…")]
    pub(crate) prompt: Option<Vec<usize>>,

    /// Tokens to decode [default: 64, less where the context is short]
    #[arg(long, short = 'n', value_delimiter = ',', value_name = "N,N,…")]
    pub(crate) tokens: Option<Vec<usize>>,

    /// Tokens that are in the cache before
    #[arg(
        long,
        short,
        value_delimiter = ',',
        default_value = "0",
        value_name = "N,N,…"
    )]
    pub(crate) depth: Vec<usize>,

    /// Write random numbers into the cache for the tokens of --depth instead of computing them: speed is the same, and long
    /// caches take no minutes
    #[arg(long)]
    pub(crate) random_cache: bool,

    /// Sequences at a time
    #[arg(
        long,
        short,
        value_delimiter = ',',
        default_value = "1",
        value_name = "N,N,…"
    )]
    pub(crate) batch: Vec<NonZeroUsize>,

    /// The most tokens of one step; longer prompts go in several
    #[arg(long, default_value = "512", value_name = "N")]
    pub(crate) chunk: NonZeroUsize,

    #[command(flatten)]
    pub(crate) report: BenchReport,

    /// Compare two results that -o json wrote
    #[arg(
        long,
        num_args = 2,
        value_names = ["A", "B"],
        conflicts_with_all = ["model", "shape", "prompt", "tokens"]
    )]
    pub(crate) compare: Option<Vec<PathBuf>>,

    /// With --compare: exit code 1 when a rate of B is below this share of A's
    #[arg(long, value_name = "SHARE", requires = "compare")]
    pub(crate) least: Option<Share>,
}

/// What `glm bench` measures instead of a model.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchWhat {
    /// Each operation of a model on its own, and what it costs to queue one; without --dtype products with weights in bf16,
    /// int8, int4 and int4-g32
    Ops(BenchOps),
}

/// `glm bench ops`.
#[derive(Debug, clap::Args)]
pub(crate) struct BenchOps {
    /// Shapes of published models whose operations are measured
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "chatglm3-6b",
        value_name = "NAME,…"
    )]
    pub(crate) shape: Vec<String>,

    /// Only figures whose name fits, with * and ?: `matmul*int4`, `attention*`
    #[arg(long, value_delimiter = ',', value_name = "PATTERN,…")]
    pub(crate) only: Vec<String>,

    /// Rows of products
    #[arg(
        long,
        short = 'm',
        value_delimiter = ',',
        default_value = "1,8,64,512,4096",
        value_name = "N,N,…"
    )]
    pub(crate) rows: Vec<NonZeroUsize>,

    /// Tokens of prompts that attention sees whole
    #[arg(
        long,
        short,
        value_delimiter = ',',
        default_value = "2048,4096,8192,16384,32768",
        value_name = "N,N,…"
    )]
    pub(crate) prompt: Vec<NonZeroUsize>,

    /// Tokens in the cache over which one token attends
    #[arg(
        long,
        short,
        value_delimiter = ',',
        default_value = "8192,32768,131072",
        value_name = "N,N,…"
    )]
    pub(crate) depth: Vec<NonZeroUsize>,

    /// Sequences that attend at a time
    #[arg(
        long,
        short,
        value_delimiter = ',',
        default_value = "1",
        value_name = "N,N,…"
    )]
    pub(crate) batch: Vec<NonZeroUsize>,

    /// MiB of the largest operand of what memory bounds: norms, rope, gates
    #[arg(long, default_value = "64", value_name = "N")]
    pub(crate) mib: NonZeroUsize,

    /// Time for one figure; what would take longer is skipped
    #[arg(long, default_value = "2", value_name = "SECONDS", value_parser = seconds)]
    pub(crate) seconds: f64,

    #[command(flatten)]
    pub(crate) report: BenchReport,
}

/// How `glm bench` repeats and writes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct BenchReport {
    /// Times that each test is run
    #[arg(long, short, default_value = "5", value_name = "N")]
    pub(crate) runs: NonZeroUsize,

    /// How results are written to stdout
    #[arg(long, short, value_enum, default_value = "md", value_name = "FORMAT")]
    pub(crate) output: BenchFormat,
}

/// Formats of `glm bench`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchFormat {
    /// A Markdown table, row by row
    Md,
    /// Comma-separated values, row by row
    Csv,
    /// One JSON document at the end
    Json,
    /// One JSON object per row
    Jsonl,
}

/// `glm inspect`.
#[derive(Debug, clap::Args)]
pub(crate) struct Inspect {
    /// Folder or file of the model [default: the small one inside this program]
    pub(crate) path: Option<PathBuf>,

    /// List every tensor
    #[arg(long)]
    pub(crate) tensors: bool,

    /// Print the chat template
    #[arg(long)]
    pub(crate) template: bool,

    /// Print the token ids of this text
    #[arg(long, value_name = "TEXT")]
    pub(crate) tokens: Option<String>,
}

/// `glm doctor`.
#[derive(Debug, clap::Args)]
pub(crate) struct Doctor {
    /// Seconds that one back end may take
    #[arg(long, default_value = "120", value_parser = seconds, value_name = "SECONDS")]
    pub(crate) timeout: f64,

    /// Write the findings as JSON into this file too
    #[arg(long, value_name = "FILE")]
    pub(crate) snapshot: Option<PathBuf>,

    /// Try this one in this very process: how a check starts its workers
    #[arg(long, hide = true)]
    pub(crate) worker: Option<String>,
}

/// `glm plan`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Plan {
    /// Folder or file of the model [default: the small one inside this program]
    pub(crate) model: Option<PathBuf>,

    /// The shape of a published model instead, without its files: chatglm3-6b, glm-4-9b, glm-edge-1.5b, glm-130b, …
    #[arg(long, value_name = "NAME", conflicts_with = "model")]
    pub(crate) shape: Option<String>,

    /// Context kept for each sequence, in tokens [default: the model's own, at most 8192]
    #[arg(long, short = 'c', env = "GLM_CONTEXT", value_name = "N")]
    pub(crate) context: Option<usize>,

    /// Sequences at a time
    #[arg(long, short, default_value = "1", value_name = "N")]
    pub(crate) batch: NonZeroUsize,

    /// Folder of a fine-tune with a trained prefix (P-Tuning v2) for this model
    #[arg(long, value_name = "DIR", conflicts_with = "shape")]
    pub(crate) ptuning: Option<PathBuf>,
}

/// `glm support`.
#[derive(Debug, clap::Args)]
pub(crate) struct Support {
    /// Print a Markdown table, of what every machine gives alike
    #[arg(long, conflicts_with = "json")]
    pub(crate) markdown: bool,
}

/// `glm errors`.
#[derive(Debug, clap::Args)]
pub(crate) struct Errors {
    /// The code: GLM-D041, or D041 [default: list them all]
    pub(crate) code: Option<String>,
}

/// `glm convert` and `glm quantize`.
#[derive(Debug, clap::Args)]
pub(crate) struct Convert {
    /// Folder of the model, or one file of weights
    pub(crate) source: PathBuf,

    /// Folder to write; must not exist or be empty. `--dtype` names the format of the matrices
    pub(crate) destination: PathBuf,
}

/// `glm conform`.
#[derive(Debug, clap::Args)]
pub(crate) struct Conform {
    /// Levels: 0 memory, 1 exact, 2 elementwise, 3 matmul, 4 attention and norms, 5 small models, 6 robustness, 7 speed
    #[arg(long, default_value = "0..6", value_name = "A..B")]
    pub(crate) level: Levels,

    /// Only these operations or checks, with * and ?: `matmul`, `*norm`, `matmul/f16*`
    #[arg(long, value_delimiter = ',', value_name = "PATTERN,…")]
    pub(crate) ops: Vec<String>,

    /// A fixed small part of the cases, for a first look; certifies nothing
    #[arg(long, conflicts_with = "full")]
    pub(crate) quick: bool,

    /// Three times the cases, and the sizes of every GLM model
    #[arg(long)]
    pub(crate) full: bool,

    /// Folder for report.html, report.json, junit.xml and summary.md
    #[arg(long, value_name = "DIR")]
    pub(crate) report: Option<PathBuf>,

    /// Go on with the run that was interrupted in the folder of --report
    #[arg(long, requires = "report")]
    pub(crate) resume: bool,

    /// Known failures (TOML)
    #[arg(long, value_name = "FILE")]
    pub(crate) waivers: Option<PathBuf>,

    /// Worker processes at once
    #[arg(long, short, default_value = "1", value_name = "N")]
    pub(crate) jobs: NonZeroUsize,

    /// Seconds that one check may take
    #[arg(long, default_value = "60", value_parser = seconds, value_name = "SECONDS")]
    pub(crate) timeout: f64,

    /// Seconds that level 6 goes on launching a mix of all operations [default: 4; with --quick 1, with --full 60]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) soak: Option<u32>,

    /// Order of the checks, or choice of the sample [default: from the clock]
    #[arg(long, value_name = "N")]
    pub(crate) order_seed: Option<u64>,

    /// Sign the report with this Ed25519 key: a file of 64 hexadecimal digits
    #[arg(long, value_name = "FILE")]
    pub(crate) sign_key: Option<PathBuf>,

    /// List the checks and run none
    #[arg(long)]
    pub(crate) list: bool,

    /// Check digest and signature of this report, and run a sample of it again
    #[arg(long, value_name = "REPORT", conflicts_with_all = ["report", "waivers", "sign_key", "list"])]
    pub(crate) verify: Option<PathBuf>,

    /// Share of the results that --verify runs again
    #[arg(long, default_value = "1%", value_name = "SHARE", requires = "verify")]
    pub(crate) sample: Share,

    /// Break the device's kernels in every way of a table, and count how often the suite finds it
    #[cfg(feature = "emulator")]
    #[arg(long, conflicts_with_all = ["report", "waivers", "sign_key", "list", "verify", "full"])]
    pub(crate) mutation_score: bool,

    /// Random cases that the device as it is must pass too, with --mutation-score
    #[cfg(feature = "emulator")]
    #[arg(
        long,
        default_value = "0",
        value_name = "N",
        requires = "mutation_score"
    )]
    pub(crate) random_cases: usize,

    /// Take checks from stdin: how a run starts its workers
    #[arg(long, hide = true)]
    pub(crate) worker: bool,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.001..=1e6).contains(&seconds) => Ok(seconds),
        _ => Err("must be a number of seconds, at least 0.001".into()),
    }
}

/// A part of a whole: `1%`, `0.01`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Share(pub(crate) f64);

impl std::str::FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, whole) = match text.strip_suffix('%') {
            Some(number) => (number, 100.0),
            None => (text, 1.0),
        };
        match number.trim().parse::<f64>().map(|n| n / whole) {
            Ok(share) if (0.0..=1.0).contains(&share) => Ok(Share(share)),
            _ => Err("must be a share: 1%, 0.01".into()),
        }
    }
}
