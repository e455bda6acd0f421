//! The document of a run: what was asked, where it ran, every result, and a digest over all of it.
//!
//! - `report.json` is the document (schema: `conformance/report.schema.json`); HTML, JUnit and Markdown are views of it.
//! - The digest is SHA-256 over the document without its digest and signature, as JSON with sorted keys and no spaces.
//! - A signature (Ed25519, of the digest) tells who vouches for it. It holds the public key: whoever reads the report
//!   must know whose that is.

mod html;
mod junit;
mod markdown;

use std::collections::BTreeMap;
use std::path::Path;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use hal::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::waivers::Applied;
use crate::{Asked, Level, Levels, Metrics, Outcome, Record, Rng, Status};

/// Names and versions the document's format.
pub const SCHEMA: &str = "glm/conformance/1";

/// Variables that change what a device is or does; reported when set.
const VARIABLES: [&str; 17] = [
    "CUDA_VISIBLE_DEVICES",
    "CUDA_LAUNCH_BLOCKING",
    "ROCR_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "GPU_DEVICE_ORDINAL",
    "HSA_OVERRIDE_GFX_VERSION",
    "AMD_SERIALIZE_KERNEL",
    "ASCEND_RT_VISIBLE_DEVICES",
    "ASCEND_LAUNCH_BLOCKING",
    "ASCEND_GLOBAL_LOG_LEVEL",
    "MTHREADS_VISIBLE_DEVICES",
    "OCL_ICD_VENDORS",
    "WGPU_BACKEND",
    "WGPU_ADAPTER_NAME",
    "RAYON_NUM_THREADS",
    "GLM_DEVICE",
    "GLM_THREADS",
];

/// This moment, UTC: `2026-11-25T12:00:00Z`.
pub fn now() -> String {
    jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string()
}

/// The suite that ran.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tool {
    /// Version of the suite.
    pub version: String,
    /// Revision that it was built from: `GLM_GIT` when it was compiled, such as `git describe --tags`; else `unknown`.
    pub git: String,
}

/// Where it ran. Holds no host name and no path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// Operating system and its version.
    pub os: String,
    /// Instruction set.
    pub arch: String,
    /// The host's processor.
    pub cpu: String,
    /// SHA-256 of the program; `unknown` when it could not be read.
    pub binary_sha256: String,
    /// Variables that change what a device is or does, when set.
    pub variables: BTreeMap<String, String>,
}

impl Environment {
    /// That of this process.
    pub fn here() -> Self {
        let field = |file: &str, name: &str| {
            let text = std::fs::read_to_string(file).ok()?;
            let line = text.lines().find(|line| line.starts_with(name))?;
            let value = line.split_once(['=', ':'])?.1;
            Some(value.trim().trim_matches('"').to_owned())
        };
        let binary = std::env::current_exe().and_then(std::fs::read);
        let set = |name: &&str| Some(((*name).to_owned(), std::env::var(name).ok()?));
        Self {
            os: field("/etc/os-release", "PRETTY_NAME")
                .unwrap_or_else(|| std::env::consts::OS.into()),
            arch: std::env::consts::ARCH.into(),
            cpu: field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".into()),
            binary_sha256: binary.map_or_else(|_| "unknown".into(), |bytes| sha256(&bytes)),
            variables: VARIABLES.iter().filter_map(set).collect(),
        }
    }
}

/// How the run went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// When it started, UTC.
    pub started: String,
    /// How long it took.
    pub seconds: f64,
    /// Workers at once.
    pub jobs: usize,
    /// The longest that a check could take.
    pub timeout_seconds: f64,
    /// Whether it ended before everything was tried.
    pub partial: bool,
}

/// The result of results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Everything that the device claims is right.
    Passed,
    /// Something is wrong.
    Failed,
    /// The only failures are time-outs.
    TimedOut,
    /// Nothing was tried: all is unsupported, or nothing was chosen. This must not look like a pass.
    NothingTested,
    /// The run ended early, and nothing failed until then.
    Partial,
}

impl Verdict {
    /// In words.
    pub fn title(self) -> &'static str {
        match self {
            Verdict::Passed => "passed",
            Verdict::Failed => "failed",
            Verdict::TimedOut => "timed out",
            Verdict::NothingTested => "nothing tested",
            Verdict::Partial => "ended early",
        }
    }
}

/// Counts over all results.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The result of results.
    pub verdict: Verdict,
    /// Whether it may stand for the device: a complete standard or full run of levels 0 to 6 that passed.
    pub certifies: bool,
    /// How many checks ended how.
    pub statuses: BTreeMap<String, usize>,
    /// Operations of levels 1 to 4 that were chosen and have no passing case: what a GLM lacks on this device.
    pub missing: Vec<String>,
}

/// A secret Ed25519 key.
pub struct Key(SigningKey);

impl Key {
    /// The key that a file holds: 32 bytes in hexadecimal.
    ///
    /// # Errors
    /// `Corrupt` when it holds something else.
    pub fn parse(text: &str) -> Result<Self> {
        match unhex(text.trim()) {
            Some(secret) => Ok(Self(SigningKey::from_bytes(&secret))),
            None => Err(
                Error::corrupt("read the key", "it is not 64 hexadecimal digits")
                    .next_step("make one: openssl rand -hex 32 > key"),
            ),
        }
    }
}

/// A signature of the digest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Signed {
    /// Always `ed25519`.
    pub algorithm: String,
    /// The public key, in hexadecimal.
    pub key: String,
    /// The signature, in hexadecimal.
    pub value: String,
}

/// The document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// [`SCHEMA`].
    pub schema: String,
    /// The suite.
    pub tool: Tool,
    /// The host.
    pub environment: Environment,
    /// What was asked for, of which device.
    pub asked: Asked,
    /// How the run went.
    pub timing: Timing,
    /// Known failures.
    pub waivers: Vec<Applied>,
    /// Counts.
    pub summary: Summary,
    /// Every result, by level and name.
    pub results: Vec<Record>,
    /// Over everything else, in hexadecimal.
    #[serde(default)]
    pub digest: String,
    /// Of the digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Signed>,
}

impl Document {
    /// The document of a run. Waivers must have been applied.
    pub fn new(asked: Asked, timing: Timing, waivers: Vec<Applied>, results: Vec<Record>) -> Self {
        let summary = summary(&asked, &timing, &results);
        let mut document = Self {
            schema: SCHEMA.into(),
            tool: Tool {
                version: env!("CARGO_PKG_VERSION").into(),
                git: option_env!("GLM_GIT").unwrap_or("unknown").into(),
            },
            environment: Environment::here(),
            asked,
            timing,
            waivers,
            summary,
            results,
            digest: String::new(),
            signature: None,
        };
        document.digest = document.value().map(|v| digest(&v)).unwrap_or_default();
        document
    }

    fn value(&self) -> Result<Value> {
        serde_json::to_value(self)
            .map_err(|e| Error::new(ErrorKind::Unexpected, "write the report", e.to_string()))
    }

    /// Signs the digest.
    pub fn sign(&mut self, key: &Key) {
        self.signature = Some(Signed {
            algorithm: "ed25519".into(),
            key: hex(key.0.verifying_key().as_bytes()),
            value: hex(&key.0.sign(self.digest.as_bytes()).to_bytes()),
        });
    }

    /// Reads a document, and checks its digest and signature.
    ///
    /// # Errors
    /// `Corrupt` when it is no report, was changed, or was signed by another key than it says.
    pub fn read(text: &str) -> Result<Self> {
        const DOING: &str = "read the report";
        let corrupt =
            |why: String| Error::corrupt(DOING, why).next_step("name the report.json of a run");
        let value: Value = serde_json::from_str(text).map_err(|e| corrupt(e.to_string()))?;
        let schema = value["schema"].as_str().unwrap_or("none");
        if schema != SCHEMA {
            return Err(corrupt(format!("its schema is {schema}, not {SCHEMA}")));
        }
        let digest = digest(&value);
        let document: Self = serde_json::from_value(value).map_err(|e| corrupt(e.to_string()))?;
        if document.digest != digest {
            let why = format!(
                "the digest is {digest}, the report says {}",
                document.digest
            );
            return Err(
                corrupt(why).next_step("it was changed after it was written: run the suite again")
            );
        }
        if let Some(signed) = &document.signature {
            let key = unhex(&signed.key).and_then(|key| VerifyingKey::from_bytes(&key).ok());
            let signature = unhex(&signed.value).map(|bytes| Signature::from_bytes(&bytes));
            let good = match (key, signature) {
                (Some(key), Some(signature)) => {
                    key.verify_strict(digest.as_bytes(), &signature).is_ok()
                }
                _ => false,
            };
            if !good {
                return Err(
                    corrupt("the signature is not of this report and key".into())
                        .next_step("ask whoever signed it for the original"),
                );
            }
        }
        Ok(document)
    }

    /// A random part of the results that ran, at least one, chosen by `seed`.
    pub fn sample(&self, share: f64, seed: u64) -> Vec<&Record> {
        let ran = |r: &&Record| {
            let status = r.unwaived.unwrap_or(r.outcome.status);
            !matches!(status, Status::NotRun | Status::Flaky) && r.level != Level::Speed
        };
        let mut records: Vec<&Record> = self.results.iter().filter(ran).collect();
        let count = ((records.len() as f64 * share).ceil() as usize).clamp(1, records.len().max(1));
        Rng::of(&format!("sample {seed}")).shuffle(&mut records);
        records.truncate(count);
        records
    }

    /// Why a run certifies nothing, in words.
    fn why_not(&self) -> String {
        let (summary, selection) = (&self.summary, &self.asked.selection);
        let mut why = Vec::new();
        if summary.verdict != Verdict::Passed {
            why.push(summary.verdict.title().to_owned());
        }
        if !selection.depth.certifies() {
            why.push("a quick run tries a small part of the cases".into());
        }
        if !selection.ops.is_empty() {
            why.push(format!("only {} ran", selection.ops.join(", ")));
        }
        if !complete(selection.levels) {
            why.push("levels 0 to 6 are needed".into());
        }
        if !summary.missing.is_empty() {
            why.push(format!("no passing case of {}", summary.missing.join(", ")));
        }
        why.join("; ")
    }

    /// The document as JSON.
    ///
    /// # Errors
    /// None that is expected.
    pub fn json(&self) -> Result<String> {
        Ok(self.value()?.to_string())
    }

    /// A page of its own, with everything that a person wants to see.
    pub fn html(&self) -> String {
        html::page(self).into_string()
    }

    /// For CI systems.
    pub fn junit(&self) -> String {
        junit::xml(self)
    }

    /// For pull requests.
    pub fn markdown(&self) -> String {
        markdown::text(self)
    }

    /// Writes all four into a folder: `report.json`, `report.html`, `junit.xml`, `summary.md`.
    ///
    /// # Errors
    /// `Io`.
    pub fn write(&self, folder: &Path) -> Result<()> {
        for (name, text) in [
            ("report.json", self.json()?),
            ("report.html", self.html()),
            ("junit.xml", self.junit()),
            ("summary.md", self.markdown()),
        ] {
            let path = folder.join(name);
            std::fs::write(&path, text).map_err(|e| {
                Error::new(
                    ErrorKind::Io,
                    format!("write {}", path.display()),
                    e.to_string(),
                )
                .next_step("name a folder that can be written with --report")
            })?;
        }
        Ok(())
    }
}

/// Why a result of today is not the one in a report; `None` when it is. Outputs are compared on the same device only.
pub fn difference(then: &Record, now: &Outcome, same_device: bool) -> Option<String> {
    let status = then.unwaived.unwrap_or(then.outcome.status);
    if status != now.status {
        return Some(format!("{status} then, {} now. {}", now.status, now.why));
    }
    let checksum = |m: &Option<Metrics>| m.as_ref().map(|m| m.checksum.clone());
    let (old, new) = (checksum(&then.outcome.metrics), checksum(&now.metrics));
    (same_device && old != new).then(|| format!("outputs were {old:?}, are {new:?}"))
}

fn summary(asked: &Asked, timing: &Timing, results: &[Record]) -> Summary {
    let mut statuses = BTreeMap::new();
    for record in results {
        *statuses
            .entry(record.outcome.status.name().to_owned())
            .or_insert(0) += 1;
    }
    let has = |f: fn(Status) -> bool| results.iter().any(|r| f(r.outcome.status));
    let verdict = if has(|s| s.is_failure() && s != Status::Timeout) {
        Verdict::Failed
    } else if has(|s| s == Status::Timeout) {
        Verdict::TimedOut
    } else if timing.partial {
        Verdict::Partial
    } else if !has(|s| s.is_pass() || s == Status::Waived) {
        Verdict::NothingTested
    } else {
        Verdict::Passed
    };
    let mut passing: BTreeMap<&str, bool> = BTreeMap::new();
    for record in results {
        if (Level::Exact..=Level::Attention).contains(&record.level) {
            *passing.entry(&record.outcome.op).or_default() |= record.outcome.status.is_pass();
        }
    }
    let missing = passing.into_iter().filter(|(_, passes)| !passes);
    let missing: Vec<String> = missing.map(|(op, _)| op.to_owned()).collect();
    let whole = asked.selection.depth.certifies()
        && asked.selection.ops.is_empty()
        && complete(asked.selection.levels);
    Summary {
        verdict,
        certifies: verdict == Verdict::Passed && whole && missing.is_empty(),
        statuses,
        missing,
    }
}

/// Whether these are all levels but speed.
fn complete(levels: Levels) -> bool {
    levels.contain(Level::Memory) && levels.contain(Level::Robustness)
}

/// SHA-256 of a document without its digest and signature.
fn digest(document: &Value) -> String {
    let mut document = document.clone();
    if let Some(fields) = document.as_object_mut() {
        fields.remove("digest");
        fields.remove("signature");
    }
    let mut text = String::new();
    canonical(&document, &mut text);
    sha256(text.as_bytes())
}

/// JSON with sorted keys and no spaces. The parser limits how deep values nest.
fn canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(fields) => {
            let sorted: BTreeMap<&String, &Value> = fields.iter().collect();
            text.push('{');
            for (i, (key, value)) in sorted.into_iter().enumerate() {
                if i > 0 {
                    text.push(',');
                }
                text.push_str(&Value::from(key.as_str()).to_string());
                text.push(':');
                canonical(value, text);
            }
            text.push('}');
        }
        Value::Array(values) => {
            text.push('[');
            for (i, value) in values.iter().enumerate() {
                if i > 0 {
                    text.push(',');
                }
                canonical(value, text);
            }
            text.push(']');
        }
        other => text.push_str(&other.to_string()),
    }
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; N];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(bytes)
}

/// What the views share: results of one kind, together.
#[derive(Default)]
struct Group<'a> {
    records: Vec<&'a Record>,
}

impl<'a> Group<'a> {
    /// The results by a key, in the key's order.
    fn by<K: Ord>(
        records: impl IntoIterator<Item = &'a Record>,
        key: impl Fn(&'a Record) -> K,
    ) -> BTreeMap<K, Group<'a>> {
        let mut groups: BTreeMap<K, Group<'a>> = BTreeMap::new();
        for record in records {
            groups.entry(key(record)).or_default().records.push(record);
        }
        groups
    }

    fn count(&self, f: impl Fn(Status) -> bool) -> usize {
        self.records.iter().filter(|r| f(r.outcome.status)).count()
    }

    fn passed(&self) -> usize {
        self.count(Status::is_pass)
    }

    fn failed(&self) -> usize {
        self.count(Status::is_failure)
    }

    fn seconds(&self) -> f64 {
        self.records.iter().map(|r| r.outcome.seconds).sum()
    }

    fn metrics(&self) -> impl Iterator<Item = &'a Metrics> {
        self.records
            .iter()
            .filter_map(|r| r.outcome.metrics.as_ref())
    }

    /// The largest share of a bound.
    fn utilisation(&self) -> Option<f64> {
        let worst = self.records.iter().filter_map(|r| r.outcome.worst.as_ref());
        worst.map(|w| w.utilisation).max_by(f64::total_cmp)
    }
}
