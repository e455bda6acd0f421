//! Every program that the conformance suite asks for, for tests of compilers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use backend_simt::kit::{Call, Chip};
use backend_simt::library::{Library, Product, Shape, Types};
use backend_simt::{Argument, Compiled, Facts, Limits, Options, SimtDriver, Source};
use conformance::{Conformance, for_each_op};
use hal::{DType, Error, Numerics, Result};
use ops::{Accelerator, Context, Ops};

/// A program to compile: its text, and the macros that are defined.
pub type Program = (Source, Vec<(String, String)>);

/// A device that only writes down what it is to compile.
#[derive(Debug)]
pub struct Writer {
    facts: Facts,
    limits: Limits,
    programs: Arc<Mutex<BTreeMap<String, Program>>>,
}

fn none<T>() -> Result<T> {
    Err(Error::unsupported(
        "use the writer",
        "it only writes programs down",
    ))
}

impl SimtDriver for Writer {
    type Memory = ();
    type Program = ();
    type Kernel = ();
    type Queue = ();
    type Mark = ();

    fn facts(&self) -> &Facts {
        &self.facts
    }
    fn limits(&self) -> &Limits {
        &self.limits
    }
    fn alloc(&self, _: usize) -> Result<()> {
        none()
    }
    fn compile(
        &self,
        source: &Source,
        defines: &[(&str, String)],
        _: Option<&[u8]>,
    ) -> Result<Compiled<()>> {
        let key = format!("{} {defines:?}", source.name);
        let defines = defines
            .iter()
            .map(|(name, value)| (name.to_string(), value.clone()));
        let program = (*source, defines.collect());
        lock(&self.programs).insert(key, program);
        Ok(Compiled {
            program: (),
            fresh: true,
        })
    }
    fn kernel(&self, (): &(), _: &str, _: usize) -> Result<()> {
        Ok(())
    }
    fn kernel_with_local(&self, (): &(), _: &str, _: usize, _: usize) -> Result<()> {
        Ok(())
    }
    fn queue(&self) -> Result<()> {
        none()
    }
    fn upload(&self, (): &mut (), (): &(), _: usize, _: &[u8]) -> Result<()> {
        none()
    }
    fn download(&self, (): &mut (), _: &mut [u8], (): &(), _: usize) -> Result<()> {
        none()
    }
    unsafe fn launch(
        &self,
        (): &mut (),
        (): &(),
        _: [usize; 3],
        _: usize,
        _: &[Argument<'_, ()>],
    ) -> Result<()> {
        none()
    }
    fn record(&self, (): &mut ()) -> Result<()> {
        none()
    }
    fn wait(&self, (): &mut (), (): &()) -> Result<()> {
        none()
    }
    fn synchronize(&self, (): &mut ()) -> Result<()> {
        none()
    }
    fn finish(&self, (): &()) -> Result<()> {
        none()
    }
    fn elapsed(&self, (): &(), (): &()) -> Result<Option<Duration>> {
        none()
    }
}

/// A library of products of the [`Writer`], so that the kernels around one are asked for.
#[derive(Clone, Copy, Debug)]
pub struct Paper;

impl Library<Writer> for Paper {
    fn workspace_bytes(&self) -> usize {
        0
    }
    fn product(&self, _: Types) -> Box<dyn Product<Writer>> {
        Box::new(*self)
    }
}

impl Product<Writer> for Paper {
    fn multiply(&self, _: Call<'_, Writer>, _: &Shape, _: bool) -> Result<bool> {
        none()
    }
}

/// A device of these limits that plans every operation and runs none: nothing is compiled. `own` puts a back end's own
/// planners before the portable ones.
pub fn planner(limits: Limits, own: impl FnOnce(&Arc<Chip<Writer>>, &mut Ops)) -> Accelerator {
    written(limits, own).0
}

/// As [`planner`], and what it writes down.
fn written(
    limits: Limits,
    own: impl FnOnce(&Arc<Chip<Writer>>, &mut Ops),
) -> (Accelerator, Arc<Mutex<BTreeMap<String, Program>>>) {
    let programs = Arc::new(Mutex::default());
    let writer = Writer {
        facts: Facts {
            spec: "writer".into(),
            name: "writer".into(),
            detail: String::new(),
            fingerprint: None,
            native_floats: vec![DType::F32],
            numerics: Numerics::exact(),
        },
        limits,
        programs: Arc::clone(&programs),
    };
    let accelerator = backend_simt::open_with_own(writer, Options::default(), own);
    (accelerator, programs)
}

/// The programs that all standard cases ask for, on a device with these limits; `own` puts a back end's own planners before
/// the portable ones.
pub fn programs(limits: Limits, own: impl FnOnce(&Arc<Chip<Writer>>, &mut Ops)) -> Vec<Program> {
    let (accelerator, programs) = written(limits, own);
    let context = Context::new(accelerator);
    fn plan<O: Conformance>(context: &Context) {
        for case in O::cases() {
            // What is declined composes, or is another test's business.
            let _ = context.plan(case.op);
        }
    }
    macro_rules! each {
        ($($name:ident $op:ident),*) => {$(plan::<ops::$op>(&context);)*};
    }
    for_each_op!(each);
    let programs = std::mem::take(&mut *lock(&programs));
    programs.into_values().collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
