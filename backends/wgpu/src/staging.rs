//! Memory through which small uploads go: mapped chunks that the device copies from, in turn.

use std::collections::VecDeque;
use std::sync::Arc;

use hal::{Error, ErrorKind, Result};
use wgpu::{BufferUsages, MapMode, SubmissionIndex};

use crate::gpu::Gpu;
use crate::stream::{Answer, Mapped, wait};

/// Bytes of a chunk.
const CHUNK_BYTES: usize = 256 << 10;

/// The most chunks: a batch uses one, and a few are on their way.
const CHUNKS: usize = 8;

/// The longest upload that goes this way.
pub(crate) const STAGED_BYTES: usize = 64 << 10;

/// The chunks of a stream.
#[derive(Debug, Default)]
pub(crate) struct Staging {
    /// The chunk that is being filled, and how far.
    open: Option<(Chunk, usize)>,
    /// Those that the device may be reading, the oldest first.
    away: VecDeque<Chunk>,
}

#[derive(Debug)]
struct Chunk {
    buffer: wgpu::Buffer,
    mapped: Arc<Answer<Mapped>>,
    /// The submission that reads it.
    read_by: Option<SubmissionIndex>,
}

const DOING: &str = "upload";

impl Staging {
    /// Whether the open chunk lacks room for so many bytes: it must be submitted first.
    pub(crate) fn is_full(&self, bytes: usize) -> bool {
        let full = |(_, used): &(Chunk, usize)| used + bytes > CHUNK_BYTES;
        self.open.as_ref().is_some_and(full)
    }

    /// Copies `src`, at most [`STAGED_BYTES`] of whole words, into a chunk that has room; where it lies there.
    ///
    /// # Errors
    /// `OutOfMemory`, `DeviceLost`.
    pub(crate) fn put(&mut self, gpu: &Gpu, src: &[u8]) -> Result<(&wgpu::Buffer, u64)> {
        if self.open.is_none() {
            self.open = Some((self.free(gpu)?, 0));
        }
        let (chunk, used) = self.open.as_mut().expect("just opened");
        let at = *used as u64;
        let mut room = chunk
            .buffer
            .get_mapped_range_mut(at..at + src.len() as u64)
            .map_err(|e| {
                Error::new(
                    ErrorKind::Unexpected,
                    DOING,
                    format!("staging memory is not mapped: {e}"),
                )
            })?;
        room.copy_from_slice(src);
        drop(room);
        *used = (*used + src.len()).next_multiple_of(wgpu::MAP_ALIGNMENT as usize);
        Ok((&chunk.buffer, at))
    }

    /// A chunk that nobody reads.
    fn free(&mut self, gpu: &Gpu) -> Result<Chunk> {
        if let Some(oldest) = self.away.front() {
            // Answers are given to whoever polls.
            let _ = gpu.device.poll(wgpu::PollType::Poll);
            if oldest.mapped.is_there() || self.away.len() == CHUNKS {
                let mut chunk = self.away.pop_front().expect("there is one");
                if let Some(index) = chunk.read_by.take().filter(|_| !chunk.mapped.is_there()) {
                    wait(gpu, DOING, index)?;
                }
                let mapped = chunk.mapped.hear(gpu, DOING)?;
                mapped.map_err(|e| {
                    let detail = "staging memory cannot be mapped";
                    Error::new(ErrorKind::Unexpected, DOING, detail).with_source(e)
                })?;
                return Ok(chunk);
            }
        }
        let descriptor = wgpu::BufferDescriptor {
            label: None,
            size: CHUNK_BYTES as u64,
            usage: BufferUsages::MAP_WRITE | BufferUsages::COPY_SRC,
            mapped_at_creation: true,
        };
        gpu.counters.buffers.add();
        Ok(Chunk {
            buffer: gpu.catching(DOING, || gpu.device.create_buffer(&descriptor))?,
            mapped: Answer::new(),
            read_by: None,
        })
    }

    /// Gives the device what was put, before it is submitted.
    pub(crate) fn close(&self) {
        if let Some((chunk, _)) = &self.open {
            chunk.buffer.unmap();
        }
    }

    /// Has what was closed mapped again after `index`.
    pub(crate) fn submitted(&mut self, index: &SubmissionIndex) {
        let Some((mut chunk, _)) = self.open.take() else {
            return;
        };
        chunk.mapped.forget();
        let answer = Arc::clone(&chunk.mapped);
        let say = move |result| answer.say(result);
        chunk.buffer.map_async(MapMode::Write, .., say);
        chunk.read_by = Some(index.clone());
        self.away.push_back(chunk);
    }
}

#[cfg(test)]
mod tests {
    use hal::{DType, Device, View};

    use super::*;
    use crate::device::WgpuDevice;

    #[test]
    fn small_uploads_arrive_and_chunks_are_used_again() {
        let gpu = match crate::adapter::find("wgpu") {
            Ok(adapter) => adapter.open(&crate::Options::default()).unwrap(),
            Err(e) => return conformance::skip("wgpu", e),
        };
        let device = WgpuDevice::new(&gpu).unwrap();
        let (piece, n) = (STAGED_BYTES - 4, 64);
        assert!(n * piece > CHUNKS * CHUNK_BYTES);
        let buffer = device.alloc(n * piece).unwrap();
        let mut stream = device.stream().unwrap();
        let mut src = vec![0; piece];
        let mut got = vec![0; n * piece];
        let whole = View::new(&buffer, DType::U8, &[n * piece]).unwrap();
        let before = gpu.counters.now().buffers;
        for round in 0..3 {
            for i in 0..n {
                // The last upload's bytes are written over, whether they have arrived or not.
                src.fill((i + round) as u8);
                let to = View::at(&buffer, i * piece, DType::U8, &[piece]).unwrap();
                stream.upload(&to, &src).unwrap();
            }
            stream.download(&mut got, &whole).unwrap();
            let expected = |at: usize| (at / piece + round) as u8;
            assert!(got.iter().enumerate().all(|(at, &x)| x == expected(at)));
        }
        // And what the downloads arrive in.
        let made = gpu.counters.now().buffers - before;
        assert!(made <= CHUNKS as u64 + 1, "{made}");
    }
}
