//! What an emulated device is like, and what it does wrong.

use hal::{DType, Error, Numerics, Result};

/// What a chip may be like and still compute right. The default is a plain device: 32 lanes, f32 sums.
#[derive(Clone, Debug, PartialEq)]
pub struct Character {
    /// Lanes that add up a sum: lane i takes every `wave`-th term, then the lanes are added pairwise.
    pub wave: usize,
    /// Whether kernels take bf16. If not, such specifications are declined, and the card says so.
    pub bf16: bool,
    /// The type that products and attention add up in.
    pub accumulator: DType,
    /// Bits of the significand that f32 operands of products keep.
    pub operand_bits: u32,
    /// Whether f32 numbers below 2⁻¹²⁶ become zero, as operands and as results.
    pub flush: bool,
    /// All memory; an allocation beyond it is `OutOfMemory`.
    pub memory_bytes: Option<usize>,
    /// Launches with arguments at addresses that are no multiple of this are refused.
    pub align_bytes: usize,
    /// Whether work waits in its stream until somebody needs the result.
    pub asynchronous: bool,
    /// Whether the card claims exact numerics whatever the above says.
    pub lies: bool,
}

impl Default for Character {
    fn default() -> Self {
        Self {
            wave: 32,
            bf16: true,
            accumulator: DType::F32,
            operand_bits: 24,
            flush: false,
            memory_bytes: None,
            align_bytes: 1,
            asynchronous: false,
            lies: false,
        }
    }
}

impl Character {
    /// The words of a spec that describe a character.
    pub(crate) const WORDS: &str =
        "waveN, nobf16, f16acc, tf32, bf16ops, ftz, memN[k|m|g], alignN, async, lies";

    /// Applies one word; whether it is one.
    ///
    /// # Errors
    /// `InvalidArgument` when its number is not one, or out of range.
    pub(crate) fn set(&mut self, word: &str) -> Result<bool> {
        match word {
            "nobf16" => self.bf16 = false,
            "f16acc" => self.accumulator = DType::F16,
            "tf32" => self.operand_bits = 11,
            "bf16ops" => self.operand_bits = 8,
            "ftz" => self.flush = true,
            "async" => self.asynchronous = true,
            "lies" => self.lies = true,
            _ => {
                if let Some(n) = word.strip_prefix("wave") {
                    self.wave = number(word, n, 1..=1024)?;
                } else if let Some(n) = word.strip_prefix("align") {
                    self.align_bytes = number(word, n, 1..=4096)?;
                } else if let Some(n) = word.strip_prefix("mem") {
                    self.memory_bytes = Some(bytes(word, n)?);
                } else {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// The words that make this of a plain device.
    pub(crate) fn words(&self) -> Vec<String> {
        let (plain, mut words) = (Self::default(), Vec::new());
        let mut word = |says: bool, word: String| {
            if says {
                words.push(word);
            }
        };
        word(self.wave != plain.wave, format!("wave{}", self.wave));
        word(!self.bf16, "nobf16".into());
        word(self.accumulator == DType::F16, "f16acc".into());
        word(self.operand_bits == 11, "tf32".into());
        word(self.operand_bits == 8, "bf16ops".into());
        word(self.flush, "ftz".into());
        let memory = self.memory_bytes.unwrap_or(0);
        let (n, unit) = match memory.trailing_zeros() {
            30.. if memory > 0 => (memory >> 30, "g"),
            20.. if memory > 0 => (memory >> 20, "m"),
            10.. if memory > 0 => (memory >> 10, "k"),
            _ => (memory, ""),
        };
        word(self.memory_bytes.is_some(), format!("mem{n}{unit}"));
        word(
            self.align_bytes != plain.align_bytes,
            format!("align{}", self.align_bytes),
        );
        word(self.asynchronous, "async".into());
        word(self.lies, "lies".into());
        words
    }

    /// What the card says.
    pub(crate) fn card(&self) -> Numerics {
        let exact = Numerics {
            int8_cache: true,
            ..Numerics::exact()
        };
        if self.lies {
            return exact;
        }
        let mut card = Numerics {
            accumulator: self.accumulator,
            operand_bits: self.operand_bits,
            ..exact
        };
        if !self.bf16 {
            card.floats.retain(|&dtype| dtype != DType::BF16);
        }
        if self.flush {
            card.flushes = card.floats.clone();
        }
        card
    }
}

/// What no device may do. Counted over the whole device, from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// The allocation that fails with `OutOfMemory`, once.
    pub out_of_memory_at: Option<u64>,
    /// The copy or launch at which the device is lost, for good.
    pub lost_at: Option<u64>,
    /// The launch that never ends.
    pub hang_at: Option<u64>,
    /// The launch that ends the process.
    pub crash_at: Option<u64>,
    /// The launch from which on a bit of every first result is wrong.
    pub wrong_at: Option<u64>,
    /// Whether every eighth buffer is never given back.
    pub leak: bool,
    /// Whether streams wait for no event.
    pub waits_ignored: bool,
    /// Whether downloads do not wait for earlier work.
    pub downloads_early: bool,
    /// Whether the last byte of an upload stays behind.
    pub uploads_short: bool,
    /// Whether a graph computes with what its buffers held when it was captured.
    pub replay_stale: bool,
    /// Whether a graph forgets its last launch.
    pub replay_short: bool,
}

impl Faults {
    /// The words of a spec that describe faults.
    pub(crate) const WORDS: &str = "oom@N, lost@N, hang@N, crash@N, wrong@N, leak, waits-ignored, downloads-early, uploads-short, replay-stale, replay-short";

    /// Applies one word; whether it is one.
    ///
    /// # Errors
    /// `InvalidArgument` when its number is not one.
    pub(crate) fn set(&mut self, word: &str) -> Result<bool> {
        match word {
            "leak" => self.leak = true,
            "waits-ignored" => self.waits_ignored = true,
            "downloads-early" => self.downloads_early = true,
            "uploads-short" => self.uploads_short = true,
            "replay-stale" => self.replay_stale = true,
            "replay-short" => self.replay_short = true,
            _ => return self.set_count(word),
        }
        Ok(true)
    }

    /// The words that make these of none.
    pub(crate) fn words(&self) -> Vec<String> {
        let counted = [
            ("oom", self.out_of_memory_at),
            ("lost", self.lost_at),
            ("hang", self.hang_at),
            ("crash", self.crash_at),
            ("wrong", self.wrong_at),
        ];
        let counted = counted
            .into_iter()
            .filter_map(|(word, at)| Some(format!("{word}@{}", at?)));
        let said = [
            ("leak", self.leak),
            ("waits-ignored", self.waits_ignored),
            ("downloads-early", self.downloads_early),
            ("uploads-short", self.uploads_short),
            ("replay-stale", self.replay_stale),
            ("replay-short", self.replay_short),
        ];
        let said = said.into_iter().filter(|(_, said)| *said);
        counted.chain(said.map(|(word, _)| word.into())).collect()
    }

    fn set_count(&mut self, word: &str) -> Result<bool> {
        let Some((fault, n)) = word.split_once('@') else {
            return Ok(false);
        };
        let at = Some(number(word, n, 1..=usize::MAX)? as u64);
        match fault {
            "oom" => self.out_of_memory_at = at,
            "lost" => self.lost_at = at,
            "hang" => self.hang_at = at,
            "crash" => self.crash_at = at,
            "wrong" => self.wrong_at = at,
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn number(word: &str, n: &str, range: std::ops::RangeInclusive<usize>) -> Result<usize> {
    let parsed = n.parse().ok().filter(|n| range.contains(n));
    parsed.ok_or_else(|| {
        Error::invalid(
            format!("read the emulator's property '{word}'"),
            format!("'{n}' is no number in {range:?}"),
        )
    })
}

fn bytes(word: &str, n: &str) -> Result<usize> {
    let (n, shift) = match n.as_bytes().last() {
        Some(b'k') => (&n[..n.len() - 1], 10),
        Some(b'm') => (&n[..n.len() - 1], 20),
        Some(b'g') => (&n[..n.len() - 1], 30),
        _ => (n, 0),
    };
    Ok(number(word, n, 0..=usize::MAX >> 31)? << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_words() {
        let mut character = Character::default();
        for word in ["wave64", "nobf16", "f16acc", "ftz", "mem64m", "async"] {
            assert!(character.set(word).unwrap(), "{word}");
        }
        let want = Character {
            wave: 64,
            bf16: false,
            accumulator: DType::F16,
            flush: true,
            memory_bytes: Some(64 << 20),
            asynchronous: true,
            ..Character::default()
        };
        assert_eq!(character, want);
        assert!(!character.set("warp32").unwrap() && !character.set("").unwrap());
        for word in [
            "wave0",
            "wave-1",
            "mem",
            "mem1t",
            "align1e3",
            "wave99999999999999999999",
        ] {
            assert!(character.set(word).is_err(), "{word}");
        }
        let mut faults = Faults::default();
        assert!(faults.set("lost@40").unwrap() && faults.lost_at == Some(40));
        assert!(faults.set("oom@0").is_err() && !faults.set("melt@1").unwrap());
    }

    #[test]
    fn says_the_words_that_it_reads() {
        let all = [
            "wave64",
            "nobf16",
            "f16acc",
            "tf32",
            "ftz",
            "mem3m",
            "align16",
            "async",
            "lies",
            "oom@1",
            "lost@2",
            "hang@3",
            "crash@4",
            "wrong@5",
            "leak",
            "waits-ignored",
            "downloads-early",
            "uploads-short",
            "replay-stale",
            "replay-short",
        ];
        let (mut character, mut faults) = (Character::default(), Faults::default());
        assert!(character.words().is_empty() && faults.words().is_empty());
        for word in all {
            assert!(
                character.set(word).unwrap() || faults.set(word).unwrap(),
                "{word}"
            );
        }
        assert_eq!([character.words(), faults.words()].concat(), all);
        for word in ["mem0", "mem1023", "mem2g", "bf16ops"] {
            let mut character = Character::default();
            character.set(word).unwrap();
            assert_eq!(character.words(), [word]);
        }
        // Every word of the list that errors print is among them.
        for word in Character::WORDS
            .split(", ")
            .chain(Faults::WORDS.split(", "))
        {
            let stem = word.trim_end_matches("[k|m|g]").trim_end_matches('N');
            assert!(
                stem == "bf16ops" || all.iter().any(|said| said.starts_with(stem)),
                "{word}"
            );
        }
    }

    #[test]
    fn a_liar_claims_to_be_exact() {
        let mut character = Character::default();
        character.set("f16acc").unwrap();
        assert_eq!(character.card().accumulator, DType::F16);
        character.set("lies").unwrap();
        let exact = Numerics {
            int8_cache: true,
            ..Numerics::exact()
        };
        assert_eq!(character.card(), exact);
    }
}
