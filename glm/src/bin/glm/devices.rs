//! `glm devices`.

use std::io::Write;

use glm::backends;
use serde_json::{Value, json};

use crate::args::Global;
use crate::failure::Failure;
use crate::{load, output};

pub(crate) fn run(global: &Global) -> Result<(), Failure> {
    let devices = backends::list(&load::device_options(global));
    let ok = devices.iter().any(|(_, device)| device.is_ok());
    if global.json {
        let devices: Vec<Value> = devices
            .iter()
            .map(|(spec, device)| describe(spec, device))
            .collect();
        output::json(&json!({ "schema": "glm/devices/1", "devices": devices }))?;
    } else {
        let mut out = std::io::stdout().lock();
        writeln!(
            out,
            "{:<14} {:<32} {:<20} STATUS",
            "ID", "NAME", "MEM FREE/TOTAL"
        )?;
        for (spec, device) in &devices {
            let device = describe(spec, device);
            let memory = match (
                device["memory_free_bytes"].as_u64(),
                device["memory_total_bytes"].as_u64(),
            ) {
                (Some(free), Some(total)) => {
                    format!("{}/{}", output::bytes(free), output::bytes(total))
                }
                _ => "-".into(),
            };
            let text = |key: &str| device[key].as_str().unwrap_or("-").to_string();
            let detail = match device["parallelism"].as_u64() {
                Some(n) => format!("{} ({}, {n} threads)", text("status"), text("detail")),
                None => text("status"),
            };
            writeln!(out, "{spec:<14} {:<32} {memory:<20} {detail}", text("name"))?;
        }
    }
    if ok {
        return Ok(());
    }
    Err(Failure::device(
        hal::Error::new(
            hal::ErrorKind::NotFound,
            "find a device",
            "none could be opened",
        )
        .next_step("build with a back end, for example `--features cpu`"),
    ))
}

fn describe(spec: &str, device: &hal::Result<ops::Accelerator>) -> Value {
    match device {
        Ok(accelerator) => {
            let info = accelerator.device.info();
            let memory = accelerator.device.memory();
            json!({
                "id": spec,
                "name": info.name,
                "detail": info.detail,
                "parallelism": info.parallelism,
                "native_floats": info.native_floats.iter().map(|d| d.name()).collect::<Vec<_>>(),
                "memory_free_bytes": memory.map(|m| m.free_bytes),
                "memory_total_bytes": memory.map(|m| m.total_bytes),
                "operations": accelerator.ops.names().filter(|(_, has)| *has).map(|(n, _)| n).collect::<Vec<_>>(),
                "status": "ok",
            })
        }
        Err(e) => json!({ "id": spec, "status": format!("unavailable: {}", e.detail()) }),
    }
}
