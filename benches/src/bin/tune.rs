//! Tunes one product on OpenCL: `tune DEVICE N K X WEIGHT [SECONDS]`, for example `tune opencl:0 4096 4096 f16 int4`.
//!
//! `glm tune` does the same for every product of a model.

use std::time::Duration;

use backend_opencl::{Options, Tuning};
use hal::{Error, Result, WeightFormat};
use ops::Matmul;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [spec, n, k, x, weight, rest @ ..] = &words[..] else {
        return Err(Error::invalid("tune", "DEVICE N K X WEIGHT are needed"));
    };
    let number = |text: &String| {
        let number = text.parse::<usize>();
        number.map_err(|e| Error::invalid("tune", format!("'{text}': {e}")))
    };
    let WeightFormat::Dense(x) = x.parse()? else {
        return Err(Error::invalid("tune", format!("'{x}' is no float type")));
    };
    let op = Matmul::new(number(n)?, number(k)?, x, weight.parse()?);
    let mut tuning = Tuning::default();
    if let Some(seconds) = rest.first() {
        tuning.time = Duration::from_secs(number(seconds)? as u64);
    }
    for tuned in backend_opencl::tune(spec, Options::default(), &[op], &tuning)? {
        println!(
            "{}\nrule:   {}\nchosen: {}",
            tuned.class, tuned.rule, tuned.chosen
        );
        println!("| rows | rule | chosen | gain |\n|---|---|---|---|");
        for time in &tuned.times {
            let (rows, [rule, chosen]) = (time.rows, [time.rule, time.chosen].map(|s| 1e3 * s));
            println!(
                "| {rows} | {rule:.3} ms | {chosen:.3} ms | {:.2} |",
                rule / chosen
            );
        }
        println!("refused {:?}, {} left out", tuned.refused, tuned.left_out);
    }
    Ok(())
}
