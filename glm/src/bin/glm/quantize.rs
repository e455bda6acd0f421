//! `glm quantize`.

use hal::{Error, WeightFormat};

use crate::args::{Global, Quantize};
use crate::failure::Failure;
use crate::output;

pub(crate) fn run(global: &Global, args: &Quantize) -> Result<(), Failure> {
    let format = match global.dtype.map(|precision| precision.weights()) {
        Some(format) if !matches!(format, WeightFormat::Dense(_)) => format,
        _ => {
            return Err(
                Error::invalid("quantise a checkpoint", "no quantised format was named")
                    .next_step("give --dtype int8, int4, int4-g32, int4-g64 or int4-g128")
                    .into(),
            );
        }
    };
    let done = glm::quantize::quantize(&args.source, &args.destination, format)?;
    if global.json {
        return output::json(&done);
    }
    if !global.quiet {
        eprintln!(
            "{} matrices to {format}, {} tensors copied: {} to {}",
            done.matrices,
            done.copied,
            output::bytes(done.source_bytes),
            output::bytes(done.bytes)
        );
    }
    Ok(())
}
