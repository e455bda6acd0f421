//! `glm inspect`.

use std::io::{self, Write};

use glm::inspect::Inspection;
use hal::{Error, ErrorKind};
use serde_json::json;

use crate::args::{Global, Inspect};
use crate::failure::Failure;
use crate::{load, output};

pub(crate) fn run(global: &Global, args: &Inspect) -> Result<(), Failure> {
    let source = load::source(args.path.as_deref());
    if let Some(text) = &args.tokens {
        let tokenizer = source.tokenizer()?;
        let ids = tokenizer.encode(text)?;
        if global.json {
            return output::json(&json!({ "ids": ids }));
        }
        let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
        return Ok(writeln!(io::stdout(), "{}", ids.join(","))?);
    }
    if args.template {
        let form = source.chat_form(&source.tokenizer()?)?;
        return Ok(writeln!(io::stdout(), "{}", form.text())?);
    }
    let facts = glm::inspect::inspect(&source)?;
    if global.json {
        output::json(&facts)?;
    } else {
        print(&facts, args.tensors)?;
    }
    if facts.missing.is_empty() && facts.misshapen.is_empty() {
        return Ok(());
    }
    let lacking = facts.missing.len() + facts.misshapen.len();
    let error = Error::new(
        ErrorKind::NotFound,
        "run this model",
        format!("{lacking} tensors are missing or of another shape"),
    );
    Err(Failure::Error(
        error.next_step("copy the whole checkpoint, every shard of it"),
        1,
    ))
}

fn print(facts: &Inspection, tensors: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let a = &facts.architecture;
    let row = |out: &mut dyn Write, name: &str, value: String| writeln!(out, "{name:<14}{value}");
    row(
        &mut out,
        "architecture",
        format!("{}, {}, {}", a.model_type, a.norm, a.position),
    )?;
    row(
        &mut out,
        "shape",
        format!(
            "{} layers, hidden {}, {} heads ({} kv) of {}, ffn {}, vocabulary {}, context {}{}",
            a.layers,
            a.hidden,
            a.heads,
            a.kv_heads,
            a.head_dim,
            a.ffn,
            a.vocab,
            a.context,
            if a.tied { ", tied" } else { "" }
        ),
    )?;
    row(
        &mut out,
        "weights",
        format!(
            "{:.3} billion parameters, {} as {}, {} tensors",
            facts.parameters as f64 / 1e9,
            output::bytes(facts.stored_bytes),
            facts.weights,
            facts.tensors.len()
        ),
    )?;
    let sizes = [facts.sizes.f16, facts.sizes.int8, facts.sizes.int4].map(output::bytes);
    row(
        &mut out,
        "would take",
        format!("f16 {}, int8 {}, int4 {}", sizes[0], sizes[1], sizes[2]),
    )?;
    row(
        &mut out,
        "KV cache",
        format!(
            "{} per token in f16",
            output::bytes(facts.kv_bytes_per_token)
        ),
    )?;
    if let Some(tokenizer) = &facts.tokenizer {
        let specials: Vec<String> = tokenizer
            .specials
            .iter()
            .map(|(name, id)| format!("{name} {id}"))
            .collect();
        row(
            &mut out,
            "tokenizer",
            format!("{} ids; {}", tokenizer.vocab_size, specials.join(", ")),
        )?;
    }
    if let Some(template) = &facts.template {
        row(&mut out, "template", template.to_string())?;
    }
    if let Some(g) = &facts.generation {
        let sampling = match g.do_sample {
            true => format!(
                "temperature {}, top-p {}, top-k {}",
                g.temperature, g.top_p, g.top_k
            ),
            false => "greedy".into(),
        };
        row(
            &mut out,
            "generation",
            format!("{sampling}, stop ids {:?}", g.eos_ids),
        )?;
    }
    for (what, names) in [
        ("missing", &facts.missing),
        ("other shape", &facts.misshapen),
        ("not used", &facts.unexpected),
        ("problem", &facts.problems),
    ] {
        for name in names {
            row(&mut out, what, name.clone())?;
        }
    }
    if tensors {
        for tensor in &facts.tensors {
            let runs_as = match &tensor.runs_as {
                Some(format) => format!(", runs as {format}"),
                None => String::new(),
            };
            writeln!(
                out,
                "{:<8}{:<24}{}{runs_as}",
                tensor.dtype,
                format!("{:?}", tensor.shape),
                tensor.name
            )?;
        }
    }
    Ok(())
}
