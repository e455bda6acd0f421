//! What can be computed: one file per operation, with its specification, argument rules, f64 reference and
//! composition from smaller operations.
//!
//! Design choices:
//! - The portable unit is the *operation*, not the kernel launch: operator libraries, bindings of wgpu, CPU threads
//!   and cuBLAS do not fit `launch(kernel, grid, args)`.
//! - Plan once, launch many: [`Context::plan`] chooses a kernel; [`Plan::run`] checks arguments and makes one
//!   dynamic call. No lock, lookup or allocation on the way.
//! - A backend is a *value*: an [`Ops`] table with a planner per operation. Adding one touches nothing here.
//! - One ladder: native, composed on the same device, the host if the user asked aloud, else `Unsupported`.
//! - Weights belong to the backend: [`Launch::pack`] brings a [`HostWeight`] into the kernel's own layout.
//! - Vectors of parameters (norm weights, biases) are f32 for every operation; activations are f32, f16 or bf16.
//! - Values that change from step to step (positions, lengths, page tables, sampled ids) live in device memory,
//!   so that a step can be replayed as a graph.
//!
//! Who validates what: [`check_args`] checks shapes, types, devices and overlap before every launch. Kernels bound
//! what they *read from memory* (token ids, page ids, lengths) so that wrong values give wrong numbers, not faults.
//! The order of arguments is the same everywhere: outputs, inputs, weights.

mod context;
pub mod kv_cache;
mod observe;
mod op;
mod plan;
pub mod reference;
mod table;
mod weight;
mod workspace;

mod activation;
mod add_layer_norm;
mod add_rms_norm;
mod argmax;
mod attention;
mod batched_matmul;
mod cast;
mod copy;
mod elementwise;
mod embedding;
mod glu;
mod kv_write;
mod layer_norm;
mod matmul;
mod rms_norm;
mod rope;
mod rope_kv_write;
mod sample;
mod softmax;
mod top_k;

pub use activation::{Act, Activation, ActivationArgs};
pub use add_layer_norm::{AddLayerNorm, AddLayerNormArgs};
pub use add_rms_norm::{AddRmsNorm, AddRmsNormArgs};
pub use argmax::{Argmax, ArgmaxArgs};
pub use attention::{Attention, AttentionArgs, Mask};
pub use batched_matmul::{BatchedMatmul, BatchedMatmulArgs};
pub use cast::{Cast, CastArgs};
pub use context::Context;
pub use copy::{CopyArgs, StridedCopy};
pub use elementwise::{Binary, Elementwise, ElementwiseArgs};
pub use embedding::{Embedding, EmbeddingArgs};
pub use glu::{Glu, GluArgs, Half};
pub use kv_write::{KvWrite, KvWriteArgs};
pub use layer_norm::{LayerNorm, LayerNormArgs};
pub use matmul::{ACTIVATION_BLOCK, Matmul, MatmulArgs, SMALLEST_ACTIVATION};
pub use observe::{Call, Observer, Spec};
pub use op::{
    Arg, ArgList, Launch, MAX_ARGS, Op, Planned, Planner, Role, SafeLaunch, Signature, check_args,
};
pub use plan::{How, Plan};
pub use rms_norm::{RmsNorm, RmsNormArgs};
pub use rope::{Rope, RopeArgs, RopeLayout};
pub use rope_kv_write::{RopeKvWrite, RopeKvWriteArgs};
pub use sample::{Sample, SampleArgs, SampleControl, philox};
pub use softmax::{Softmax, SoftmaxArgs};
pub use table::{Accelerator, Ops};
pub use top_k::{TopK, TopKArgs};
pub use weight::{HostWeight, nibble};
