//! Decoding steps, recorded once and launched again as one: the host is not what a small step waits for.

use hal::{ErrorKind, Graph, Result, Stream};

use super::inputs::Step;

/// Recordings that are kept: batches shrink and grow, and come back.
const KEPT: usize = 8;

/// Recordings of steps, and whether there can be any.
#[derive(Debug)]
pub(super) struct Replays {
    possible: bool,
    /// The last step that was not recorded. A step that does not come again is not worth it, and what runs for the first time may
    /// do what a stream cannot record.
    last: Option<Step>,
    /// The one that was used last at the end.
    recorded: Vec<(Step, Graph)>,
}

impl Replays {
    /// `possible`: whether launches need be seen by nobody.
    pub(super) fn new(possible: bool) -> Self {
        Self {
            possible,
            last: None,
            recorded: Vec::new(),
        }
    }

    /// Whether steps of one token per sequence may be recorded here.
    pub(super) fn possible(&self) -> bool {
        self.possible
    }

    /// The recording of `step`.
    pub(super) fn find(&mut self, step: &Step) -> Option<&Graph> {
        let at = self.recorded.iter().position(|(of, _)| of == step)?;
        let found = self.recorded.remove(at);
        self.recorded.push(found);
        self.recorded.last().map(|(_, graph)| graph)
    }

    /// Whether `step` should be recorded now, because it was the last one too.
    pub(super) fn is_due(&mut self, step: &Step) -> bool {
        let again = self.last.as_ref() == Some(step);
        self.last = Some(step.clone());
        again
    }

    /// Records what `launch` gives the stream. `None`, once and for all, where something cannot be recorded; nothing was carried
    /// out then.
    ///
    /// # Errors
    /// As `launch`, but `Unsupported`.
    pub(super) fn record(
        stream: &mut dyn Stream,
        launch: impl FnOnce(&mut dyn Stream) -> Result<()>,
    ) -> Result<Option<Graph>> {
        let recorded = match stream.begin_capture() {
            Ok(()) => {
                let launched = launch(stream);
                let graph = stream.end_capture();
                launched.and(graph)
            }
            Err(e) => Err(e),
        };
        match recorded {
            Ok(graph) => Ok(Some(graph)),
            Err(e) if e.kind() == ErrorKind::Unsupported => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Keeps what [`Self::record`] gave.
    pub(super) fn keep(&mut self, step: &Step, graph: Option<Graph>) {
        match graph {
            Some(graph) => {
                if self.recorded.len() == KEPT {
                    self.recorded.remove(0);
                }
                self.recorded.push((step.clone(), graph));
            }
            None => self.possible = false,
        }
    }
}
