//! The machine: system, processors, memory and its pages.

use std::path::Path;
use std::thread::available_parallelism;

use glm::backends;

use super::Finding;
use crate::args::Global;
use crate::output;

const AREA: &str = "machine";
/// Less free memory than this is worth a warning.
const LITTLE_BYTES: usize = 1 << 30;
const PAGES: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

pub(super) fn check(global: &Global) -> Vec<Finding> {
    let mut found = vec![Finding::new("GLM-D001", AREA, [("system", system())])];
    found.push(threads(global));
    found.extend(memory());
    found.extend(huge_pages());
    found
}

/// `Linux 5.10.0 x86_64`.
fn system() -> String {
    let read = |file: &str| {
        let text = std::fs::read_to_string(Path::new("/proc/sys/kernel").join(file)).ok()?;
        Some(text.trim().to_owned())
    };
    let name = read("ostype").unwrap_or_else(|| std::env::consts::OS.into());
    let release = read("osrelease").unwrap_or_default();
    [&name, &release, std::env::consts::ARCH]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

fn threads(global: &Global) -> Finding {
    let cpus = available_parallelism().map_or(1, usize::from);
    let quota = backends::allowed().and_then(|allowed| allowed.cpus);
    let threads = global.threads().unwrap_or(cpus);
    let code = match threads > cpus {
        true => "GLM-D006",
        false => "GLM-D005",
    };
    let values = [
        ("threads", threads.to_string()),
        ("cpus", cpus.to_string()),
        ("quota", quota.map_or("-".into(), |quota| quota.to_string())),
    ];
    Finding::new(code, AREA, values)
}

fn memory() -> Vec<Finding> {
    let mut found = Vec::new();
    let Some(memory) = backends::host_memory() else {
        return found;
    };
    let text = |n: usize| output::bytes(n as u64);
    let code = match memory.free_bytes < LITTLE_BYTES {
        true => "GLM-D009",
        false => "GLM-D007",
    };
    let values = [
        ("free", text(memory.free_bytes)),
        ("total", text(memory.total_bytes)),
    ];
    found.push(Finding::new(code, AREA, values));
    if let Some(allowed) = backends::allowed()
        && let Some((limit, used)) = allowed.memory_limit_and_used_bytes
        && let Some(total) = meminfo("MemTotal:").filter(|total| limit < *total)
    {
        let values = [
            ("version", allowed.version.to_string()),
            ("limit", text(limit)),
            ("used", text(used)),
            ("total", text(total)),
        ];
        found.push(Finding::new("GLM-D008", AREA, values));
    }
    found
}

fn huge_pages() -> Vec<Finding> {
    let mut found = Vec::new();
    // The choice stands in brackets: always [madvise] never.
    if let Ok(modes) = std::fs::read_to_string(PAGES)
        && let Some((_, rest)) = modes.split_once('[')
        && let Some((mode, _)) = rest.split_once(']')
    {
        found.push(match mode {
            "always" => Finding::new("GLM-D010", AREA, []),
            _ => Finding::new("GLM-D011", AREA, [("mode", mode.to_owned())]),
        });
    }
    let pages = |field| meminfo(field).map(|pages| pages >> 10);
    if let (Some(all @ 1..), Some(free), Some(size)) = (
        pages("HugePages_Total:"),
        pages("HugePages_Free:"),
        meminfo("Hugepagesize:"),
    ) {
        let bytes = |pages: usize| output::bytes((pages * size) as u64);
        let values = [("bytes", bytes(all)), ("free", bytes(free))];
        found.push(Finding::new("GLM-D012", AREA, values));
    }
    found
}

/// A field of `/proc/meminfo`, taken as KiB.
fn meminfo(field: &str) -> Option<usize> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    let number: usize = line.split_whitespace().next()?.parse().ok()?;
    number.checked_mul(1024)
}
