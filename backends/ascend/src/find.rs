//! The devices of this machine.

use backend_runtime::{Abilities, Code, Runtime, SUCCESS, spec};
use backend_simt::{Facts, Limits};
use hal::{DType, Error, Numerics, Result};

use crate::device::Acl;
use crate::failure::{ALREADY, failure};
use crate::libraries::Library;
use crate::ops::COMPOSED;
use crate::symbols::text_at;

/// Names the devices that AscendCL shows.
const VISIBLE: &str = "ASCEND_RT_VISIBLE_DEVICES";

/// Set to 1: products with integers by the library's own operator, which rounds what they stand for to the type of `x`.
const WEIGHT_QUANT: &str = "GLM_ASCEND_WEIGHT_QUANT";

/// Set to 0: weights of half types stay as they are; to 1: they lie in fractals on a 310P too.
const FOLD: &str = "GLM_ASCEND_NZ";

/// Generations of the chip that differ in what operators take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// 910, 910A, 910 Pro, 310P: products in f16 only, no bf16.
    First,
    /// 910B1 to 910B4, 910C and later: f16, bf16 and f32.
    Second,
}

impl Generation {
    /// By the name that AscendCL gives the chip; `None` for one that is not known, or whose operators have no products.
    pub fn of(soc: &str) -> Option<Self> {
        let name = soc.strip_prefix("Ascend")?;
        // The first 910 has variants A, B and ProA; those of the second generation have a number after the B.
        let second = name
            .strip_prefix("910B")
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        match name {
            _ if second || name.starts_with("910_93") || name.starts_with("950") => {
                Some(Self::Second)
            }
            _ if name.starts_with("910") || name.starts_with("310P") => Some(Self::First),
            _ => None,
        }
    }

    /// Whether the library's own attention may be there: chips of the first generation have none, and the 950 refuses the version
    /// that is known here.
    fn has_attention(self, soc: &str) -> bool {
        self == Self::Second && !soc.starts_with("Ascend950")
    }

    /// Float types that operators take.
    pub fn floats(self) -> Vec<DType> {
        match self {
            Self::First => vec![DType::F16],
            Self::Second => vec![DType::F32, DType::F16, DType::BF16],
        }
    }
}

/// A device that can be opened.
#[derive(Clone, Debug)]
pub struct Found {
    /// Opens it: `ascend:0`.
    pub spec: String,
    /// AscendCL's name of the chip: `Ascend910B2`.
    pub name: String,
    /// What it is of; `None`: a chip that is not known here.
    pub generation: Option<Generation>,
    /// AscendCL's version, where it says one.
    pub version: Option<String>,
    /// Devices whose memory it can reach without the host.
    pub peers: Vec<String>,
}

/// A device, open.
pub(crate) struct Opened {
    pub(crate) runtime: Runtime<Acl>,
    pub(crate) generation: Generation,
    /// Whether products with integers are the library's own.
    pub(crate) weight_quant: bool,
    /// Whether attention over half types is.
    pub(crate) attention: bool,
    /// Whether weights of half types lie in fractals.
    pub(crate) folds: bool,
}

/// AscendCL, initialised.
#[derive(Debug)]
pub(crate) struct Started {
    library: Library,
}

impl Started {
    pub(crate) fn new() -> Result<Self> {
        visible(std::env::var(VISIBLE).ok().as_deref())?;
        let library = Library::find()?;
        // SAFETY: without a file of settings.
        let code = unsafe { (library.calls.aclInit)(std::ptr::null()) };
        match code {
            SUCCESS | ALREADY => Ok(Self { library }),
            _ => Err(failure(&library, "start AscendCL", code)),
        }
    }

    fn check(&self, doing: &'static str, code: Code) -> Result<()> {
        match code {
            SUCCESS => Ok(()),
            _ => Err(failure(&self.library, doing, code)),
        }
    }

    pub(crate) fn devices(&self) -> Result<Vec<Found>> {
        let mut count = 0;
        // SAFETY: the number outlives the call.
        let code = unsafe { (self.library.calls.aclrtGetDeviceCount)(&mut count) };
        self.check("list the Ascend devices", code)?;
        let count = i32::try_from(count).unwrap_or(i32::MAX);
        (0..count).map(|n| self.describe(n, count)).collect()
    }

    fn describe(&self, device: i32, count: i32) -> Result<Found> {
        // SAFETY: it takes nothing, and its text is constant.
        let name = text_at(unsafe { (self.library.calls.aclrtGetSocName)() }).unwrap_or_default();
        let mut peers = Vec::new();
        if let Some(calls) = &self.library.peers {
            for peer in (0..count).filter(|&peer| peer != device) {
                let mut can = 0;
                // SAFETY: the number outlives the call.
                let code = unsafe { (calls.aclrtDeviceCanAccessPeer)(&mut can, device, peer) };
                self.check("describe an Ascend device", code)?;
                if can != 0 {
                    peers.push(format!("ascend:{peer}"));
                }
            }
        }
        Ok(Found {
            spec: format!("ascend:{device}"),
            generation: Generation::of(&name),
            version: self.library.version(),
            name,
            peers,
        })
    }

    /// Opens the device that `spec` names.
    pub(crate) fn open(self, spec: &str) -> Result<Opened> {
        let n = number(spec)?;
        let doing = || format!("open device '{spec}'");
        let all = self.devices()?;
        let found = all.get(n).ok_or_else(|| {
            let specs = all.iter().map(|found| found.spec.as_str());
            spec::missing(spec, specs, "AscendCL has no device")
                .next_step("`npu-smi info` and `glm devices` list what can be opened")
        })?;
        let generation = found.generation.ok_or_else(|| {
            let why = format!("the chip '{}' is none that is known here", found.name);
            Error::unsupported(doing(), why)
                .next_step("report its name: 910, 910A, 910B, 910C, 950 and 310P are known")
        })?;
        let has = Abilities {
            pools: false,
            captures: self.library.captures.is_some(),
        };
        let Library { path, .. } = &self.library;
        let path = path.display().to_string();
        let missing = self.library.operators.names().into_iter();
        let missing: Vec<&str> = missing
            .filter(|(_, there)| !there)
            .map(|(name, _)| name)
            .collect();
        let api = Acl::new(self.library, i32::try_from(n).unwrap_or(i32::MAX))?;
        let (mut free, mut memory_bytes) = (0, 0);
        // SAFETY: the device is this thread's since it was opened, and the numbers outlive the call.
        let code = unsafe { backend_runtime::Api::memory_info(&api, &mut free, &mut memory_bytes) };
        if code != SUCCESS {
            return Err(failure(&api.library, "describe an Ascend device", code));
        }
        let asked = std::env::var(WEIGHT_QUANT).is_ok_and(|value| value == "1");
        let operator = &api.library.operators.WeightQuantBatchMatmulV2;
        let weight_quant = asked && generation == Generation::Second && operator.is_some();
        let operator = &api.library.operators.FusedInferAttentionScoreV2;
        let attention = generation.has_attention(&found.name) && operator.is_some();
        let folds = folds(&found.name, std::env::var(FOLD).ok().as_deref()) && api.library.folds();
        let mut facts = found.facts(generation, &path, &missing, has, memory_bytes);
        if folds {
            facts.detail += ", weights in fractals";
        }
        // It multiplies values with probabilities of their type.
        facts.numerics.rounds_probabilities |= attention;
        if weight_quant {
            facts.detail += &format!(", {WEIGHT_QUANT}=1");
            facts.numerics.operand_bits = 11;
        }
        let limits = Limits {
            max_group: 1,
            local_bytes: 0,
            max_alloc_bytes: memory_bytes,
            memory_bytes,
            wave: 1,
            parallelism: 1,
            wide_items: false,
        };
        Ok(Opened {
            runtime: Runtime::new(api, facts, limits, has)?,
            generation,
            weight_quant,
            attention,
            folds,
        })
    }
}

impl Found {
    fn facts(
        &self,
        generation: Generation,
        path: &str,
        missing: &[&str],
        has: Abilities,
        memory_bytes: usize,
    ) -> Facts {
        let version = self.version.as_deref().unwrap_or("of unknown version");
        let mut detail = format!(
            "AscendCL {version} ({path}), {} MiB memory",
            memory_bytes >> 20
        );
        let composed: Vec<&str> = COMPOSED.iter().map(|(op, _)| *op).collect();
        detail += &format!(", composes {}", composed.join(" "));
        if !has.captures {
            detail += ", no captures";
        }
        if !missing.is_empty() {
            detail += &format!(", without {}", missing.join(" "));
        }
        if !self.peers.is_empty() {
            detail += &format!(", reaches {}", self.peers.join(" "));
        }
        let floats = generation.floats();
        Facts {
            spec: self.spec.clone(),
            name: self.name.clone(),
            detail,
            fingerprint: None,
            native_floats: floats.clone(),
            numerics: Numerics {
                // The first generation multiplies in f16, whatever it is given.
                operand_bits: if generation == Generation::First {
                    11
                } else {
                    24
                },
                rounds_probabilities: generation == Generation::First,
                floats,
                ..Numerics::exact()
            },
        }
    }
}

/// Whether weights should lie in fractals on this chip, if `FOLD` is set to `asked`. The 910A has no such products, the 950
/// folds otherwise, and users met a release that refuses them on a 310P.
fn folds(soc: &str, asked: Option<&str>) -> bool {
    let second = Generation::of(soc) == Some(Generation::Second);
    match asked {
        Some("0") => false,
        Some("1") if soc.starts_with("Ascend310P") => true,
        _ => second && !soc.starts_with("Ascend950"),
    }
}

/// The number in `ascend:3`; `ascend` is the first device.
pub(crate) fn number(spec: &str) -> Result<usize> {
    spec::number(spec, "ascend", "it is no Ascend device")
}

/// Refuses a list of devices from which AscendCL would drop some without a word: it reads ascending numbers between commas, and
/// nothing from the first on that is none.
fn visible(list: Option<&str>) -> Result<()> {
    let Some(list) = list.filter(|list| !list.is_empty()) else {
        return Ok(());
    };
    let mut least = 0;
    for id in list.split(',') {
        let number = id
            .bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| id.parse::<u32>().ok());
        match number.flatten() {
            Some(n) if n >= least => least = n + 1,
            _ => {
                let mut ids: Vec<u32> = list
                    .split(',')
                    .filter_map(|id| id.trim().parse().ok())
                    .collect();
                ids.sort_unstable();
                ids.dedup();
                let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
                let why = format!(
                    "AscendCL ignores it from '{id}' on: it takes ascending numbers with commas between, and no spaces"
                );
                return Err(Error::invalid(format!("read {VISIBLE}=\"{list}\""), why)
                    .next_step(format!("write {VISIBLE}={}", ids.join(","))));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use hal::ErrorKind;

    use super::*;

    #[test]
    fn specs_are_read_as_numbers_only() {
        for (spec, n) in [("ascend", 0), ("ascend:0", 0), ("ascend:7", 7)] {
            assert_eq!(number(spec).unwrap(), n, "{spec}");
        }
        for spec in [
            "",
            "ascend:",
            "ascend:x",
            "ascend:-1",
            "ascend:0.1",
            "npu:0",
        ] {
            let e = number(spec).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::InvalidArgument, "{spec}");
        }
    }

    #[test]
    fn generations_are_told_apart_by_name() {
        for (name, generation) in [
            ("Ascend910", Some(Generation::First)),
            ("Ascend910A", Some(Generation::First)),
            ("Ascend910B", Some(Generation::First)),
            ("Ascend910ProB", Some(Generation::First)),
            ("Ascend910PremiumA", Some(Generation::First)),
            ("Ascend310P3", Some(Generation::First)),
            ("Ascend910B1", Some(Generation::Second)),
            ("Ascend910B4-1", Some(Generation::Second)),
            ("Ascend910_9392", Some(Generation::Second)),
            ("Ascend950DT", Some(Generation::Second)),
            ("Ascend310B1", None),
            ("Ascend310", None),
            ("", None),
        ] {
            assert_eq!(Generation::of(name), generation, "{name}");
        }
    }

    #[test]
    fn lists_that_would_be_cut_short_are_refused() {
        for list in [None, Some(""), Some("0"), Some("0,1,7"), Some("2,5")] {
            visible(list).unwrap();
        }
        for (list, write) in [
            ("0, 1", "=0,1"),
            ("1,0", "=0,1"),
            ("0,0", "=0"),
            ("0;1", "="),
            ("0,1,", "=0,1"),
            ("-1", "="),
            ("0,x,1", "=0,1"),
        ] {
            let e = visible(Some(list)).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::InvalidArgument, "{list}");
            assert!(e.next().unwrap().ends_with(write), "{list}: {e}");
        }
    }
}
