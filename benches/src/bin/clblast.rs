//! Our f32 products on OpenCL devices beside CLBlast's and a plain kernel's, in turn: ChatGLM3-6B's 4096 × 4096.
//!
//! `clblast [DEVICE]…`: all OpenCL devices by default. CLBlast is loaded at run time (Debian: `libclblast1`); without it
//! its column stays empty. Every result is compared with sums in f64 on some elements before it is timed.

use std::ptr;
use std::time::Instant;

use backend_opencl::Found;
use hal::{Buffer as DeviceBuffer, DType, Error, ErrorKind, Result, Stream, View, WeightFormat};
use libloading::Library;
use opencl3::command_queue::CommandQueue;
use opencl3::context::Context as ClContext;
use opencl3::device::{CL_DEVICE_TYPE_ALL, Device};
use opencl3::error_codes::ClError;
use opencl3::kernel::{ExecuteKernel, Kernel};
use opencl3::memory::{Buffer, CL_MEM_READ_WRITE, ClMem};
use opencl3::platform::get_platforms;
use opencl3::program::Program;
use opencl3::types::{CL_BLOCKING, cl_command_queue, cl_event, cl_mem};
use ops::{Context, HostWeight, Matmul, MatmulArgs, Plan, philox};

const N: usize = 4096;
const K: usize = 4096;

/// What a result is before it is computed. Not NaN, which CLBlast multiplies by beta = 0.
const UNWRITTEN: f32 = 1e30;

/// Timed runs of each, in turn.
const ROUNDS: usize = 7;

/// Tiles of 16 x 16 through local memory, one element per work-item: what a textbook shows.
const PLAIN: &str = "
__kernel __attribute__((reqd_work_group_size(16, 16, 1)))
void plain(int m, int n, int k, __global const float *x, __global const float *w, __global float *out) {
    __local float a[16][16], b[16][17];
    const int i = get_local_id(1), j = get_local_id(0);
    const int row = get_group_id(1) * 16 + i, column = get_group_id(0) * 16 + j;
    float sum = 0.0f;
    for (int c = 0; c < k; c += 16) {
        a[i][j] = row < m ? x[(long)row * k + c + j] : 0.0f;
        b[i][j] = w[(long)(get_group_id(0) * 16 + i) * k + c + j];
        barrier(CLK_LOCAL_MEM_FENCE);
        for (int e = 0; e < 16; e++) sum = fma(a[i][e], b[j][e], sum);
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    if (row < m) out[(long)row * n + column] = sum;
}";

fn main() -> Result<()> {
    let named: Vec<String> = std::env::args().skip(1).collect();
    let all = backend_opencl::devices()?;
    let clblast = ClBlast::load();
    if let Err(e) = &clblast {
        println!("No CLBlast: {e}");
    }
    println!("| device | rows | ours | CLBlast | plain kernel | ours / CLBlast | ours / plain |");
    println!("|---|---|---|---|---|---|---|");
    let mut measured = false;
    for device in all {
        if named.is_empty() || named.contains(&device.spec) {
            measured = true;
            for m in [1, 128] {
                measure(&device, m, clblast.as_ref().ok())?;
            }
        }
    }
    if !measured {
        let detail = format!("no OpenCL device is called {}", named.join(" or "));
        return Err(Error::new(ErrorKind::NotFound, "choose devices", detail));
    }
    Ok(())
}

fn measure(device: &Found, m: usize, clblast: Option<&ClBlast>) -> Result<()> {
    let x: Vec<f32> = random(1).take(m * K).collect();
    let w: Vec<f32> = random(2).take(N * K).collect();
    let mut ours = Ours::new(&device.spec, m, &x, &w)?;
    let mut peer = Peer::new(device, m, &x, &w)?;
    let mut seconds = [Vec::new(), Vec::new(), Vec::new()];
    check("ours", m, &x, &w, &ours.run_and_read()?)?;
    peer.plain()?;
    check("the plain kernel", m, &x, &w, &peer.read()?)?;
    if let Some(clblast) = clblast {
        peer.clblast(clblast)?;
        check("CLBlast", m, &x, &w, &peer.read()?)?;
    }
    for _ in 0..ROUNDS {
        let mut time = |at: usize, run: &mut dyn FnMut() -> Result<()>| -> Result<()> {
            let start = Instant::now();
            run()?;
            seconds[at].push(start.elapsed().as_secs_f64());
            Ok(())
        };
        time(0, &mut || ours.run())?;
        if let Some(clblast) = clblast {
            time(1, &mut || peer.clblast(clblast))?;
        }
        time(2, &mut || peer.plain())?;
    }
    let [ours, clblast, plain] = seconds.map(|mut seconds| {
        seconds.sort_by(f64::total_cmp);
        let median = seconds.get(seconds.len() / 2)?;
        Some(2.0 * (m * N * K) as f64 / median / 1e9)
    });
    let show = |x: Option<f64>, unit: &str| x.map_or("–".into(), |x| format!("{x:.2}{unit}"));
    let over = |peer: Option<f64>| Some(ours? / peer?);
    println!(
        "| {} | {m} | {} | {} | {} | {} | {} |",
        device.name,
        show(ours, " GFLOP/s"),
        show(clblast, " GFLOP/s"),
        show(plain, " GFLOP/s"),
        show(over(clblast), ""),
        show(over(plain), ""),
    );
    Ok(())
}

/// Floats in ±1.
fn random(seed: u64) -> impl Iterator<Item = f32> {
    (0..)
        .flat_map(move |i| philox(seed, i))
        .map(|x| x as i32 as f32 / (1u32 << 31) as f32)
}

/// Compares some elements with sums in f64: f32 sums of K products of ±1 in any order are within K · 2⁻²⁴ · K.
fn check(who: &str, m: usize, x: &[f32], w: &[f32], out: &[f32]) -> Result<()> {
    for at in (0..out.len()).step_by(out.len() / 101) {
        let (i, j) = (at / N, at % N);
        let (x, w) = (&x[i * K..][..K], &w[j * K..][..K]);
        let products = x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w));
        let (sum, magnitude) = products.fold((0.0, 0.0), |(sum, all), p| (sum + p, all + p.abs()));
        let bound = magnitude * K as f64 / f64::from(1 << 24);
        let gap = (f64::from(out[at]) - sum).abs();
        if gap > bound || gap.is_nan() {
            let detail = format!("row {i} of {m}, column {j}: {} for {sum}", out[at]);
            return Err(Error::new(
                ErrorKind::Unexpected,
                format!("check {who}"),
                detail,
            ));
        }
    }
    Ok(())
}

/// Our product.
struct Ours {
    plan: Plan<Matmul>,
    stream: Box<dyn Stream>,
    m: usize,
    weight: DeviceBuffer,
    x: DeviceBuffer,
    out: DeviceBuffer,
    workspace: DeviceBuffer,
}

impl Ours {
    fn new(spec: &str, m: usize, x: &[f32], w: &[f32]) -> Result<Self> {
        let context = Context::new(backend_opencl::open(spec)?);
        let device = context.device();
        let format = WeightFormat::Dense(DType::F32);
        let plan = context.plan(Matmul::new(N, K, DType::F32, format))?;
        let bytes = |x: &[f32]| x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>();
        let weight = plan.pack(&HostWeight::new(format, N, K, bytes(w), Vec::new())?)?;
        let mut stream = device.stream()?;
        let x_buffer = device.alloc(4 * m * K)?;
        stream.upload(&View::of_bytes(&x_buffer), &bytes(x))?;
        Ok(Self {
            stream,
            m,
            weight,
            x: x_buffer,
            out: device.alloc(4 * m * N)?,
            workspace: device.alloc(plan.workspace_bytes(&[&[m, N], &[m, K]]))?,
            plan,
        })
    }

    fn run(&mut self) -> Result<()> {
        let args = MatmulArgs {
            out: View::new(&self.out, DType::F32, &[self.m, N])?,
            x: View::new(&self.x, DType::F32, &[self.m, K])?,
            weight: View::of_bytes(&self.weight),
            bias: None,
            residual: None,
        };
        let workspace = View::of_bytes(&self.workspace);
        self.plan.run(&mut *self.stream, args, &workspace)?;
        self.stream.synchronize()
    }

    fn run_and_read(&mut self) -> Result<Vec<f32>> {
        self.run()?;
        let mut bytes = vec![0; 4 * self.m * N];
        self.stream
            .download(&mut bytes, &View::of_bytes(&self.out))?;
        let floats = bytes.chunks_exact(4);
        Ok(floats
            .map(|x| f32::from_le_bytes([x[0], x[1], x[2], x[3]]))
            .collect())
    }
}

fn failed(e: ClError) -> Error {
    Error::new(ErrorKind::Unexpected, "run a peer on OpenCL", e.to_string())
}

/// The same operands for what is not ours.
struct Peer {
    /// CLBlast asks the queue for it.
    _context: ClContext,
    queue: CommandQueue,
    plain: Kernel,
    m: usize,
    x: Buffer<f32>,
    w: Buffer<f32>,
    out: Buffer<f32>,
}

impl Peer {
    fn new(found: &Found, m: usize, x: &[f32], w: &[f32]) -> Result<Self> {
        let place = found.spec.trim_start_matches("opencl:");
        let place: Vec<usize> = place.split('.').filter_map(|n| n.parse().ok()).collect();
        let platform = get_platforms().map_err(failed)?[place[0]];
        let ids = platform.get_devices(CL_DEVICE_TYPE_ALL).map_err(failed)?;
        let device = Device::new(ids[place[1]]);
        let context = ClContext::from_device(&device).map_err(failed)?;
        // SAFETY: the device is the context's own.
        let queue = unsafe { CommandQueue::create(&context, device.id(), 0) }.map_err(failed)?;
        let program = Program::create_and_build_from_source(&context, PLAIN, "-cl-std=CL1.2")
            .map_err(|log| Error::new(ErrorKind::CompileFailed, "build the plain kernel", log))?;
        let filled = |values: &[f32]| {
            // SAFETY: no host memory is given.
            let buffer = unsafe {
                Buffer::create(&context, CL_MEM_READ_WRITE, values.len(), ptr::null_mut())
            };
            let mut buffer = buffer.map_err(failed)?;
            // SAFETY: it blocks until `values` are read.
            unsafe { queue.enqueue_write_buffer(&mut buffer, CL_BLOCKING, 0, values, &[]) }
                .map_err(failed)?;
            Ok(buffer)
        };
        Ok(Self {
            plain: Kernel::create(&program, "plain").map_err(failed)?,
            m,
            x: filled(x)?,
            w: filled(w)?,
            out: filled(&vec![UNWRITTEN; m * N])?,
            queue,
            _context: context,
        })
    }

    fn plain(&mut self) -> Result<()> {
        let sizes = [self.m as i32, N as i32, K as i32];
        let mut call = ExecuteKernel::new(&self.plain);
        // SAFETY: these are the kernel's arguments; it stays within m, n and k.
        unsafe {
            for size in &sizes {
                call.set_arg(size);
            }
            call.set_arg(&self.x).set_arg(&self.w).set_arg(&self.out);
            call.set_global_work_sizes(&[N, self.m.next_multiple_of(16)])
                .set_local_work_sizes(&[16, 16])
                .enqueue_nd_range(&self.queue)
                .map_err(failed)?;
        }
        self.queue.finish().map_err(failed)
    }

    fn clblast(&mut self, clblast: &ClBlast) -> Result<()> {
        let (x, w, out) = (self.x.get(), self.w.get(), self.out.get());
        let mut queue: cl_command_queue = self.queue.get();
        let none: *mut cl_event = ptr::null_mut();
        let status = match self.m {
            // SAFETY: the shapes are those of the buffers.
            1 => unsafe {
                (clblast.gemv)(
                    ROW_MAJOR, NOT, N, K, 1.0, w, 0, K, x, 0, 1, 0.0, out, 0, 1, &mut queue, none,
                )
            },
            // SAFETY: as above.
            m => unsafe {
                (clblast.gemm)(
                    ROW_MAJOR, NOT, TRANSPOSED, m, N, K, 1.0, x, 0, K, w, 0, K, 0.0, out, 0, N,
                    &mut queue, none,
                )
            },
        };
        if status != 0 {
            let detail = format!("status {status}");
            return Err(Error::new(ErrorKind::Unexpected, "run CLBlast", detail));
        }
        self.queue.finish().map_err(failed)
    }

    /// The result, which is unwritten again afterwards.
    fn read(&mut self) -> Result<Vec<f32>> {
        let mut out = vec![0.0; self.m * N];
        let nothing = vec![UNWRITTEN; self.m * N];
        // SAFETY: both block.
        unsafe {
            self.queue
                .enqueue_read_buffer(&self.out, CL_BLOCKING, 0, &mut out, &[])
                .map_err(failed)?;
            self.queue
                .enqueue_write_buffer(&mut self.out, CL_BLOCKING, 0, &nothing, &[])
                .map_err(failed)?;
        }
        Ok(out)
    }
}

// Constants of clblast_c.h.
const ROW_MAJOR: i32 = 101;
const NOT: i32 = 111;
const TRANSPOSED: i32 = 112;

/// `CLBlastSgemv`: layout, transposition, m, n, alpha, a, its offset and row length, x, offset, stride, beta, y, offset,
/// stride, queue, event.
#[rustfmt::skip]
type Gemv = unsafe extern "C" fn(
    i32, i32, usize, usize, f32, cl_mem, usize, usize, cl_mem, usize, usize, f32, cl_mem, usize, usize,
    *mut cl_command_queue, *mut cl_event,
) -> i32;

/// `CLBlastSgemm`: layout, two transpositions, m, n, k, alpha, a, offset, row length, b, offset, row length, beta, c,
/// offset, row length, queue, event.
#[rustfmt::skip]
type Gemm = unsafe extern "C" fn(
    i32, i32, i32, usize, usize, usize, f32, cl_mem, usize, usize, cl_mem, usize, usize, f32, cl_mem, usize, usize,
    *mut cl_command_queue, *mut cl_event,
) -> i32;

/// CLBlast 1.x.
struct ClBlast {
    gemv: Gemv,
    gemm: Gemm,
    _library: Library,
}

impl ClBlast {
    fn load() -> std::result::Result<Self, libloading::Error> {
        // SAFETY: the library's initialisers only fill its own tables.
        let library = unsafe { Library::new("libclblast.so.1") }?;
        // SAFETY: the types are those of clblast_c.h.
        let (gemv, gemm) = unsafe {
            (
                *library.get::<Gemv>(b"CLBlastSgemv")?,
                *library.get::<Gemm>(b"CLBlastSgemm")?,
            )
        };
        Ok(Self {
            gemv,
            gemm,
            _library: library,
        })
    }
}
