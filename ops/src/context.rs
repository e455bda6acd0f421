//! Planning on one device, and the ladder: native, composed, the host if asked for, `Unsupported`.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use hal::{Buffer, Device, Error, Result, Stream, View};

use crate::observe::Watch;
use crate::op::shapes;
use crate::{Accelerator, ArgList, HostWeight, How, Launch, Observer, Op, Plan, Role, Signature};

/// Where operations are planned: an accelerator, and what may happen when it lacks a kernel.
#[derive(Debug)]
pub struct Context {
    accelerator: Accelerator,
    host: Option<Accelerator>,
    watch: Option<Arc<Watch>>,
    counts: Mutex<BTreeMap<(&'static str, &'static str), usize>>,
}

impl Context {
    /// Plans on `accelerator` alone: an operation that it cannot do is an error.
    pub fn new(accelerator: Accelerator) -> Self {
        Self {
            accelerator,
            host: None,
            watch: None,
            counts: Mutex::default(),
        }
    }

    /// Operations that the accelerator cannot do run on `host` instead, with copies each way.
    /// For the user who asks for it aloud; [`Context::counts`] tells what it cost.
    #[must_use]
    pub fn with_host_fallback(mut self, host: Accelerator) -> Self {
        self.host = Some(host);
        self
    }

    /// Every launch of what is planned from now on is seen by `observer`, inside those named before.
    #[must_use]
    pub fn with_observer(mut self, observer: Arc<dyn Observer>) -> Self {
        let before = self.watch.take();
        self.watch = Some(Arc::new(Watch::new(before.as_deref(), observer)));
        self
    }

    /// Whether anybody sees the launches of what is planned from now on.
    pub fn is_observed(&self) -> bool {
        self.watch.is_some()
    }

    /// Tells observers what a buffer holds, by the name that people know it by, and of a packed weight its values.
    ///
    /// # Errors
    /// Those of the observers.
    pub fn name(&self, name: &str, buffer: &Buffer, weight: Option<&HostWeight<'_>>) -> Result<()> {
        match &self.watch {
            Some(watch) => watch.name(name, buffer, weight),
            None => Ok(()),
        }
    }

    /// The device planned for.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.accelerator.device
    }

    /// Plans `op`: natively, else composed, else on the host if the user allowed it.
    ///
    /// # Errors
    /// `Unsupported` naming operation, specification and device when no step of the ladder holds;
    /// otherwise what the backend reports.
    pub fn plan<O: Op>(&self, op: O) -> Result<Plan<O>> {
        let info = self.device().info();
        let (how, launch) = self.climb(&op)?.ok_or_else(|| {
            Error::unsupported(
                format!("plan {} on {}", O::NAME, info.spec),
                format!("no kernel for {op:?}, and it cannot be composed"),
            )
            .next_step(
                "choose another dtype or device, or allow the host: Context::with_host_fallback",
            )
        })?;
        self.count([((O::NAME, how_name(how)), 1)]);
        let launch = match &self.watch {
            Some(watch) => watch.wrap(op.clone(), how, launch),
            None => launch,
        };
        Ok(Plan::new(op, how, info.id, launch))
    }

    /// How many plans of each operation went which way: `("attention", "composed") → 40`; the parts of a composed
    /// operation count too.
    pub fn counts(&self) -> BTreeMap<(&'static str, &'static str), usize> {
        self.counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn count(&self, plans: impl IntoIterator<Item = ((&'static str, &'static str), usize)>) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        for (plan, n) in plans {
            *counts.entry(plan).or_default() += n;
        }
    }

    fn climb<O: Op>(&self, op: &O) -> Result<Option<(How, Arc<dyn Launch>)>> {
        if let Some(planner) = O::planner(&self.accelerator.ops)
            && let Some(launch) = planner.plan(op)?
        {
            return Ok(Some((How::Native, launch)));
        }
        // Composed means on this device: its parts may not go to the host one by one.
        let parts = Context::new(self.accelerator.clone());
        match op.compose(&parts) {
            Ok(Some(launch)) => {
                self.count(parts.counts());
                return Ok(Some((How::Composed, launch)));
            }
            Ok(None) => {}
            // A part is missing too: the next step of the ladder may still hold.
            Err(e) if e.kind() == hal::ErrorKind::Unsupported => {}
            Err(e) => return Err(e),
        }
        if let Some(host) = &self.host
            && let Some((_, launch)) = Context::new(host.clone()).climb(op)?
        {
            let launch = HostLaunch {
                host: host.clone(),
                signature: op.signature(),
                launch,
            };
            return Ok(Some((How::Host, Arc::new(launch))));
        }
        Ok(None)
    }
}

fn how_name(how: How) -> &'static str {
    match how {
        How::Native => "native",
        How::Composed => "composed",
        How::Host => "host",
    }
}

/// Runs one operation on the host: every argument travels there, outputs travel back.
/// Strided arguments travel as the bytes that span them.
struct HostLaunch {
    host: Accelerator,
    signature: Signature,
    launch: Arc<dyn Launch>,
}

impl Launch for HostLaunch {
    unsafe fn launch(
        &self,
        stream: &mut dyn Stream,
        args: &[View<'_>],
        _: &View<'_>,
    ) -> Result<()> {
        let device = &self.host.device;
        let mut host_stream = device.stream()?;
        let mut bytes = Vec::new();
        let mut buffers: Vec<Buffer> = Vec::with_capacity(args.len());
        for (view, arg) in args.iter().zip(&self.signature) {
            if let Role::Weight(_) = arg.role {
                // Packed by the host's own kernel: it never left.
                buffers.push(view.buffer().clone());
                continue;
            }
            let span = view.span();
            bytes.resize(span.bytes(), 0);
            stream.download(&mut bytes, &span)?;
            let buffer = device.alloc(bytes.len())?;
            host_stream.upload(&View::new(&buffer, hal::DType::U8, &[bytes.len()])?, &bytes)?;
            buffers.push(buffer);
        }
        let mut list = ArgList::new();
        for ((view, arg), buffer) in args.iter().zip(&self.signature).zip(&buffers) {
            list.push(match arg.role {
                Role::Weight(_) => *view,
                _ => View::strided(buffer, 0, view.dtype(), view.shape(), view.strides())?,
            });
        }
        let workspace = device.alloc(self.launch.workspace_bytes(&shapes(&list)))?;
        // SAFETY: the views have the shapes and strides of arguments that passed the checks.
        unsafe {
            self.launch
                .launch(&mut *host_stream, &list, &View::of_bytes(&workspace))?
        };
        for ((view, arg), buffer) in args.iter().zip(&self.signature).zip(&buffers) {
            if matches!(arg.role, Role::Out | Role::InOut) {
                let span = view.span();
                bytes.resize(span.bytes(), 0);
                let from = View::new(buffer, hal::DType::U8, &[bytes.len()])?;
                host_stream.download(&mut bytes, &from)?;
                stream.upload(&span, &bytes)?;
            }
        }
        Ok(())
    }

    fn pack(&self, weight: &HostWeight<'_>) -> Result<Buffer> {
        self.launch.pack(weight)
    }
}
