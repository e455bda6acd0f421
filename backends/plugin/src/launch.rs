//! Planning and launching through the table.

use std::ffi::{CString, c_char};
use std::ptr::null;
use std::sync::Arc;

use arrayvec::ArrayVec;
use hal::{Buffer, Error, ErrorKind, MAX_RANK, Result, Stream, View, WeightFormat};
use ops::{HostWeight, Launch, MAX_ARGS, Op, Ops, Planner, Role};

use crate::abi::{RawArg, RawShape, RawView, RawWeight, code};
use crate::chip::{Chip, Object};
use crate::device::{PluginMemory, PluginStream};

/// A planner for every operation that the plugin claims.
pub(crate) fn table(chip: &Arc<Chip>) -> Ops {
    Ops {
        embedding: planner(chip),
        matmul: planner(chip),
        batched_matmul: planner(chip),
        softmax: planner(chip),
        attention: planner(chip),
        kv_write: planner(chip),
        rope: planner(chip),
        rope_kv_write: planner(chip),
        rms_norm: planner(chip),
        layer_norm: planner(chip),
        add_rms_norm: planner(chip),
        add_layer_norm: planner(chip),
        glu: planner(chip),
        activation: planner(chip),
        elementwise: planner(chip),
        cast: planner(chip),
        copy: planner(chip),
        argmax: planner(chip),
        top_k: planner(chip),
        sample: planner(chip),
    }
}

fn planner<O: Op>(chip: &Arc<Chip>) -> Option<Arc<dyn Planner<O>>> {
    let name = CString::new(O::NAME).ok()?;
    // SAFETY: an open device, and a text with its end.
    let claimed = unsafe { (chip.table.op_claimed)(chip.device.0, name.as_ptr()) } != 0;
    let chip = Arc::clone(chip);
    claimed.then(|| Arc::new(move |op: &O| plan(&chip, &name, op)) as Arc<dyn Planner<O>>)
}

fn plan<O: Op>(chip: &Arc<Chip>, name: &CString, op: &O) -> Result<Option<Arc<dyn Launch>>> {
    let doing = format!("plan {} on {}", O::NAME, chip.info.spec);
    let text = |text: String| {
        CString::new(text).map_err(|e| {
            Error::new(
                ErrorKind::Unexpected,
                doing.clone(),
                "a text has a zero byte",
            )
            .with_source(e)
        })
    };
    let spec = serde_json::to_string(op).map_err(|e| {
        Error::new(
            ErrorKind::Unexpected,
            doing.clone(),
            "the specification is no JSON",
        )
        .with_source(e)
    })?;
    let spec = text(spec)?;
    let signature = op.signature();
    let mut format = None;
    let mut names = ArrayVec::<(CString, Option<CString>), MAX_ARGS>::new();
    for arg in &signature {
        let weight = match arg.role {
            Role::Weight(of) => {
                format = Some(of);
                Some(text(of.to_string())?)
            }
            _ => None,
        };
        names.push((text(arg.name.into())?, weight));
    }
    let mut args = ArrayVec::<RawArg, MAX_ARGS>::new();
    for (arg, (name, weight)) in signature.iter().zip(&names) {
        let Some(dtype) = code(arg.dtype) else {
            return Ok(None);
        };
        args.push(RawArg {
            struct_size: size_of::<RawArg>() as u32,
            role: match arg.role {
                Role::Out => 0,
                Role::InOut => 1,
                Role::In => 2,
                Role::Weight(_) => 3,
            },
            dtype,
            reserved: 0,
            name: name.as_ptr(),
            weight: weight.as_ref().map_or(null(), |weight| weight.as_ptr()),
        });
    }
    let args: ArrayVec<*const RawArg, MAX_ARGS> = args.iter().map(|arg| arg as *const _).collect();
    let made = chip.make(&doing, "plan", |plan, error| {
        let (device, count) = (chip.device.0, args.len() as u32);
        let (name, spec) = (name.as_ptr(), spec.as_ptr());
        // SAFETY: an open device, texts with their ends, as many arguments as are counted, places to write to.
        unsafe { (chip.table.plan)(device, name, spec, args.as_ptr(), count, plan, error) }
    });
    let object = match made {
        Err(e) if e.kind() == ErrorKind::Unsupported => return Ok(None),
        made => made?,
    };
    let plan = PlanHandle {
        chip: Arc::clone(chip),
        object,
    };
    Ok(Some(Arc::new(PluginLaunch {
        plan: Arc::new(plan),
        format,
    })))
}

/// The plugin's plan.
#[derive(Debug)]
pub(crate) struct PlanHandle {
    chip: Arc<Chip>,
    object: Object,
}

impl Drop for PlanHandle {
    fn drop(&mut self) {
        // SAFETY: dropped once.
        unsafe { (self.chip.table.plan_drop)(self.object.0) }
    }
}

struct PluginLaunch {
    plan: Arc<PlanHandle>,
    /// Of the weight, if there is one.
    format: Option<WeightFormat>,
}

/// Lengths as the table has them.
fn four(lengths: &[usize]) -> [u64; MAX_RANK] {
    let mut four = [0; MAX_RANK];
    for (to, from) in four.iter_mut().zip(lengths) {
        *to = *from as u64;
    }
    four
}

fn raw_view(chip: &Chip, view: &View<'_>) -> Result<RawView> {
    const DOING: &str = "launch on a plugin";
    let buffer = chip.object_of(DOING, view.buffer())?;
    Ok(RawView {
        struct_size: size_of::<RawView>() as u32,
        dtype: code(view.dtype()).ok_or_else(|| {
            Error::unsupported(DOING, format!("the table knows no {}", view.dtype()))
        })?,
        rank: view.rank() as u32,
        reserved: 0,
        buffer: buffer.0,
        offset_bytes: view.offset_bytes() as u64,
        shape: four(view.shape()),
        strides: four(view.strides()),
    })
}

impl Launch for PluginLaunch {
    fn workspace_bytes(&self, shapes: &[&[usize]]) -> usize {
        let Some(bytes) = self.plan.chip.table.plan_workspace_bytes else {
            return 0;
        };
        let shapes: ArrayVec<RawShape, MAX_ARGS> = shapes
            .iter()
            .take(MAX_ARGS)
            .map(|shape| RawShape {
                struct_size: size_of::<RawShape>() as u32,
                rank: shape.len().min(MAX_RANK) as u32,
                dims: four(shape),
            })
            .collect();
        let list: ArrayVec<*const RawShape, MAX_ARGS> =
            shapes.iter().map(|shape| shape as *const _).collect();
        // SAFETY: an open plan, and as many shapes as are counted.
        let bytes = unsafe { bytes(self.plan.object.0, list.as_ptr(), list.len() as u32) };
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    unsafe fn launch(
        &self,
        stream: &mut dyn Stream,
        args: &[View<'_>],
        workspace: &View<'_>,
    ) -> Result<()> {
        const DOING: &str = "launch on a plugin";
        let chip = &self.plan.chip;
        let stream = stream
            .downcast::<PluginStream>()
            .filter(|stream| stream.chip.id() == chip.id())
            .ok_or_else(|| Error::invalid(DOING, "the stream is of another device"))?;
        let mut views = ArrayVec::<RawView, MAX_ARGS>::new();
        for view in args {
            let view = raw_view(chip, view)?;
            if views.try_push(view).is_err() {
                return Err(Error::invalid(DOING, "there are too many arguments"));
            }
        }
        let list: ArrayVec<*const RawView, MAX_ARGS> =
            views.iter().map(|view| view as *const _).collect();
        // A workspace that nobody asked for may lie anywhere.
        let used = workspace.buffer().device() == chip.id();
        let room = used.then(|| raw_view(chip, workspace)).transpose()?;
        let room = room.as_ref().map_or(null(), |room| room as *const _);
        chip.call(DOING, "launch", |error| {
            let (plan, stream) = (self.plan.object.0, stream.object.0);
            let count = list.len() as u32;
            // SAFETY: plan, stream and buffers are open and of one device; the caller has checked the arguments.
            unsafe { (chip.table.launch)(plan, stream, list.as_ptr(), count, room, error) }
        })?;
        if let Some(recorded) = &mut stream.recorded {
            let views = args.iter().chain(used.then_some(workspace));
            let buffers = views.map(|view| view.buffer().clone()).collect();
            recorded.push((Arc::clone(&self.plan), buffers));
        }
        Ok(())
    }

    fn pack(&self, weight: &HostWeight<'_>) -> Result<Buffer> {
        const DOING: &str = "pack a weight";
        let chip = &self.plan.chip;
        let (Some(format), Some(pack)) = (self.format, chip.table.plan_pack) else {
            let why = match self.format {
                None => "this operation has none",
                Some(_) => "the plugin's table has no plan_pack",
            };
            return Err(Error::unsupported(DOING, why));
        };
        // The shape is the plugin's to check: the specification of each operation says it another way.
        weight.expect(format, weight.rows, weight.cols)?;
        let text = CString::new(format.to_string()).map_err(|e| {
            Error::new(ErrorKind::Unexpected, DOING, "a text has a zero byte").with_source(e)
        })?;
        let format: *const c_char = text.as_ptr();
        let raw = RawWeight {
            struct_size: size_of::<RawWeight>() as u32,
            reserved: 0,
            format,
            rows: weight.rows as u64,
            cols: weight.cols as u64,
            data: weight.data.as_ptr().cast(),
            data_bytes: weight.data.len() as u64,
            scales: weight.scales.as_ptr().cast(),
            scales_bytes: weight.scales.len() as u64,
        };
        let mut bytes = 0;
        let object = chip.make(DOING, "plan_pack", |buffer, error| {
            // SAFETY: an open plan, a weight that lives for the call, places to write to.
            unsafe { pack(self.plan.object.0, &raw, buffer, &mut bytes, error) }
        })?;
        Ok(Buffer::new(PluginMemory {
            chip: Arc::clone(chip),
            object,
            bytes: usize::try_from(bytes).unwrap_or(0),
        }))
    }
}
