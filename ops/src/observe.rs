//! Watching a model run: an [`Observer`] sees every launch of a context's plans.
//!
//! A trace, a timeline or a check wraps the launch, once for all operations and devices: neither kernels nor models know
//! of it. A composed operation is one launch; its parts are not seen.

use std::fmt::{self, Debug};
use std::sync::{Arc, Mutex, PoisonError};

use hal::{Buffer, Result, Stream, View};

use crate::{HostWeight, How, Launch, Op, Signature};

/// A specification whose type is not known.
pub trait Spec: Debug + Send + Sync {
    /// [`Op::NAME`].
    fn name(&self) -> &'static str;

    /// [`Op::signature`].
    fn signature(&self) -> Signature;

    /// The specification as a JSON object, from which the operation's type can be read again.
    fn json(&self) -> serde_json::Value;
}

impl<O: Op> Spec for O {
    fn name(&self) -> &'static str {
        O::NAME
    }

    fn signature(&self) -> Signature {
        Op::signature(self)
    }

    fn json(&self) -> serde_json::Value {
        // Fails for maps whose keys are no strings: specifications have none.
        serde_json::to_value(self).unwrap_or_default()
    }
}

/// One launch, as observers see it.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Where in the model: the name of what one of the arguments holds (`layers.3.mlp.dense_h_to_4h`); for other launches
    /// the numbered block of the last such name, and the operation (`layers.3/attention`).
    pub place: &'a str,
    /// What is computed.
    pub op: &'a dyn Spec,
    /// How it is carried out.
    pub how: How,
    /// The arguments in the signature's order.
    pub args: &'a [View<'a>],
}

/// Sees launches. Called in the order in which they are queued, by one thread per stream.
pub trait Observer: Send + Sync {
    /// What a buffer holds, and of a packed weight its values.
    ///
    /// # Errors
    /// They end the loading of the model.
    fn named(&self, _name: &str, _buffer: &Buffer, _weight: Option<&HostWeight<'_>>) -> Result<()> {
        Ok(())
    }

    /// Before the work is queued. Inputs may be read from `stream`.
    ///
    /// # Errors
    /// They end the step.
    fn before(&self, _call: &Call<'_>, _stream: &mut dyn Stream) -> Result<()> {
        Ok(())
    }

    /// After the work was queued. Outputs may be read from `stream`.
    ///
    /// # Errors
    /// They end the step.
    fn after(&self, call: &Call<'_>, stream: &mut dyn Stream) -> Result<()>;
}

/// The observers of a context, and the names of buffers.
pub(crate) struct Watch {
    observers: Vec<Arc<dyn Observer>>,
    names: Mutex<Names>,
}

#[derive(Clone, Default)]
struct Names {
    /// Handles, so that no other buffer takes the place of a named one.
    buffers: Vec<(Buffer, Arc<str>)>,
    /// Of the last launch with a named argument.
    last: Option<Arc<str>>,
}

impl Watch {
    /// The observers of `before`, and `observer`.
    pub(crate) fn new(before: Option<&Watch>, observer: Arc<dyn Observer>) -> Self {
        let mut observers = before.map_or_else(Vec::new, |watch| watch.observers.clone());
        observers.push(observer);
        let names = before.map_or_else(Names::default, |watch| watch.lock(|n| n.clone()));
        Self {
            observers,
            names: Mutex::new(names),
        }
    }

    fn lock<T>(&self, f: impl FnOnce(&mut Names) -> T) -> T {
        f(&mut self.names.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn name(
        &self,
        name: &str,
        buffer: &Buffer,
        weight: Option<&HostWeight<'_>>,
    ) -> Result<()> {
        self.lock(|names| names.buffers.push((buffer.clone(), name.into())));
        let mut observers = self.observers.iter();
        observers.try_for_each(|observer| observer.named(name, buffer, weight))
    }

    pub(crate) fn wrap<O: Op>(
        self: &Arc<Self>,
        op: O,
        how: How,
        launch: Arc<dyn Launch>,
    ) -> Arc<dyn Launch> {
        Arc::new(Observed {
            op,
            how,
            launch,
            watch: self.clone(),
        })
    }

    fn place(&self, op: &'static str, args: &[View<'_>]) -> Arc<str> {
        self.lock(|names| {
            let holds = |(buffer, _): &&(Buffer, Arc<str>)| {
                args.iter().any(|arg| arg.buffer().same(buffer))
            };
            if let Some((_, name)) = names.buffers.iter().find(holds) {
                names.last = Some(name.clone());
                return name.clone();
            }
            match &names.last {
                Some(last) => format!("{}/{op}", block(last)).into(),
                None => op.into(),
            }
        })
    }
}

/// `transformer.layers.3` of `transformer.layers.3.mlp.down`; all of a name without a number.
fn block(name: &str) -> &str {
    let mut end = 0;
    for part in name.split('.') {
        end += part.len();
        if !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) {
            return &name[..end];
        }
        end += 1;
    }
    name
}

impl Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} observers", self.observers.len())
    }
}

/// A launch that is seen.
struct Observed<O> {
    op: O,
    how: How,
    launch: Arc<dyn Launch>,
    watch: Arc<Watch>,
}

impl<O: Op> Launch for Observed<O> {
    fn workspace_bytes(&self, shapes: &[&[usize]]) -> usize {
        self.launch.workspace_bytes(shapes)
    }

    unsafe fn launch(
        &self,
        stream: &mut dyn Stream,
        args: &[View<'_>],
        workspace: &View<'_>,
    ) -> Result<()> {
        let call = Call {
            place: &self.watch.place(O::NAME, args),
            op: &self.op,
            how: self.how,
            args,
        };
        for observer in &self.watch.observers {
            observer.before(&call, stream)?;
        }
        // SAFETY: the arguments are those that this launch was given.
        unsafe { self.launch.launch(stream, args, workspace)? };
        for observer in self.watch.observers.iter().rev() {
            observer.after(&call, stream)?;
        }
        Ok(())
    }

    fn pack(&self, weight: &HostWeight<'_>) -> Result<Buffer> {
        self.launch.pack(weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_end_with_their_number() {
        for (name, expected) in [
            ("transformer.layers.3.mlp.down", "transformer.layers.3"),
            ("model.layers.12", "model.layers.12"),
            ("model.norm", "model.norm"),
            ("h2.4h", "h2.4h"),
            ("", ""),
        ] {
            assert_eq!(block(name), expected);
        }
    }
}
