//! From a kernel's file to a program: its text, its bindings, its parameters.
//!
//! A kernel file declares `struct Params` and `fn run(lid: u32, group: u32)`, which one workgroup of [`WORKGROUP`]
//! invocations calls. Before it stand, made here: `prelude.wgsl`, the parameters as `p`, and for each argument its
//! binding and accessors ([`Slot`]); after it the entry point.

use std::fmt::Write;
use std::sync::Arc;

use arrayvec::ArrayVec;
use hal::{Buffer, DType, Error, ErrorKind, Result, Stream, View};
use ops::{HostWeight, Launch, Op, Role};
use wgpu::Features;

use crate::device::WgpuMemory;
use crate::gpu::Gpu;
use crate::pipelines::Pipelines;
use crate::stream::WgpuStream;

/// Invocations of every workgroup: what the smallest adapters have.
pub(crate) const WORKGROUP: u32 = 64;

/// The most bytes of parameters: what immediates hold on every adapter that has them.
pub(crate) const PARAMS_BYTES: usize = 128;

/// Bindings end at multiples of this where they may, so that a view which grows from step to step rarely needs another
/// bind group.
const STEP_BYTES: u64 = 4096;

/// The most bindings of a kernel.
const MAX_BINDINGS: usize = 8;

/// Workgroup memory of the reductions that every kernel has.
pub(crate) const REDUCE_BYTES: usize = 4 * WORKGROUP as usize;

const PRELUDE: &str = include_str!("../kernels/prelude.wgsl");
const REDUCE_LOCAL: &str = include_str!("../kernels/reduce_local.wgsl");
const REDUCE_SUBGROUP: &str = include_str!("../kernels/reduce_subgroup.wgsl");

/// One binding of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    name: &'static str,
    kind: Kind,
}

/// What a kernel sees of an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Elements that are read: `fn x_at(i: u32) -> f32` (or `i32`).
    In(DType),
    /// Elements that are written: `fn out_put(i: u32, value: f32)` and the walk over words (`out_units`, `out_cols`,
    /// `out_put_unit`); `fn out_at`, too.
    Out(DType),
    /// The words themselves: an array of the same name.
    Words,
    /// The words themselves, atomic.
    Atomics,
    /// Words of a packed weight, four at a time, read-only.
    Weight,
    /// Words of its scales, read-only.
    Scales,
}

impl Slot {
    pub(crate) const fn input(name: &'static str, dtype: DType) -> Self {
        Self {
            name,
            kind: Kind::In(dtype),
        }
    }

    pub(crate) const fn output(name: &'static str, dtype: DType) -> Self {
        Self {
            name,
            kind: Kind::Out(dtype),
        }
    }

    pub(crate) const fn words(name: &'static str) -> Self {
        Self {
            name,
            kind: Kind::Words,
        }
    }

    pub(crate) const fn atomics(name: &'static str) -> Self {
        Self {
            name,
            kind: Kind::Atomics,
        }
    }

    pub(crate) const fn weight(name: &'static str) -> Self {
        Self {
            name,
            kind: Kind::Weight,
        }
    }

    pub(crate) const fn scales(name: &'static str) -> Self {
        Self {
            name,
            kind: Kind::Scales,
        }
    }

    /// The binding and its accessors.
    fn declare(self, binding: usize, text: &mut String) {
        let (template, dtype) = match self.kind {
            Kind::In(dtype) if dtype.bytes() == 2 => {
                (include_str!("../kernels/slots/in_half.wgsl"), dtype)
            }
            Kind::In(dtype) => (include_str!("../kernels/slots/in_word.wgsl"), dtype),
            Kind::Out(dtype) if dtype.bytes() == 2 => {
                (include_str!("../kernels/slots/out_half.wgsl"), dtype)
            }
            Kind::Out(dtype) => (include_str!("../kernels/slots/out_word.wgsl"), dtype),
            Kind::Words => (include_str!("../kernels/slots/words.wgsl"), DType::U8),
            Kind::Atomics => (include_str!("../kernels/slots/atomics.wgsl"), DType::U8),
            Kind::Weight => (include_str!("../kernels/slots/weight.wgsl"), DType::U8),
            Kind::Scales => (include_str!("../kernels/slots/scales.wgsl"), DType::U8),
        };
        let text_of_slot = template
            .replace("$binding", &binding.to_string())
            .replace("$name", self.name)
            .replace("$type", dtype.name());
        text.push_str(&text_of_slot);
    }
}

/// The slots of an operation's signature; `None` when a type is none that kernels know.
pub(crate) fn slots<O: Op>(op: &O) -> Option<Vec<Slot>> {
    let slot = |arg: &ops::Arg| {
        let known = arg.dtype.is_float() || arg.dtype == DType::I32;
        let kind = match arg.role {
            Role::Weight(_) => Kind::Weight,
            Role::In => Kind::In(arg.dtype),
            Role::Out | Role::InOut => Kind::Out(arg.dtype),
        };
        (known || kind == Kind::Weight).then_some(Slot {
            name: arg.name,
            kind,
        })
    };
    op.signature().iter().map(slot).collect()
}

/// The text that a program is compiled from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Text {
    name: &'static str,
    source: String,
    read_only: Vec<bool>,
}

impl Text {
    /// The kernel `name` with file `body`, bindings `slots`, and constants.
    pub(crate) fn new(
        gpu: &Gpu,
        name: &'static str,
        body: &str,
        slots: &[Slot],
        constants: &[(&str, u32)],
    ) -> Self {
        let mut source = String::from(PRELUDE);
        let native_half = ("NATIVE_HALF", gpu.native_half().into());
        for (constant, value) in constants.iter().chain([&native_half]) {
            // Writing to a string does not fail.
            let _ = writeln!(source, "const {constant}: u32 = {value}u;");
        }
        let subgroups = gpu.features.contains(Features::SUBGROUP);
        source.push_str(match subgroups {
            true => REDUCE_SUBGROUP,
            false => REDUCE_LOCAL,
        });
        match gpu.immediates() {
            true => source.push_str("var<immediate> p: Params;\n"),
            false => {
                let _ = writeln!(
                    source,
                    "@group(0) @binding({}) var<uniform> p: Params;",
                    slots.len()
                );
            }
        }
        for (i, slot) in slots.iter().enumerate() {
            slot.declare(i, &mut source);
        }
        source.push_str(body);
        Self {
            name,
            source,
            read_only: slots
                .iter()
                .map(|s| matches!(s.kind, Kind::Weight | Kind::Scales))
                .collect(),
        }
    }
}

/// A compiled kernel.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) layout: wgpu::BindGroupLayout,
}

impl Program {
    pub(crate) fn compile(gpu: &Gpu, text: &Text) -> Result<Self> {
        let uniform = !gpu.immediates();
        gpu.counters.pipelines.add();
        let made = gpu.catching(
            &format!("compile {} on {}", text.name, gpu.adapter.spec),
            || {
                let layout = gpu.layout(&text.read_only, uniform);
                let module = trusted(
                    gpu,
                    wgpu::ShaderModuleDescriptor {
                        label: Some(text.name),
                        source: wgpu::ShaderSource::Wgsl(text.source.as_str().into()),
                    },
                );
                let pipeline_layout =
                    gpu.device
                        .create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                            label: None,
                            bind_group_layouts: &[Some(&layout)],
                            immediate_size: if uniform { 0 } else { PARAMS_BYTES as u32 },
                        });
                let pipeline =
                    gpu.device
                        .create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                            label: Some(text.name),
                            layout: Some(&pipeline_layout),
                            module: &module,
                            entry_point: Some("main"),
                            // Kernels write workgroup memory before they read it.
                            compilation_options: wgpu::PipelineCompilationOptions {
                                zero_initialize_workgroup_memory: false,
                                ..Default::default()
                            },
                            cache: gpu.pipelines.as_ref().map(Pipelines::cache),
                        });
                (layout, pipeline)
            },
        );
        let (layout, pipeline) = made.map_err(|e| match e.kind() {
            ErrorKind::Unexpected => Error::new(ErrorKind::CompileFailed, e.doing(), e.detail())
                .next_step("report it, with the driver's version"),
            _ => e,
        })?;
        Ok(Self {
            name: text.name,
            pipeline,
            layout,
        })
    }
}

/// Makes a module that bounds its accesses, but neither counts the rounds of its loops nor guards its divisions.
#[expect(unsafe_code, reason = "the only call that leaves checks out")]
fn trusted(gpu: &Gpu, module: wgpu::ShaderModuleDescriptor<'_>) -> wgpu::ShaderModule {
    let checks = wgpu::ShaderRuntimeChecks {
        force_loop_bounding: false,
        int_div_checks: false,
        ..wgpu::ShaderRuntimeChecks::checked()
    };
    // SAFETY: the texts are this crate's own. Every loop counts up to a parameter or a constant, or halves a number.
    // Every divisor is a constant or the length of a dimension of an argument that is not empty; none is signed.
    unsafe { gpu.device.create_shader_module_trusted(module, checks) }
}

/// A view as a kernel gets it: a part of its buffer that begins where bindings may, and where in it the view begins.
#[derive(Clone, Debug)]
pub(crate) struct Bound<'a> {
    pub(crate) buffer: &'a wgpu::Buffer,
    /// The buffer's number.
    pub(crate) number: u64,
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
    /// The first element of the view, in elements from the binding's start.
    pub(crate) first: u32,
}

/// The memory of a buffer of this back end.
pub(crate) fn memory<'a>(gpu: &Gpu, buffer: &'a Buffer) -> Result<&'a WgpuMemory> {
    buffer
        .downcast::<WgpuMemory>()
        .filter(|_| buffer.device() == gpu.id)
        .ok_or_else(|| Error::invalid("launch a kernel", "a buffer lies on another device"))
}

/// Binds the bytes of `view`.
///
/// # Errors
/// `Unsupported` when they are more than one binding may have.
pub(crate) fn bind<'a>(gpu: &Gpu, view: &View<'a>) -> Result<Bound<'a>> {
    let range = view.range_bytes();
    bind_bytes(gpu, view.buffer(), range, view.dtype().bytes())
}

/// Binds a range of bytes; elements have `size` bytes.
pub(crate) fn bind_bytes<'a>(
    gpu: &Gpu,
    buffer: &'a Buffer,
    range: std::ops::Range<usize>,
    size: usize,
) -> Result<Bound<'a>> {
    let memory = memory(gpu, buffer)?;
    let align = gpu.limits.min_storage_buffer_offset_alignment as usize;
    let offset = range.start / align * align;
    let bytes = (range.end.max(range.start + 1) - offset).next_multiple_of(16) as u64;
    // The buffer is longer than its bytes say, but not by 16 at the very end of it.
    let rest = memory.buffer.size() - offset as u64;
    let (bytes, whole) = (
        bytes.min(rest),
        bytes.next_multiple_of(STEP_BYTES).min(rest),
    );
    let limit = gpu.limits.max_storage_buffer_binding_size;
    if bytes > limit {
        return Err(too_long(gpu, bytes));
    }
    let bytes = if whole <= limit { whole } else { bytes };
    Ok(Bound {
        buffer: &memory.buffer,
        number: memory.number,
        offset: offset as u64,
        bytes,
        first: ((range.start - offset) / size) as u32,
    })
}

/// `Unsupported`, because of the length of bindings.
pub(crate) fn too_long(gpu: &Gpu, bytes: u64) -> Error {
    Error::unsupported(
        format!("launch a kernel on {}", gpu.adapter.spec),
        format!(
            "an argument spans {bytes} B, one binding has at most {} B \
             (max_storage_buffer_binding_size)",
            gpu.limits.max_storage_buffer_binding_size
        ),
    )
    .next_step("use a smaller batch, context or type, or another device")
}

/// The parameters of one launch: words in the order of the kernel's `Params`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Params(ArrayVec<u32, { PARAMS_BYTES / 4 }>);

impl Params {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds one word.
    ///
    /// # Panics
    /// When there are more than immediates hold; a kernel's list does not depend on its caller.
    pub(crate) fn word(mut self, word: usize) -> Self {
        debug_assert!(u32::try_from(word).is_ok(), "parameter {word}");
        self.0.push(word as u32);
        self
    }

    pub(crate) fn float(mut self, x: f32) -> Self {
        self.0.push(x.to_bits());
        self
    }

    /// Adds words, filled up with `fill` to `n`.
    pub(crate) fn words(mut self, words: &[usize], n: usize, fill: usize) -> Self {
        for i in 0..n {
            self = self.word(words.get(i).copied().unwrap_or(fill));
        }
        self
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

/// Several bindings.
pub(crate) type Bindings<'a> = ArrayVec<Bound<'a>, MAX_BINDINGS>;

/// Binds views, in order.
pub(crate) fn bind_all<'a>(gpu: &Gpu, views: &[View<'a>]) -> Result<Bindings<'a>> {
    views.iter().map(|view| bind(gpu, view)).collect()
}

/// What a file of `ops` gives: how arguments become dispatches.
pub(crate) trait Kernel: Send + Sync {
    /// As [`Launch::workspace_bytes`].
    fn workspace_bytes(&self, _shapes: &[&[usize]]) -> usize {
        0
    }

    /// Queues the work.
    fn queue(&self, stream: &mut WgpuStream, args: &[View<'_>], workspace: &View<'_>)
    -> Result<()>;

    /// As [`Launch::pack`].
    fn pack(&self, _weight: &HostWeight<'_>) -> Result<Buffer> {
        Err(Error::unsupported(
            "pack a weight",
            "this operation has none",
        ))
    }
}

/// A [`Kernel`] as a [`Launch`].
struct Native<K>(K);

#[expect(
    unsafe_code,
    reason = "the trait's method is unsafe to call; nothing here is"
)]
impl<K: Kernel> Launch for Native<K> {
    fn workspace_bytes(&self, shapes: &[&[usize]]) -> usize {
        self.0.workspace_bytes(shapes)
    }

    unsafe fn launch(
        &self,
        stream: &mut dyn Stream,
        args: &[View<'_>],
        workspace: &View<'_>,
    ) -> Result<()> {
        let stream = stream.downcast::<WgpuStream>().ok_or_else(|| {
            Error::invalid("launch a kernel", "the stream is of another back end")
        })?;
        self.0.queue(stream, args, workspace)
    }

    fn pack(&self, weight: &HostWeight<'_>) -> Result<Buffer> {
        self.0.pack(weight)
    }
}

/// What a file's `plan` gives.
pub(crate) type Planned = Result<Option<Arc<dyn Launch>>>;

/// A planned kernel.
pub(crate) fn native(kernel: impl Kernel + 'static) -> Planned {
    Ok(Some(Arc::new(Native(kernel))))
}
