//! Streams: launches collected in a command encoder, transfers, events.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hal::{Error, ErrorKind, Event, EventState, Result, Stream, View, check_transfer};
use wgpu::{BufferUsages, Features, MapMode, PollType, SubmissionIndex};

use crate::gpu::{Gpu, lock};
use crate::groups::Key;
use crate::kernel::{Bound, PARAMS_BYTES, Params, Program, Slot, Text, bind_bytes, memory};
use crate::staging::{STAGED_BYTES, Staging};

/// Launches after which a batch is submitted, so that the device starts while the host still records.
const BATCH: usize = 64;

/// The most bytes of a large transfer that wait in staging memory at a time.
const PART_BYTES: usize = 32 << 20;

/// How long one look for a due answer takes.
const ANSWER_TICK: Duration = Duration::from_millis(5);

/// Distance of one launch's parameters from the next's in the uniform buffer.
const UNIFORM_STEP: usize = 256;

/// An in-order queue: a command encoder in front of the device's one queue.
#[derive(Debug)]
pub(crate) struct WgpuStream {
    pub(crate) gpu: Arc<Gpu>,
    encoder: Option<wgpu::CommandEncoder>,
    pass: Option<wgpu::ComputePass<'static>>,
    launches: usize,
    submitted: Option<SubmissionIndex>,
    /// Where small uploads lie until the device has copied them.
    staging: Staging,
    /// Where downloads arrive.
    arrivals: Option<wgpu::Buffer>,
    arrived: Arc<Answer<Mapped>>,
    /// Parameters of the batch, where immediates are missing, and their buffer's number.
    uniforms: Option<(wgpu::Buffer, u64)>,
    params: Vec<u8>,
}

impl WgpuStream {
    pub(crate) fn new(gpu: &Arc<Gpu>) -> Self {
        let uniforms = || {
            gpu.counters.buffers.add();
            let buffer = gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size: (BATCH * UNIFORM_STEP) as u64,
                usage: BufferUsages::UNIFORM | BufferUsages::COPY_DST,
                mapped_at_creation: false,
            });
            (buffer, gpu.number())
        };
        Self {
            gpu: Arc::clone(gpu),
            encoder: None,
            pass: None,
            launches: 0,
            submitted: None,
            staging: Staging::default(),
            arrivals: None,
            arrived: Answer::new(),
            uniforms: (!gpu.immediates()).then(uniforms),
            params: Vec::new(),
        }
    }

    /// Queues `groups` workgroups of a program.
    ///
    /// # Errors
    /// `DeviceLost`, `Unsupported` for more workgroups than a dispatch has.
    pub(crate) fn dispatch(
        &mut self,
        program: &Program,
        bindings: &[Bound<'_>],
        params: &Params,
        groups: usize,
    ) -> Result<()> {
        self.gpu.alive(program.name)?;
        if groups == 0 {
            return Ok(());
        }
        let most = self.gpu.limits.max_compute_workgroups_per_dimension as usize;
        let (x, y) = match groups <= most {
            true => (groups, 1),
            // Kernels bound the number of their group, so a few too many do no harm.
            false => (most, groups.div_ceil(most)),
        };
        if y > most {
            return Err(Error::unsupported(
                format!("launch {}", program.name),
                format!("{groups} workgroups, a dispatch has at most {most} in two dimensions"),
            ));
        }
        let immediates = self.gpu.immediates();
        let at = self.params.len();
        if !immediates {
            self.params.extend_from_slice(params.bytes());
            self.params.resize(at + UNIFORM_STEP, 0);
        }
        let group = self.group(program, bindings);
        let pass = self.pass();
        pass.set_pipeline(&program.pipeline);
        match immediates {
            true => {
                pass.set_bind_group(0, &group, &[]);
                pass.set_immediates(0, params.bytes());
            }
            false => pass.set_bind_group(0, &group, &[at as u32]),
        }
        pass.dispatch_workgroups(x as u32, y as u32, 1);
        self.gpu.counters.launches.add();
        self.launches += 1;
        if self.launches >= BATCH {
            self.submit();
        }
        Ok(())
    }

    /// Queues the device's own copy, where both views are contiguous words of two buffers; whether it could.
    pub(crate) fn copy_words(&mut self, out: &View<'_>, x: &View<'_>) -> Result<bool> {
        let in_words = |view: &View<'_>| {
            view.is_contiguous()
                && view.offset_bytes().is_multiple_of(4)
                && view.bytes().is_multiple_of(4)
        };
        let (to, from) = (
            memory(&self.gpu, out.buffer())?,
            memory(&self.gpu, x.buffer())?,
        );
        if out.is_empty() || !in_words(out) || !in_words(x) || to.number == from.number {
            return Ok(false);
        }
        self.gpu.alive("copy")?;
        let at = [x, out].map(|view| view.offset_bytes() as u64);
        let bytes = out.bytes() as u64;
        self.encoder()
            .copy_buffer_to_buffer(&from.buffer, at[0], &to.buffer, at[1], bytes);
        self.gpu.counters.launches.add();
        Ok(true)
    }

    /// The bind group of a launch.
    fn group(&self, program: &Program, bindings: &[Bound<'_>]) -> wgpu::BindGroup {
        let uniforms = self.uniforms.as_ref();
        let uniforms = uniforms.map(|(buffer, number)| (buffer, *number, 0, PARAMS_BYTES as u64));
        let parts = || {
            let bound = |b: &Bound<'_>| (b.number, b.offset, b.bytes);
            let uniforms = uniforms.map(|(_, number, offset, bytes)| (number, offset, bytes));
            bindings.iter().map(bound).chain(uniforms)
        };
        let key = Key {
            layout: program.layout.clone(),
            parts: parts().collect(),
        };
        self.gpu.groups.group(&key, || {
            let buffers = bindings.iter().map(|bound| bound.buffer);
            let buffers = buffers.chain(uniforms.map(|(buffer, ..)| buffer));
            let entries: arrayvec::ArrayVec<wgpu::BindGroupEntry<'_>, 9> = buffers
                .zip(parts())
                .enumerate()
                .map(|(i, (buffer, (_, offset, bytes)))| wgpu::BindGroupEntry {
                    binding: i as u32,
                    resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                        buffer,
                        offset,
                        size: wgpu::BufferSize::new(bytes),
                    }),
                })
                .collect();
            self.gpu.counters.bind_groups.add();
            self.gpu
                .device
                .create_bind_group(&wgpu::BindGroupDescriptor {
                    label: None,
                    layout: &program.layout,
                    entries: &entries,
                })
        })
    }

    fn encoder(&mut self) -> &mut wgpu::CommandEncoder {
        // Its pass must end first.
        self.pass = None;
        let device = &self.gpu.device;
        self.encoder.get_or_insert_with(|| {
            device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default())
        })
    }

    fn pass(&mut self) -> &mut wgpu::ComputePass<'static> {
        if self.pass.is_none() {
            let encoder = self.encoder();
            let pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            self.pass = Some(pass.forget_lifetime());
        }
        self.pass.as_mut().expect("just made")
    }

    /// Hands what was collected to the device.
    fn submit(&mut self) {
        self.pass = None;
        let Some(encoder) = self.encoder.take() else {
            return;
        };
        if let Some((uniforms, _)) = &self.uniforms
            && !self.params.is_empty()
        {
            // In the queue's order: after earlier batches, before this one.
            self.gpu.queue.write_buffer(uniforms, 0, &self.params);
        }
        self.params.clear();
        self.launches = 0;
        self.staging.close();
        let index = self.gpu.queue.submit([encoder.finish()]);
        self.gpu.counters.submissions.add();
        self.staging.submitted(&index);
        self.submitted = Some(index);
    }

    /// Waits for everything submitted.
    fn finish(&mut self, doing: &'static str) -> Result<()> {
        self.submit();
        if let Some(index) = self.submitted.take() {
            wait(&self.gpu, doing, index)?;
        }
        self.gpu.alive(doing)
    }

    /// Queues a copy of a few words.
    fn stage(&mut self, to: &wgpu::Buffer, at: u64, words: &[u8]) -> Result<()> {
        if self.staging.is_full(words.len()) {
            self.submit();
        }
        self.encoder();
        let (from, place) = self.staging.put(&self.gpu, words)?;
        let encoder = self.encoder.as_mut().expect("just made");
        encoder.copy_buffer_to_buffer(from, place, to, at, words.len() as u64);
        Ok(())
    }

    /// Writes many words, in parts.
    fn write(&mut self, to: &wgpu::Buffer, at: u64, words: &[u8]) -> Result<()> {
        // What was queued earlier may still read the old bytes.
        self.submit();
        let mut parts = words
            .chunks(PART_BYTES)
            .zip((at..).step_by(PART_BYTES))
            .peekable();
        while let Some((part, at)) = parts.next() {
            self.gpu.queue.write_buffer(to, at, part);
            if parts.peek().is_some() {
                let index = self.gpu.queue.submit([]);
                wait(&self.gpu, "upload", index)?;
            }
        }
        Ok(())
    }

    /// Writes up to four bytes each at two words: those whose mask is set.
    fn patch(&mut self, dst: &View<'_>, words: &[(usize, u32, u32)]) -> Result<()> {
        let gpu = Arc::clone(&self.gpu);
        let program = match gpu.patch.get() {
            Some(program) => Arc::clone(program),
            None => {
                let slots = [Slot::atomics("out")];
                let text = Text::new(
                    &gpu,
                    "upload",
                    include_str!("../kernels/patch.wgsl"),
                    &slots,
                    &[],
                );
                let made = gpu.program(text)?;
                Arc::clone(gpu.patch.get_or_init(|| made))
            }
        };
        for &(word, mask, bits) in words {
            let bound = bind_bytes(&gpu, dst.buffer(), word * 4..word * 4 + 4, 4)?;
            let params = Params::new()
                .word(bound.first as usize)
                .word(mask as usize)
                .word(bits as usize)
                .word(0);
            self.dispatch(&program, &[bound], &params, 1)?;
        }
        Ok(())
    }
}

/// Waits for a submission.
pub(crate) fn wait(gpu: &Gpu, doing: &'static str, index: SubmissionIndex) -> Result<()> {
    gpu.counters.waits.add();
    let waited = gpu.device.poll(PollType::Wait {
        submission_index: Some(index),
        timeout: None,
    });
    gpu.alive(doing)?;
    waited.map(drop).map_err(|e| {
        Error::new(
            ErrorKind::Unexpected,
            doing,
            "waiting for the device failed",
        )
        .with_source(e)
    })
}

/// What a callback of wgpu says. Callbacks run on whichever thread polls, so that having waited for the device is not
/// to have been called.
#[derive(Debug)]
pub(crate) struct Answer<T> {
    said: Mutex<Option<T>>,
    spoken: Condvar,
}

impl<T> Answer<T> {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            said: Mutex::new(None),
            spoken: Condvar::new(),
        })
    }

    pub(crate) fn say(&self, answer: T) {
        *lock(&self.said) = Some(answer);
        self.spoken.notify_all();
    }

    /// Before asking again.
    pub(crate) fn forget(&self) {
        *lock(&self.said) = None;
    }

    pub(crate) fn is_there(&self) -> bool {
        lock(&self.said).is_some()
    }

    /// Waits for the answer, which is due.
    pub(crate) fn hear(&self, gpu: &Gpu, doing: &'static str) -> Result<T>
    where
        T: Clone,
    {
        loop {
            gpu.alive(doing)?;
            let _ = gpu.device.poll(PollType::Poll);
            let waited = self
                .spoken
                .wait_timeout_while(lock(&self.said), ANSWER_TICK, |said| said.is_none());
            let (said, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if let Some(answer) = &*said {
                return Ok(answer.clone());
            }
        }
    }
}

/// What mapping memory gives.
pub(crate) type Mapped = std::result::Result<(), wgpu::BufferAsyncError>;

/// Has the first `bytes` bytes of a mappable buffer read, which the work up to `index` fills.
fn read(
    gpu: &Gpu,
    doing: &'static str,
    buffer: &wgpu::Buffer,
    mapped: &Arc<Answer<Mapped>>,
    bytes: u64,
    index: SubmissionIndex,
    take: impl FnOnce(&[u8]),
) -> Result<()> {
    let failed = |e: Box<dyn std::error::Error + Send + Sync>| {
        Error::new(
            ErrorKind::Unexpected,
            doing,
            "staging memory cannot be mapped",
        )
        .with_source(e)
    };
    mapped.forget();
    let answer = Arc::clone(mapped);
    buffer.map_async(MapMode::Read, ..bytes, move |result| answer.say(result));
    wait(gpu, doing, index)?;
    mapped.hear(gpu, doing)?.map_err(|e| failed(Box::new(e)))?;
    let range = buffer
        .get_mapped_range(..bytes)
        .map_err(|e| failed(e.to_string().into()))?;
    take(&range);
    drop(range);
    buffer.unmap();
    Ok(())
}

impl Stream for WgpuStream {
    fn upload(&mut self, dst: &View<'_>, src: &[u8]) -> Result<()> {
        self.gpu.alive("upload")?;
        check_transfer("upload", dst, src.len())?;
        let to = &memory(&self.gpu, dst.buffer())?.buffer;
        if src.is_empty() {
            return Ok(());
        }
        // Whole words go through the queue; bytes of words that are not ours alone are patched.
        let (start, end) = (dst.offset_bytes(), dst.offset_bytes() + src.len());
        let (first, last) = (start.next_multiple_of(4), end / 4 * 4);
        let mut edges = arrayvec::ArrayVec::<(usize, u32, u32), 2>::new();
        let edge = |from: usize, to: usize| {
            let (mut mask, mut bits) = (0, 0);
            for at in from..to {
                let shift = 8 * (at % 4);
                mask |= 0xff << shift;
                bits |= u32::from(src[at - start]) << shift;
            }
            (from / 4, mask, bits)
        };
        if first > last {
            edges.push(edge(start, end));
        } else {
            if start < first {
                edges.push(edge(start, first));
            }
            if last < end {
                edges.push(edge(last, end));
            }
        }
        if first < last {
            let words = &src[first - start..last - start];
            match words.len() <= STAGED_BYTES {
                true => self.stage(to, first as u64, words)?,
                false => self.write(to, first as u64, words)?,
            }
        }
        self.patch(dst, &edges)
    }

    fn download(&mut self, dst: &mut [u8], src: &View<'_>) -> Result<()> {
        self.gpu.alive("download")?;
        check_transfer("download", src, dst.len())?;
        let from = &memory(&self.gpu, src.buffer())?.buffer;
        if dst.is_empty() {
            return Ok(());
        }
        let (start, end) = (src.offset_bytes(), src.offset_bytes() + dst.len());
        let mut at = start / 4 * 4;
        while at < end {
            let next = end.next_multiple_of(4).min(at + PART_BYTES);
            let bytes = (next - at) as u64;
            if self.arrivals.as_ref().is_none_or(|a| a.size() < bytes) {
                let gpu = &self.gpu;
                let descriptor = wgpu::BufferDescriptor {
                    label: None,
                    size: bytes.next_power_of_two().max(4096),
                    usage: BufferUsages::MAP_READ | BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                };
                let make = || gpu.device.create_buffer(&descriptor);
                gpu.counters.buffers.add();
                self.arrivals = Some(gpu.catching("download", make)?);
            }
            let arrivals = self.arrivals.clone().expect("just made");
            self.encoder()
                .copy_buffer_to_buffer(from, at as u64, &arrivals, 0, bytes);
            self.submit();
            let index = self.submitted.clone().expect("just submitted");
            let arrived = &self.arrived;
            read(
                &self.gpu,
                "download",
                &arrivals,
                arrived,
                bytes,
                index,
                |got| {
                    let (from, to) = (start.max(at), end.min(next));
                    dst[from - start..to - start].copy_from_slice(&got[from - at..to - at]);
                },
            )?;
            at = next;
        }
        self.gpu.alive("download")
    }

    fn record(&mut self) -> Result<Event> {
        self.gpu.alive("record an event")?;
        let stamp = match self.gpu.features.contains(STAMPS) {
            true => Some(self.stamp()?),
            false => None,
        };
        // An event needs a submission, even of nothing.
        self.encoder();
        self.submit();
        let seen = Answer::new();
        let answer = Arc::clone(&seen);
        let now = move || answer.say(Instant::now());
        self.gpu.queue.on_submitted_work_done(now);
        Ok(Event::new(WgpuEvent {
            gpu: Arc::clone(&self.gpu),
            index: self.submitted.clone().expect("just submitted"),
            seen,
            stamp,
            nanoseconds: Mutex::new(None),
        }))
    }

    fn wait(&mut self, event: &Event) -> Result<()> {
        self.gpu.alive("wait for an event")?;
        // The device has one queue, and the event's work is in it already: what this stream submits later runs later.
        // What it has collected so far may run before or after.
        match event.downcast::<WgpuEvent>() {
            Some(event) if event.gpu.id == self.gpu.id => Ok(()),
            _ => Err(Error::invalid(
                "wait for an event",
                "it is of another device",
            )),
        }
    }

    fn synchronize(&mut self) -> Result<()> {
        self.gpu.alive("synchronize")?;
        self.finish("synchronize")
    }
}

impl Drop for WgpuStream {
    fn drop(&mut self) {
        // What was queued is still owed to whoever reads the buffers.
        self.submit();
        if let Some((_, number)) = self.uniforms {
            self.gpu.groups.forget(number);
        }
    }
}

const STAMPS: Features = Features::TIMESTAMP_QUERY.union(Features::TIMESTAMP_QUERY_INSIDE_ENCODERS);

impl WgpuStream {
    /// Queues a timestamp; the buffer that it will be in.
    fn stamp(&mut self) -> Result<wgpu::Buffer> {
        let gpu = Arc::clone(&self.gpu);
        let (set, resolved, readable) = gpu.catching("record an event", || {
            let buffer = |usage| {
                gpu.device.create_buffer(&wgpu::BufferDescriptor {
                    label: None,
                    size: 8,
                    usage,
                    mapped_at_creation: false,
                })
            };
            let set = gpu.device.create_query_set(&wgpu::QuerySetDescriptor {
                label: None,
                ty: wgpu::QueryType::Timestamp,
                count: 1,
            });
            (
                set,
                buffer(BufferUsages::QUERY_RESOLVE | BufferUsages::COPY_SRC),
                buffer(BufferUsages::MAP_READ | BufferUsages::COPY_DST),
            )
        })?;
        let encoder = self.encoder();
        encoder.write_timestamp(&set, 0);
        encoder.resolve_query_set(&set, 0..1, &resolved, 0);
        encoder.copy_buffer_to_buffer(&resolved, 0, &readable, 0, 8);
        Ok(readable)
    }
}

/// A mark after a submission.
#[derive(Debug)]
struct WgpuEvent {
    gpu: Arc<Gpu>,
    index: SubmissionIndex,
    /// When the host saw it pass.
    seen: Arc<Answer<Instant>>,
    /// Where the device writes its clock.
    stamp: Option<wgpu::Buffer>,
    /// The device's clock at the mark, once it was read.
    nanoseconds: Mutex<Option<f64>>,
}

impl WgpuEvent {
    fn has_passed(&self) -> bool {
        let now = PollType::Wait {
            submission_index: Some(self.index.clone()),
            timeout: Some(Duration::ZERO),
        };
        self.gpu.device.poll(now).is_ok()
    }

    /// The device's clock at the mark.
    fn clock(&self, stamp: &wgpu::Buffer) -> Result<f64> {
        let mut known = lock(&self.nanoseconds);
        if let Some(nanoseconds) = *known {
            return Ok(nanoseconds);
        }
        let mut ticks = 0;
        let index = self.index.clone();
        read(
            &self.gpu,
            MEASURE,
            stamp,
            &Answer::new(),
            8,
            index,
            |bytes| {
                ticks = bytes.try_into().map_or(0, u64::from_le_bytes);
            },
        )?;
        let nanoseconds = ticks as f64 * f64::from(self.gpu.queue.get_timestamp_period());
        Ok(*known.insert(nanoseconds))
    }
}

const MEASURE: &str = "measure between events";

impl EventState for WgpuEvent {
    fn synchronize(&self) -> Result<()> {
        wait(&self.gpu, "wait for an event", self.index.clone())
    }

    fn since(&self, earlier: &Event) -> Result<Duration> {
        let wrong = |why| Err(Error::invalid(MEASURE, why));
        let Some(earlier) = earlier.downcast::<WgpuEvent>() else {
            return wrong("they are of different back ends");
        };
        if earlier.gpu.id != self.gpu.id {
            return wrong("they are of different devices");
        }
        self.gpu.alive(MEASURE)?;
        if !self.has_passed() || !earlier.has_passed() {
            return wrong("one of them has not passed");
        }
        if let (Some(start), Some(end)) = (&earlier.stamp, &self.stamp) {
            let nanoseconds = self.clock(end)? - earlier.clock(start)?;
            return Ok(Duration::from_nanos(nanoseconds.max(0.0) as u64));
        }
        let start = earlier.seen.hear(&earlier.gpu, MEASURE)?;
        let end = self.seen.hear(&self.gpu, MEASURE)?;
        Ok(end.saturating_duration_since(start))
    }
}
