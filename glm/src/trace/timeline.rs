//! When each launch ran, as a Chrome trace: <https://ui.perfetto.dev> and `chrome://tracing` draw it.
//!
//! Format: "Trace Event Format" (Google), complete events (`X`) in microseconds. Two rows, each with its own clock, both
//! from the first launch: the host that queued the work, and the device that did it, by its own events.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hal::{DeviceInfo, Event, Result, Stream};
use ops::{How, Observer};
use serde::Serialize;
use serde::ser::SerializeSeq;

use crate::files::io_error;

/// Notes when each launch of a context was queued and when it ran.
#[derive(Debug, Default)]
pub struct Timeline(Mutex<Vec<Span>>);

#[derive(Debug)]
struct Span {
    place: String,
    op: &'static str,
    how: How,
    shapes: String,
    queued: [Instant; 2],
    ran: [Option<Event>; 2],
}

#[derive(Serialize)]
struct Complete<'a> {
    name: &'a str,
    cat: &'a str,
    ph: char,
    ts: f64,
    dur: f64,
    pid: u32,
    tid: u32,
    args: Details<'a>,
}

#[derive(Serialize)]
struct Details<'a> {
    how: How,
    shapes: &'a str,
}

impl Timeline {
    /// Launches so far.
    pub fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether nothing was launched.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits for the device and writes the file.
    ///
    /// # Errors
    /// `Io`; `DeviceLost`.
    pub fn write(&self, path: &Path, device: &DeviceInfo) -> Result<()> {
        let spans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let doing = format!("write the timeline {}", path.display());
        let mut events = Vec::with_capacity(2 * spans.len());
        let first = spans.first();
        if let Some([_, Some(end)]) = spans.last().map(|span| &span.ran) {
            end.synchronize()?;
        }
        for span in spans.iter() {
            let event = |tid, ts: Duration, dur: Duration| Complete {
                name: &span.place,
                cat: span.op,
                ph: 'X',
                ts: ts.as_secs_f64() * 1e6,
                dur: dur.as_secs_f64() * 1e6,
                pid: 1,
                tid,
                args: Details {
                    how: span.how,
                    shapes: &span.shapes,
                },
            };
            let [start, end] = span.queued;
            let since = first.map_or(Duration::ZERO, |first| start - first.queued[0]);
            events.push(event(1, since, end - start));
            if let (Some(first), [Some(start), Some(end)]) = (first, &span.ran)
                && let Some(zero) = &first.ran[0]
            {
                events.push(event(2, start.since(zero)?, end.since(start)?));
            }
        }
        let file = File::create(path).map_err(|e| io_error(&doing, e))?;
        write(BufWriter::new(file), &events, device).map_err(|e| io_error(&doing, e.into()))
    }
}

fn write(
    out: impl std::io::Write,
    events: &[Complete<'_>],
    device: &DeviceInfo,
) -> serde_json::Result<()> {
    use serde::Serializer;
    let row = |tid: u32, name: &str| {
        serde_json::json!({
            "name": "thread_name", "ph": "M", "pid": 1, "tid": tid, "args": { "name": name }
        })
    };
    let mut serializer = serde_json::Serializer::new(out);
    let mut list = serializer.serialize_seq(Some(events.len() + 2))?;
    list.serialize_element(&row(1, "host"))?;
    list.serialize_element(&row(2, &format!("{} {}", device.spec, device.name)))?;
    for event in events {
        list.serialize_element(event)?;
    }
    list.end()
}

impl Observer for Timeline {
    fn before(&self, call: &ops::Call<'_>, stream: &mut dyn Stream) -> Result<()> {
        let shapes: Vec<String> = call.args.iter().map(|arg| format!("{arg:?}")).collect();
        let start = Some(stream.record()?);
        let now = Instant::now();
        let mut spans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        spans.push(Span {
            place: call.place.into(),
            op: call.op.name(),
            how: call.how,
            shapes: shapes.join(", "),
            queued: [now, now],
            ran: [start, None],
        });
        Ok(())
    }

    fn after(&self, _: &ops::Call<'_>, stream: &mut dyn Stream) -> Result<()> {
        let now = Instant::now();
        let end = stream.record()?;
        let mut spans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(span) = spans.last_mut() {
            span.queued[1] = now;
            span.ran[1] = Some(end);
        }
        Ok(())
    }
}
