//! `glm convert`, `glm quantize`.

use hal::{Error, WeightFormat};

use crate::args::{Convert, Global};
use crate::failure::Failure;
use crate::output;

pub(crate) fn run(global: &Global, args: &Convert) -> Result<(), Failure> {
    write(global, args, global.dtype.map(|dtype| dtype.weights()))
}

/// As [`run`], where a quantised format must be named.
pub(crate) fn quantize(global: &Global, args: &Convert) -> Result<(), Failure> {
    match global.dtype.map(|precision| precision.weights()) {
        Some(format) if !matches!(format, WeightFormat::Dense(_)) => {
            write(global, args, Some(format))
        }
        _ => Err(
            Error::invalid("quantise a checkpoint", "no quantised format was named")
                .next_step("give --dtype int8, int8-g32, int4, int4-g32, int4-g64 or int4-g128")
                .into(),
        ),
    }
}

fn write(global: &Global, args: &Convert, format: Option<WeightFormat>) -> Result<(), Failure> {
    let done = glm::convert::convert(&args.source, &args.destination, format)?;
    if global.json {
        return output::json(&done);
    }
    if !global.quiet {
        let matrices = match format {
            Some(format) => format!("{} matrices to {format}, ", done.matrices),
            None => String::new(),
        };
        eprintln!(
            "{matrices}{} tensors copied: {} to {}",
            done.copied,
            output::bytes(done.source_bytes),
            output::bytes(done.bytes)
        );
        if !done.tokenizer {
            eprintln!("no tokenizer was written; copy the publisher's to chat");
        }
    }
    Ok(())
}
