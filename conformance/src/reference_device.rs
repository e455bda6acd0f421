//! A device that computes every operation by its f64 reference and rounds once: `reference`.
//!
//! Slow and right: it tests the suite itself, and stands in where no kernel exists yet. Its memory is host memory;
//! its streams work at once. Values that operations read from memory (ids, page numbers, lengths) must be in range.

use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hal::{
    Buffer, DType, Device, DeviceId, DeviceInfo, Error, ErrorKind, Event, EventState, Memory,
    MemoryInfo, Numerics, Result, Stream, View, check_transfer,
};
use ops::reference::Tensor;
use ops::{Accelerator, HostWeight, Launch, Ops, Planner, Role, SafeLaunch};

use crate::bench::offsets;
use crate::cases::Conformance;
use crate::number::{decode, encode};

/// Opens a new reference device.
pub fn open() -> Accelerator {
    let id = DeviceId::new();
    macro_rules! all {
        ($($name:ident $op:ident),*) => {
            Ops { $($name: Some(Arc::new(Reference::<ops::$op>(id, PhantomData))),)* }
        };
    }
    Accelerator {
        device: Arc::new(ReferenceDevice {
            info: DeviceInfo {
                id,
                spec: "reference".into(),
                name: "f64 reference".into(),
                detail: "scalar, one rounding per result".into(),
                parallelism: 1,
                native_floats: vec![DType::F32, DType::F16, DType::BF16],
                numerics: Numerics {
                    int8_cache: true,
                    ..Numerics::exact()
                },
                long_pages: false,
            },
        }),
        ops: crate::for_each_op!(all),
    }
}

#[derive(Debug)]
struct ReferenceDevice {
    info: DeviceInfo,
}

impl Device for ReferenceDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn memory(&self) -> Option<MemoryInfo> {
        None
    }

    fn alloc(&self, bytes: usize) -> Result<Buffer> {
        let mut data = Vec::new();
        data.try_reserve_exact(bytes).map_err(|e| {
            let doing = format!("allocate {bytes} B on the reference device");
            Error::new(ErrorKind::OutOfMemory, doing, e.to_string())
        })?;
        data.resize(bytes, 0);
        Ok(Buffer::new(HostMemory {
            device: self.info.id,
            bytes: data.len(),
            data: Mutex::new(data),
            weight: None,
        }))
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        Ok(Box::new(ReferenceStream))
    }
}

#[derive(Debug)]
struct HostMemory {
    device: DeviceId,
    bytes: usize,
    data: Mutex<Vec<u8>>,
    /// The dequantised values, when this is a packed weight.
    weight: Option<Tensor>,
}

impl HostMemory {
    fn of<'a>(doing: &str, view: &View<'a>) -> Result<&'a Self> {
        view.buffer()
            .downcast()
            .ok_or_else(|| Error::invalid(doing, "the view lies on another device than the stream"))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory for HostMemory {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn device(&self) -> DeviceId {
        self.device
    }
}

#[derive(Debug)]
struct ReferenceStream;

impl Stream for ReferenceStream {
    fn upload(&mut self, dst: &View<'_>, src: &[u8]) -> Result<()> {
        check_transfer("upload", dst, src.len())?;
        HostMemory::of("upload", dst)?.lock()[dst.range_bytes()].copy_from_slice(src);
        Ok(())
    }

    fn download(&mut self, dst: &mut [u8], src: &View<'_>) -> Result<()> {
        check_transfer("download", src, dst.len())?;
        dst.copy_from_slice(&HostMemory::of("download", src)?.lock()[src.range_bytes()]);
        Ok(())
    }

    fn record(&mut self) -> Result<Event> {
        Ok(Event::new(HostEvent(Instant::now())))
    }

    fn wait(&mut self, _event: &Event) -> Result<()> {
        Ok(())
    }

    fn synchronize(&mut self) -> Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct HostEvent(Instant);

impl EventState for HostEvent {
    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn since(&self, earlier: &Event) -> Result<Duration> {
        let earlier = earlier.downcast::<HostEvent>().ok_or_else(|| {
            Error::invalid("measure between events", "they are of different backends")
        })?;
        Ok(self.0.saturating_duration_since(earlier.0))
    }
}

/// Plans the reference of `O`.
struct Reference<O>(DeviceId, PhantomData<fn(O)>);

impl<O: Conformance> Planner<O> for Reference<O> {
    fn plan(&self, op: &O) -> Result<Option<Arc<dyn Launch>>> {
        Ok(Some(Arc::new(ReferenceLaunch {
            op: op.clone(),
            device: self.0,
        })))
    }
}

struct ReferenceLaunch<O> {
    op: O,
    device: DeviceId,
}

impl<O: Conformance> SafeLaunch for ReferenceLaunch<O> {
    fn run(&self, _stream: &mut dyn Stream, args: &[View<'_>]) -> Result<()> {
        let doing = O::NAME;
        let signature = self.op.signature();
        let mut inputs = Vec::new();
        for (arg, view) in signature.iter().zip(args) {
            let memory = HostMemory::of(doing, view)?;
            match arg.role {
                Role::Out => {}
                Role::Weight(_) => inputs.push(memory.weight.clone().ok_or_else(|| {
                    Error::invalid(doing, format!("{} was not packed by this plan", arg.name))
                })?),
                _ => inputs.push(read(memory, view)),
            }
        }
        let shapes: Vec<&[usize]> = args.iter().map(View::shape).collect();
        let mut results = self.op.reference(&shapes, &inputs).into_iter();
        for (arg, view) in signature.iter().zip(args) {
            if let Role::Out | Role::InOut = arg.role {
                let result = results.next().ok_or_else(|| {
                    Error::new(
                        ErrorKind::Unexpected,
                        doing,
                        "the reference has too few outputs",
                    )
                })?;
                write(HostMemory::of(doing, view)?, view, &result);
            }
        }
        Ok(())
    }

    fn pack(&self, weight: &HostWeight<'_>) -> Result<Buffer> {
        let packed = self
            .op
            .signature()
            .into_iter()
            .find_map(|arg| match arg.role {
                Role::Weight(format) => Some(format),
                _ => None,
            });
        let (Some(format), Some([rows, cols])) = (packed, self.op.weight_shape()) else {
            return Err(Error::unsupported(
                "pack a weight",
                "this operation has none",
            ));
        };
        weight.expect(format, rows, cols)?;
        let data = [&*weight.data, &*weight.scales].concat();
        Ok(Buffer::new(HostMemory {
            device: self.device,
            bytes: data.len(),
            data: Mutex::new(data),
            weight: Some(weight.dequantise()),
        }))
    }
}

fn read(memory: &HostMemory, view: &View<'_>) -> Tensor {
    let (data, size) = (memory.lock(), view.dtype().bytes());
    let element = |at| decode(view.dtype(), &data[view.offset_bytes() + at * size..]);
    let elements = offsets(view.shape(), view.strides())
        .into_iter()
        .map(element);
    Tensor::new(view.shape(), elements.collect())
}

fn write(memory: &HostMemory, view: &View<'_>, values: &Tensor) {
    let (mut data, size, mut bytes) = (memory.lock(), view.dtype().bytes(), Vec::new());
    for (&x, at) in values
        .data
        .iter()
        .zip(offsets(view.shape(), view.strides()))
    {
        bytes.clear();
        encode(view.dtype(), x, &mut bytes);
        let at = view.offset_bytes() + at * size;
        data[at..at + size].copy_from_slice(&bytes);
    }
}
