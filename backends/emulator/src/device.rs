//! The emulated device: memory with a limit, streams with queues, and the faults that both share.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use conformance::number::{decode, encode};
use hal::{
    Buffer, DType, Device, DeviceId, DeviceInfo, Error, ErrorKind, Event, EventState, Graph,
    GraphState, Memory, MemoryInfo, Result, Stream, View, check_transfer,
};

use crate::{Character, Faults};

/// What fresh memory holds: a device's memory is not zeroed.
const GARBAGE: u8 = 0xcb;

/// What device, memory, streams and kernels share.
#[derive(Debug)]
pub(crate) struct Board {
    pub(crate) id: DeviceId,
    pub(crate) character: Character,
    faults: Faults,
    used_bytes: AtomicUsize,
    allocations: AtomicU64,
    frees: AtomicU64,
    /// Copies and launches.
    acts: AtomicU64,
    launches: AtomicU64,
    lost: AtomicBool,
    queues: Mutex<Queues>,
    /// Held while queued work runs, so that it runs on one thread at a time.
    running: Mutex<()>,
}

#[derive(Debug, Default)]
struct Queues {
    next: u64,
    streams: BTreeMap<u64, Queue>,
}

/// Work of one stream that nobody has needed yet.
#[derive(Debug, Default)]
struct Queue {
    pending: VecDeque<Work>,
    queued: u64,
    done: u64,
    failed: Option<Error>,
}

type Kernel = dyn Fn(&[Window]) -> Result<()> + Send + Sync;

/// A kernel on its arguments, as often as it is launched.
pub(crate) struct Launched {
    pub(crate) op: &'static str,
    pub(crate) windows: Vec<Window>,
    pub(crate) kernel: Box<Kernel>,
}

impl std::fmt::Debug for Launched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{:?}", self.op, self.windows)
    }
}

/// One piece of work.
pub(crate) enum Work {
    Upload(Window, Vec<u8>),
    Launch(Arc<Launched>),
    /// Turns a bit of the first element.
    Spoil(Window),
    /// Until the stream has done this much.
    Wait(u64, u64),
    Mark(Arc<Mutex<Option<Instant>>>),
}

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Work::Upload(..) => "upload",
            Work::Launch(_) => "launch",
            Work::Spoil(_) => "spoil",
            Work::Wait(..) => "wait",
            Work::Mark(_) => "mark",
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Board {
    pub(crate) fn new(id: DeviceId, character: Character, faults: Faults) -> Self {
        Self {
            id,
            character,
            faults,
            used_bytes: AtomicUsize::new(0),
            allocations: AtomicU64::new(0),
            frees: AtomicU64::new(0),
            acts: AtomicU64::new(0),
            launches: AtomicU64::new(0),
            lost: AtomicBool::new(false),
            queues: Mutex::default(),
            running: Mutex::new(()),
        }
    }

    /// `DeviceLost` once the device is.
    pub(crate) fn alive(&self, doing: &'static str) -> Result<()> {
        if self.lost.load(Ordering::SeqCst) {
            return Err(
                Error::new(ErrorKind::DeviceLost, doing, "the emulated device was lost")
                    .next_step("open the device again"),
            );
        }
        Ok(())
    }

    /// Counts a copy or launch, at one of which the device may be lost.
    fn act(&self, doing: &'static str) -> Result<()> {
        let n = self.acts.fetch_add(1, Ordering::SeqCst) + 1;
        if self.faults.lost_at == Some(n) {
            self.lost.store(true, Ordering::SeqCst);
        }
        self.alive(doing)
    }

    /// What happens to a launch before its kernel starts. Whether its result will be wrong.
    fn start_launch(&self, doing: &'static str) -> Result<bool> {
        self.act(doing)?;
        let n = self.launches.fetch_add(1, Ordering::SeqCst) + 1;
        if self.faults.crash_at == Some(n) {
            std::process::abort();
        }
        if self.faults.hang_at == Some(n) {
            loop {
                std::thread::sleep(Duration::from_secs(3600));
            }
        }
        Ok(self.faults.wrong_at.is_some_and(|at| n >= at))
    }

    pub(crate) fn alloc(self: &Arc<Self>, bytes: usize, weight: Option<Vec<u8>>) -> Result<Buffer> {
        self.alive("allocate memory")?;
        let fail = |why: String| {
            Error::new(
                ErrorKind::OutOfMemory,
                format!("allocate {bytes} B on the emulator"),
                why,
            )
            .next_step("choose a smaller model, --dtype or context")
        };
        let n = self.allocations.fetch_add(1, Ordering::SeqCst) + 1;
        if self.faults.out_of_memory_at == Some(n) {
            return Err(fail(format!("allocation {n} is made to fail")));
        }
        let limit = self.character.memory_bytes.unwrap_or(usize::MAX);
        let take = |used: usize| used.checked_add(bytes).filter(|&sum| sum <= limit);
        let used = &self.used_bytes;
        used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take)
            .map_err(|used| fail(format!("{used} of {limit} B are in use")))?;
        let data = match weight {
            Some(data) => data,
            None => {
                let mut data = Vec::new();
                if let Err(e) = data.try_reserve_exact(bytes) {
                    used.fetch_sub(bytes, Ordering::SeqCst);
                    return Err(fail(e.to_string()));
                }
                data.resize(bytes, GARBAGE);
                data
            }
        };
        Ok(Buffer::new(EmulatorMemory {
            board: self.clone(),
            bytes,
            data: Mutex::new(data),
        }))
    }

    /// Queues work on a stream, or does it at once.
    fn push(&self, stream: u64, work: Work) -> Result<()> {
        {
            let mut queues = lock(&self.queues);
            let queue = queues.streams.entry(stream).or_default();
            queue.pending.push_back(work);
            queue.queued += 1;
        }
        match self.character.asynchronous {
            true => Ok(()),
            false => self.finish(stream, u64::MAX),
        }
    }

    /// Does the work of a stream until it has done `mark` pieces, or all.
    fn finish(&self, stream: u64, mark: u64) -> Result<()> {
        let running = lock(&self.running);
        self.drain(stream, mark);
        drop(running);
        let mut queues = lock(&self.queues);
        match queues
            .streams
            .get_mut(&stream)
            .and_then(|q| q.failed.take())
        {
            Some(e) => Err(e),
            None => self.alive("run queued work"),
        }
    }

    fn drain(&self, stream: u64, mark: u64) {
        loop {
            let next = {
                let mut queues = lock(&self.queues);
                let queue = queues.streams.get_mut(&stream);
                queue
                    .filter(|q| q.done < mark)
                    .and_then(|q| q.pending.pop_front())
            };
            let Some(work) = next else { return };
            let result = match work {
                Work::Upload(to, bytes) => {
                    let kept = match self.faults.uploads_short {
                        true => bytes.len().saturating_sub(1),
                        false => bytes.len(),
                    };
                    to.write_bytes(&bytes[..kept]);
                    Ok(())
                }
                // After a loss nothing runs any more.
                Work::Launch(launch) => self
                    .alive("run queued work")
                    .and_then(|()| (launch.kernel)(&launch.windows)),
                Work::Spoil(result) => {
                    if !result.shape.contains(&0) {
                        result.buffer_bytes()[result.offset_bytes] ^= 1;
                    }
                    Ok(())
                }
                Work::Wait(other, mark) => {
                    if !self.faults.waits_ignored {
                        self.drain(other, mark);
                    }
                    Ok(())
                }
                Work::Mark(passed) => {
                    *lock(&passed) = Some(Instant::now());
                    Ok(())
                }
            };
            let mut queues = lock(&self.queues);
            if let Some(queue) = queues.streams.get_mut(&stream) {
                queue.done += 1;
                if let Err(e) = result {
                    queue.failed.get_or_insert(e);
                }
            }
        }
    }
}

#[derive(Debug)]
pub(crate) struct EmulatorDevice {
    info: DeviceInfo,
    board: Arc<Board>,
}

impl EmulatorDevice {
    pub(crate) fn new(spec: &str, board: Arc<Board>) -> Self {
        let character = &board.character;
        let numerics = character.card();
        let words = [character.words(), board.faults.words()].concat();
        Self {
            info: DeviceInfo {
                id: board.id,
                spec: spec.into(),
                name: "emulator".into(),
                detail: match words.is_empty() {
                    true => "32 lanes, f32 sums".into(),
                    false => words.join(", "),
                },
                parallelism: character.wave,
                native_floats: numerics.floats.clone(),
                numerics,
                long_pages: false,
            },
            board,
        }
    }
}

impl Device for EmulatorDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn memory(&self) -> Option<MemoryInfo> {
        let total = self.board.character.memory_bytes?;
        Some(MemoryInfo {
            total_bytes: total,
            free_bytes: total - self.board.used_bytes.load(Ordering::SeqCst),
        })
    }

    fn alloc(&self, bytes: usize) -> Result<Buffer> {
        self.board.alloc(bytes, None)
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        self.board.alive("make a stream")?;
        let mut queues = lock(&self.board.queues);
        let id = queues.next;
        queues.next += 1;
        queues.streams.insert(id, Queue::default());
        Ok(Box::new(EmulatorStream {
            board: self.board.clone(),
            id,
            capture: None,
        }))
    }
}

/// Memory of the emulator. Queued work holds the buffer, so that dropping the handle delays the free.
#[derive(Debug)]
pub(crate) struct EmulatorMemory {
    board: Arc<Board>,
    bytes: usize,
    data: Mutex<Vec<u8>>,
}

impl EmulatorMemory {
    pub(crate) fn data(&self) -> MutexGuard<'_, Vec<u8>> {
        lock(&self.data)
    }
}

impl Memory for EmulatorMemory {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn device(&self) -> DeviceId {
        self.board.id
    }
}

impl Drop for EmulatorMemory {
    fn drop(&mut self) {
        let n = self.board.frees.fetch_add(1, Ordering::SeqCst) + 1;
        if self.board.faults.leak && n.is_multiple_of(8) {
            return;
        }
        self.board
            .used_bytes
            .fetch_sub(self.bytes, Ordering::SeqCst);
    }
}

/// A view that queued work can keep.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    buffer: Buffer,
    pub(crate) dtype: DType,
    pub(crate) shape: Vec<usize>,
    strides: Vec<usize>,
    offset_bytes: usize,
}

impl Window {
    /// # Errors
    /// `InvalidArgument` when the view lies on another device.
    pub(crate) fn new(board: &Board, doing: &'static str, view: &View<'_>) -> Result<Self> {
        let memory: Option<&EmulatorMemory> = view.buffer().downcast();
        if memory.is_none_or(|memory| memory.board.id != board.id) {
            return Err(Error::invalid(
                doing,
                "the view lies on another device than the stream",
            ));
        }
        Ok(Self {
            buffer: view.buffer().clone(),
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
            strides: view.strides().to_vec(),
            offset_bytes: view.offset_bytes(),
        })
    }

    /// All bytes of the buffer.
    fn whole(&self) -> Self {
        Self {
            buffer: self.buffer.clone(),
            dtype: DType::U8,
            shape: vec![self.buffer.bytes()],
            strides: vec![1],
            offset_bytes: 0,
        }
    }

    fn memory(&self) -> &EmulatorMemory {
        self.buffer
            .downcast()
            .expect("checked when the window was made")
    }

    /// The bytes of the whole buffer.
    pub(crate) fn buffer_bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.memory().data()
    }

    fn write_bytes(&self, bytes: &[u8]) {
        self.memory().data()[self.offset_bytes..][..bytes.len()].copy_from_slice(bytes);
    }

    /// Where each element lies in the buffer, row-major, in bytes.
    fn places(&self) -> Vec<usize> {
        let mut places = vec![self.offset_bytes];
        for (&n, &stride) in self.shape.iter().zip(&self.strides) {
            let step = stride * self.dtype.bytes();
            let next = places
                .iter()
                .flat_map(|at| (0..n).map(move |i| at + i * step));
            places = next.collect();
        }
        places
    }

    /// The elements, row-major.
    pub(crate) fn read(&self) -> Vec<f64> {
        let data = self.memory().data();
        let element = |at| decode(self.dtype, &data[at..]);
        self.places().into_iter().map(element).collect()
    }

    /// Stores elements, row-major, each rounded once.
    pub(crate) fn write(&self, values: &[f64]) {
        let (mut data, mut bytes) = (self.memory().data(), Vec::new());
        for (at, &x) in self.places().into_iter().zip(values) {
            bytes.clear();
            encode(self.dtype, x, &mut bytes);
            data[at..at + bytes.len()].copy_from_slice(&bytes);
        }
    }

    /// Whether the first element lies at a multiple of `align` bytes.
    pub(crate) fn is_aligned(&self, align: usize) -> bool {
        self.offset_bytes.is_multiple_of(align)
    }
}

/// An in-order queue.
#[derive(Debug)]
pub(crate) struct EmulatorStream {
    board: Arc<Board>,
    id: u64,
    /// The launches since the begin of a capture.
    capture: Option<Vec<Arc<Launched>>>,
}

impl EmulatorStream {
    /// Queues or records a launch.
    pub(crate) fn launch(&mut self, launched: Launched) -> Result<()> {
        let launched = Arc::new(launched);
        match &mut self.capture {
            Some(recorded) => {
                self.board.alive(launched.op)?;
                recorded.push(launched);
                Ok(())
            }
            None => self.start(launched),
        }
    }

    fn start(&self, launched: Arc<Launched>) -> Result<()> {
        let wrong = self.board.start_launch(launched.op)?;
        let result = launched.windows.first().filter(|_| wrong).cloned();
        self.board.push(self.id, Work::Launch(launched))?;
        match result {
            Some(result) => self.board.push(self.id, Work::Spoil(result)),
            None => Ok(()),
        }
    }

    /// Refuses what a capture cannot hold.
    fn not_in_capture(&self, doing: &'static str) -> Result<()> {
        self.board.alive(doing)?;
        match self.capture {
            None => Ok(()),
            Some(_) => Err(
                Error::invalid(doing, "the stream records launches, and nothing else")
                    .next_step("end the capture first"),
            ),
        }
    }
}

impl Stream for EmulatorStream {
    fn upload(&mut self, dst: &View<'_>, src: &[u8]) -> Result<()> {
        check_transfer("upload", dst, src.len())?;
        let to = Window::new(&self.board, "upload", dst)?;
        self.not_in_capture("upload")?;
        self.board.act("upload")?;
        self.board.push(self.id, Work::Upload(to, src.to_vec()))
    }

    fn download(&mut self, dst: &mut [u8], src: &View<'_>) -> Result<()> {
        check_transfer("download", src, dst.len())?;
        let from = Window::new(&self.board, "download", src)?;
        self.not_in_capture("download")?;
        self.board.act("download")?;
        if !self.board.faults.downloads_early {
            self.board.finish(self.id, u64::MAX)?;
        }
        dst.copy_from_slice(&from.buffer_bytes()[src.range_bytes()]);
        Ok(())
    }

    fn record(&mut self) -> Result<Event> {
        self.not_in_capture("record an event")?;
        let passed = Arc::default();
        self.board.push(self.id, Work::Mark(Arc::clone(&passed)))?;
        let queues = lock(&self.board.queues);
        let mark = queues.streams.get(&self.id).map_or(0, |queue| queue.queued);
        drop(queues);
        Ok(Event::new(EmulatorEvent {
            board: self.board.clone(),
            stream: self.id,
            mark,
            passed,
        }))
    }

    fn wait(&mut self, event: &Event) -> Result<()> {
        self.not_in_capture("wait for an event")?;
        let event = event
            .downcast::<EmulatorEvent>()
            .filter(|event| event.board.id == self.board.id)
            .ok_or_else(|| Error::invalid("wait for an event", "it is of another device"))?;
        self.board
            .push(self.id, Work::Wait(event.stream, event.mark))
    }

    fn synchronize(&mut self) -> Result<()> {
        self.not_in_capture("synchronize")?;
        self.board.finish(self.id, u64::MAX)
    }

    fn begin_capture(&mut self) -> Result<()> {
        self.not_in_capture("begin a capture")?;
        self.capture = Some(Vec::new());
        Ok(())
    }

    fn end_capture(&mut self) -> Result<Graph> {
        const DOING: &str = "end a capture";
        self.board.alive(DOING)?;
        let launches = self.capture.take().ok_or_else(|| {
            Error::invalid(DOING, "none has begun").next_step("call begin_capture first")
        })?;
        let mut stale = Vec::new();
        if self.board.faults.replay_stale {
            self.board.finish(self.id, u64::MAX)?;
            for window in launches.iter().flat_map(|launch| &launch.windows) {
                let bytes = window.buffer_bytes().clone();
                stale.push((window.whole(), bytes));
            }
        }
        Ok(Graph::new(EmulatorGraph {
            board: self.board.clone(),
            launches,
            stale,
        }))
    }
}

/// Recorded launches.
#[derive(Debug)]
struct EmulatorGraph {
    board: Arc<Board>,
    launches: Vec<Arc<Launched>>,
    /// What the buffers held when the capture ended, for a device that goes on computing with it.
    stale: Vec<(Window, Vec<u8>)>,
}

impl GraphState for EmulatorGraph {
    fn launch(&self, stream: &mut dyn Stream) -> Result<()> {
        const DOING: &str = "launch a graph";
        let stream = stream
            .downcast::<EmulatorStream>()
            .filter(|stream| stream.board.id == self.board.id)
            .ok_or_else(|| Error::invalid(DOING, "the stream is of another device"))?;
        stream.not_in_capture(DOING)?;
        for (window, bytes) in &self.stale {
            let work = Work::Upload(window.clone(), bytes.clone());
            self.board.push(stream.id, work)?;
        }
        let forgotten = usize::from(self.board.faults.replay_short);
        let kept = self.launches.len().saturating_sub(forgotten);
        for launched in &self.launches[..kept] {
            stream.start(Arc::clone(launched))?;
        }
        Ok(())
    }
}

impl Drop for EmulatorStream {
    fn drop(&mut self) {
        // What was queued is still owed to whoever reads the buffers.
        let _ = self.board.finish(self.id, u64::MAX);
        lock(&self.board.queues).streams.remove(&self.id);
    }
}

#[derive(Debug)]
struct EmulatorEvent {
    board: Arc<Board>,
    stream: u64,
    mark: u64,
    passed: Arc<Mutex<Option<Instant>>>,
}

impl EventState for EmulatorEvent {
    fn synchronize(&self) -> Result<()> {
        self.board.alive("wait for an event")?;
        self.board.finish(self.stream, self.mark)
    }

    fn since(&self, earlier: &Event) -> Result<Duration> {
        let fail = |why| Error::invalid("measure between events", why);
        let earlier = earlier
            .downcast::<EmulatorEvent>()
            .ok_or_else(|| fail("they are of different backends"))?;
        // One after the other: an event may be measured from itself.
        let end = *lock(&self.passed);
        let start = *lock(&earlier.passed);
        match (end, start) {
            (Some(end), Some(start)) => Ok(end.saturating_duration_since(start)),
            _ => Err(fail("one of them has not passed")),
        }
    }
}
