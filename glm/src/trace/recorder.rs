//! Records the launches of a model.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hal::{Buffer, DType, DeviceInfo, Result, Stream, View};
use ops::{HostWeight, Observer};

use super::{Argument, Call, Kept, Role, Run, SCHEMA, Stats, Stored, Tensors, Trace, key};

/// Records every launch of a context that it observes. Each launch waits for the device: what is traced is slow.
#[derive(Debug)]
pub struct Recorder {
    places: Vec<String>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    calls: Vec<Call>,
    tensors: BTreeMap<String, Stored>,
    /// Buffers of parameters, with the values of packed ones that are to be kept.
    parameters: Vec<(Buffer, Option<HostWeight<'static>>)>,
    /// Of the launch between `before` and `after`.
    begun: Option<Call>,
}

impl Recorder {
    /// Keeps whole tensors for launches whose place has one of `places` in it, as whole parts between dots and slashes:
    /// `layers.17`, `attention`; `all` is everywhere.
    pub fn new(places: &[String]) -> Self {
        Self {
            places: places.to_vec(),
            state: Mutex::default(),
        }
    }

    /// Forgets the launches so far: those of loading a model.
    pub fn begin(&self) {
        let mut state = self.state();
        state.calls.clear();
        state.tensors.clear();
    }

    /// What was recorded, and forgets it.
    pub fn finish(&self, device: &DeviceInfo, model: &str, ids: Vec<u32>) -> Trace {
        let state = std::mem::take(&mut *self.state());
        Trace {
            run: Run {
                schema: SCHEMA.into(),
                version: env!("CARGO_PKG_VERSION").into(),
                model: model.into(),
                device: device.spec.clone(),
                device_name: device.name.clone(),
                ids,
            },
            calls: state.calls,
            tensors: Tensors::Memory(state.tensors),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keeps(&self, place: &str) -> bool {
        let dotted = |s: &str| format!(".{}.", s.replace('/', "."));
        let place = dotted(place);
        let mut places = self.places.iter();
        places.any(|wanted| wanted == "all" || place.contains(&dotted(wanted)))
    }
}

impl State {
    fn parameter(&self, view: &View<'_>) -> Option<&(Buffer, Option<HostWeight<'static>>)> {
        let mut parameters = self.parameters.iter();
        parameters.find(|(buffer, _)| view.buffer().same(buffer))
    }

    fn keep(&mut self, name: &str, kept: Kept, dtype: DType, shape: &[usize], bytes: Vec<u8>) {
        let stored = Stored {
            dtype,
            shape: shape.to_vec(),
            bytes,
        };
        self.tensors
            .insert(key(self.calls.len(), name, kept), stored);
    }

    /// The step of a launch: a new one begins where the first launch comes again.
    fn step(&self, call: &ops::Call<'_>) -> usize {
        let Some(last) = self.calls.last() else {
            return 0;
        };
        let first = &self.calls[0];
        let again = first.place == call.place && first.op == call.op.name();
        last.step + usize::from(again)
    }
}

impl Observer for Recorder {
    fn named(&self, name: &str, buffer: &Buffer, weight: Option<&HostWeight<'_>>) -> Result<()> {
        let kept = weight.filter(|_| self.keeps(name));
        let kept = kept.map(|w| {
            let (data, scales) = (w.data.to_vec(), w.scales.to_vec());
            HostWeight::new(w.format, w.rows, w.cols, data, scales)
        });
        let kept = kept.transpose()?;
        self.state().parameters.push((buffer.clone(), kept));
        Ok(())
    }

    fn before(&self, call: &ops::Call<'_>, stream: &mut dyn Stream) -> Result<()> {
        let mut state = self.state();
        let keep = self.keeps(call.place);
        let mut args = Vec::with_capacity(call.args.len());
        for (i, (arg, view)) in call.op.signature().iter().zip(call.args).enumerate() {
            let parameter = state.parameter(view);
            let mut argument = Argument {
                name: arg.name.into(),
                role: match arg.role {
                    ops::Role::Out => Role::Out,
                    ops::Role::InOut => Role::InOut,
                    _ if parameter.is_some() => Role::Weight,
                    ops::Role::In => Role::In,
                    ops::Role::Weight(_) => Role::Weight,
                },
                dtype: arg.dtype,
                shape: view.shape().to_vec(),
                format: None,
                same_as: call.args[..i].iter().position(|other| other.same(view)),
                before: None,
                after: None,
            };
            match arg.role {
                ops::Role::Out => {}
                ops::Role::Weight(format) => {
                    argument.format = Some(format);
                    let values = parameter.and_then(|(_, weight)| weight.clone());
                    if let Some(weight) = values.filter(|_| keep) {
                        argument.shape = vec![weight.rows, weight.cols];
                        let (data, scales) = (weight.data.into_owned(), weight.scales.into_owned());
                        let shape = |bytes: &Vec<u8>| [bytes.len()];
                        state.keep(arg.name, Kept::Data, DType::U8, &shape(&data), data);
                        state.keep(arg.name, Kept::Scales, DType::U8, &shape(&scales), scales);
                    }
                }
                _ if argument.role == Role::Weight && !keep => {}
                _ => {
                    let bytes = read(stream, view)?;
                    if argument.role != Role::Weight {
                        argument.before = Some(Stats::of(arg.dtype, &bytes));
                    }
                    if keep {
                        state.keep(arg.name, Kept::Before, arg.dtype, view.shape(), bytes);
                    }
                }
            }
            args.push(argument);
        }
        state.begun = Some(Call {
            step: state.step(call),
            place: call.place.into(),
            op: call.op.name().into(),
            spec: call.op.json(),
            how: call.how,
            args,
        });
        Ok(())
    }

    fn after(&self, call: &ops::Call<'_>, stream: &mut dyn Stream) -> Result<()> {
        let mut state = self.state();
        let keep = self.keeps(call.place);
        let Some(mut begun) = state.begun.take() else {
            return Ok(());
        };
        for (argument, view) in begun.args.iter_mut().zip(call.args) {
            if !argument.role.is_written() {
                continue;
            }
            let bytes = read(stream, view)?;
            argument.after = Some(Stats::of(argument.dtype, &bytes));
            if keep {
                state.keep(
                    &argument.name,
                    Kept::After,
                    argument.dtype,
                    view.shape(),
                    bytes,
                );
            }
        }
        state.calls.push(begun);
        Ok(())
    }
}

/// The elements of a view, row-major.
fn read(stream: &mut dyn Stream, view: &View<'_>) -> Result<Vec<u8>> {
    let span = view.span();
    let mut bytes = vec![0; span.bytes()];
    stream.download(&mut bytes, &span)?;
    if view.is_contiguous() {
        return Ok(bytes);
    }
    let size = view.dtype().bytes();
    let mut offsets = vec![0];
    for (&n, &stride) in view.shape().iter().zip(view.strides()) {
        let along = |at: &usize| {
            let at = *at;
            (0..n).map(move |i| at + i * stride)
        };
        offsets = offsets.iter().flat_map(along).collect();
    }
    let elements = offsets
        .into_iter()
        .map(|at| &bytes[at * size..(at + 1) * size]);
    Ok(elements.collect::<Vec<_>>().concat())
}
