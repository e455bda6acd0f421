//! Observers see every launch, in the order of nesting, and specifications survive JSON.

use std::sync::{Arc, Mutex};

use conformance::{Case, Conformance, for_each_op, reference_device};
use hal::{Buffer, DType, Error, ErrorKind, Result, Stream, View, WeightFormat};
use ops::{Call, Context, HostWeight, Observer, Spec};
use ops::{Matmul, MatmulArgs, RmsNorm, RmsNormArgs};

/// Writes down what it sees.
struct Scribe {
    name: &'static str,
    seen: Arc<Mutex<Vec<String>>>,
    refuses: bool,
}

impl Scribe {
    fn note(&self, what: String) {
        self.seen
            .lock()
            .unwrap()
            .push(format!("{} {what}", self.name));
    }
}

impl Observer for Scribe {
    fn named(&self, name: &str, _: &Buffer, weight: Option<&HostWeight<'_>>) -> Result<()> {
        let shape = weight.map(|w| [w.rows, w.cols]);
        self.note(format!("named {name} {shape:?}"));
        Ok(())
    }

    fn before(&self, call: &Call<'_>, _: &mut dyn Stream) -> Result<()> {
        self.note(format!("before {} at {}", call.op.name(), call.place));
        match self.refuses {
            true => Err(Error::invalid("watch", "it was told to")),
            false => Ok(()),
        }
    }

    fn after(&self, call: &Call<'_>, stream: &mut dyn Stream) -> Result<()> {
        // Outputs can be read: the last argument of a launch is no output here.
        let mut out = vec![0; call.args[0].bytes()];
        stream.download(&mut out, &call.args[0])?;
        self.note(format!(
            "after {} {}",
            call.op.name(),
            out != vec![0; out.len()]
        ));
        Ok(())
    }
}

/// A product and a norm after it, on a context with these observers.
fn run(observers: Vec<Scribe>) -> Result<()> {
    let mut context = Context::new(reference_device::open());
    for observer in observers {
        context = context.with_observer(Arc::new(observer));
    }
    let format = WeightFormat::Dense(DType::F32);
    let matmul = context.plan(Matmul::new(2, 2, DType::F32, format))?;
    let norm = context.plan(RmsNorm {
        dim: 2,
        dtype: DType::F32,
        eps: 1e-5,
    })?;
    let ones: Vec<u8> = [1.0f32; 4].iter().flat_map(|x| x.to_le_bytes()).collect();
    let weight = HostWeight::new(format, 2, 2, ones.clone(), vec![])?;
    let packed = matmul.pack(&weight)?;
    context.name("layers.7.dense", &packed, Some(&weight))?;
    let device = context.device();
    let mut stream = device.stream()?;
    let [x, y, scale] = [16, 16, 8].map(|bytes| device.alloc(bytes).unwrap());
    stream.upload(&View::of_bytes(&x), &ones)?;
    stream.upload(&View::of_bytes(&scale), &ones[..8])?;
    let nothing = device.alloc(0)?;
    let workspace = View::of_bytes(&nothing);
    let rows = |buffer| View::new(buffer, DType::F32, &[2, 2]);
    let args = MatmulArgs {
        out: rows(&y)?,
        x: rows(&x)?,
        weight: View::of_bytes(&packed),
        bias: None,
        residual: None,
    };
    matmul.run(&mut *stream, args, &workspace)?;
    let args = RmsNormArgs {
        out: rows(&x)?,
        x: rows(&y)?,
        weight: View::new(&scale, DType::F32, &[2])?,
    };
    norm.run(&mut *stream, args, &workspace)
}

#[test]
fn observers_nest_and_know_the_place() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let scribe = |name| Scribe {
        name,
        seen: seen.clone(),
        refuses: false,
    };
    run(vec![scribe("a"), scribe("b")]).unwrap();
    let expected = [
        "a named layers.7.dense Some([2, 2])",
        "b named layers.7.dense Some([2, 2])",
        "a before matmul at layers.7.dense",
        "b before matmul at layers.7.dense",
        "b after matmul true",
        "a after matmul true",
        "a before rms_norm at layers.7/rms_norm",
        "b before rms_norm at layers.7/rms_norm",
        "b after rms_norm true",
        "a after rms_norm true",
    ];
    assert_eq!(*seen.lock().unwrap(), expected);
}

#[test]
fn an_observer_can_end_the_step() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let observer = Scribe {
        name: "a",
        seen: seen.clone(),
        refuses: true,
    };
    let e = run(vec![observer]).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidArgument);
    assert_eq!(seen.lock().unwrap().len(), 2, "{seen:?}");
}

/// Every specification of the standard cases is the same after JSON, and `Spec` tells its name.
fn survives_json<O: Conformance>() {
    for Case { op, .. } in O::cases() {
        let json = Spec::json(&op).to_string();
        let again: O = serde_json::from_str(&json).unwrap_or_else(|e| panic!("{json}: {e}"));
        assert_eq!(again, op, "{json}");
        assert_eq!(Spec::name(&op), O::NAME);
    }
}

macro_rules! all_survive_json {
    ($($name:ident $op:ident),*) => {
        #[test]
        fn specifications_survive_json() {
            $(survives_json::<ops::$op>();)*
        }
    };
}
for_each_op!(all_survive_json);
