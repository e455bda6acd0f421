//! Folders of SwissArmyTransformer (GLM-130B, GLM-10B): one file of PyTorch per rank of tensor
//! parallelism, merged into the tensors of one model.
//!
//! `latest` holds the name of a folder (`49300`; GLM's own training writes
//! `latest_checkpointed_iteration.txt` too), and that folder `mp_rank_00_model_states.pt` to
//! the last rank. How a tensor is divided follows from its name:
//!
//! | tensor | merged |
//! |---|---|
//! | word embeddings; CodeGeeX's query, key, value and top query embeddings | rows |
//! | `query_key_value`, rows `[head][q\|k\|v]` (GLM-130B) | rows |
//! | `query_key_value`, rows `[q\|k\|v]` (GLM-10B: it has position embeddings) | rows, each third |
//! | `dense_h_to_4h` | rows; each half, when gated |
//! | `attention.dense.weight`, `dense_4h_to_h.weight` | columns |
//! | others: norms, biases of the two above, position embeddings | one for all ranks |
//!
//! Sources: `tools/convert_tp.py` of GLM-130B, `change_mp.py` of GLM, `merge_ckpt_parallel.py` of
//! CodeGeeX. Of vectors that all ranks have, these tools take the first: training may leave the
//! others a rounding apart. Matrices of that kind must be equal, or we do not know them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hal::{Error, ErrorKind, Result};

use super::{Entry, Join, Part, Place, SCALE_SUFFIX};
use crate::files;

/// Files that name the folder of the shards: DeepSpeed's, and Megatron's.
const LATEST: [&str; 2] = ["latest", "latest_checkpointed_iteration.txt"];
/// Far above the 16 of GLM-130B's finest division.
const MAX_RANKS: usize = 1024;

fn file_name(rank: usize) -> String {
    format!("mp_rank_{rank:02}_model_states.pt")
}

fn rank_of(name: &str) -> Option<usize> {
    let rank = name.strip_prefix("mp_rank_")?;
    let rank = rank.strip_suffix("_model_states.pt")?;
    rank.parse().ok()
}

/// The shards of the model in `folder`, rank 0 first; `None` when it is no such folder.
///
/// # Errors
/// `NotFound` when a rank is missing; `Corrupt` when `latest` names no folder beside it; `Io`.
pub(super) fn ranks(folder: &Path) -> Result<Option<Vec<PathBuf>>> {
    let latest = LATEST.map(|name| folder.join(name));
    let latest = latest.iter().find(|file| file.is_file());
    let shards = match latest {
        Some(latest) => {
            let text = files::read(latest)?;
            let name = str::from_utf8(&text).map(str::trim).unwrap_or_default();
            if !files::is_plain_name(name) {
                return Err(Error::corrupt(
                    format!("read {}", latest.display()),
                    "it does not hold the name of a folder beside it",
                )
                .next_step("write the name of the folder with the mp_rank files into it"));
            }
            folder.join(name)
        }
        None => folder.to_path_buf(),
    };
    let doing = format!("list {}", shards.display());
    let failed = |e| files::io_error(&doing, e);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&shards).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        found.extend(name.to_str().and_then(rank_of));
    }
    found.sort_unstable();
    let Some(&last) = found.last() else {
        return match latest {
            None => Ok(None),
            Some(_) => Err(
                Error::new(ErrorKind::NotFound, doing, format!("no {}", file_name(0)))
                    .next_step("unpack all parts of the checkpoint"),
            ),
        };
    };
    if let Some(missing) = (0..=last.min(MAX_RANKS)).find(|rank| !found.contains(rank)) {
        return Err(Error::new(
            ErrorKind::NotFound,
            doing,
            format!(
                "{} is missing, {} is there",
                file_name(missing),
                file_name(last)
            ),
        )
        .next_step("copy the shards of all ranks"));
    }
    if last >= MAX_RANKS {
        return Err(Error::unsupported(doing, format!("{last} ranks"))
            .next_step("merge them first with the tools of the model"));
    }
    Ok(Some(
        (0..=last).map(|r| shards.join(file_name(r))).collect(),
    ))
}

/// The merged tensors of all ranks' tables.
///
/// # Errors
/// `Corrupt`, naming tensor and file, when ranks lack a tensor or do not fit together;
/// `Unsupported` for a quantised weight whose scales differ from rank to rank.
pub(super) fn merge(
    doing: &str,
    files: &[&str],
    tables: Vec<Vec<(String, Entry)>>,
) -> Result<BTreeMap<String, Place>> {
    let mut tensors: BTreeMap<String, Vec<Part>> = BTreeMap::new();
    for (rank, table) in tables.into_iter().enumerate() {
        for (name, entry) in table {
            let parts = tensors.entry(name).or_default();
            // As many parts as ranks before this one, or a rank lacks it (or has it twice).
            if parts.len() != rank {
                let other = files[parts.len().min(rank)];
                return Err(unlike(
                    doing,
                    &format!("a tensor of {} is not once in {other}", files[rank]),
                ));
            }
            parts.push(Part { file: rank, entry });
        }
    }
    let ranks = files.len();
    if let Some((name, parts)) = tensors.iter().find(|(_, parts)| parts.len() != ranks) {
        let (has, lacks) = (files[parts[0].file], files[parts.len()]);
        return Err(unlike(
            doing,
            &format!("tensor `{name}` of {has} is not in {lacks}"),
        ));
    }
    let division = Division::of(&tensors);
    let merge = |(name, parts): (String, Vec<Part>)| {
        let place = division.place(doing, files, &name, parts)?;
        Ok((name, place))
    };
    tensors.into_iter().map(merge).collect()
}

fn unlike(doing: &str, why: &str) -> Error {
    Error::corrupt(doing, why).next_step("take all shards from one checkpoint")
}

/// What the names alone do not say of a model's division.
struct Division {
    /// Sections of the rows of `query_key_value`.
    qkv: usize,
    /// Sections of the rows of `dense_h_to_4h`.
    up: usize,
}

impl Division {
    fn of(tensors: &BTreeMap<String, Vec<Part>>) -> Self {
        let blocks = tensors
            .keys()
            .any(|n| n.contains("position_embeddings.weight"));
        let dim = |suffix: &str, d: usize| {
            let (_, parts) = tensors.iter().find(|(name, _)| name.ends_with(suffix))?;
            parts[0].entry.shape.get(d).copied()
        };
        // Both are divided by the number of ranks; a quantised weight may have half the columns,
        // its bias has not.
        let (up, inner) = (
            dim("mlp.dense_h_to_4h.weight", 0),
            dim("mlp.dense_4h_to_h.weight", 1),
        );
        let gated = match (up, inner) {
            (Some(up), Some(inner)) => inner.checked_mul(2) == Some(up),
            _ => false,
        };
        Self {
            qkv: if blocks { 3 } else { 1 },
            up: if gated { 2 } else { 1 },
        }
    }

    /// How the parts of tensor `name`, of `dims` dimensions, make the whole.
    fn join(&self, name: &str, dims: usize) -> Join {
        let (key, of) = name.rsplit_once('.').unwrap_or(("", name));
        let is = |ends: &[&str]| ends.iter().any(|end| key.ends_with(end));
        if is(&["word_embeddings", "top_query_embeddings"]) {
            return Join::Sections(1);
        }
        if is(&["attention.query_key_value"]) {
            return Join::Sections(self.qkv);
        }
        if is(&["attention.query", "attention.key", "attention.value"]) {
            return Join::Sections(1);
        }
        if is(&["mlp.dense_h_to_4h"]) {
            return Join::Sections(self.up);
        }
        if is(&["attention.dense", "mlp.dense_4h_to_h"]) && of != "bias" {
            return Join::Columns;
        }
        if dims > 1 { Join::Equal } else { Join::Same }
    }

    fn place(&self, doing: &str, files: &[&str], name: &str, parts: Vec<Part>) -> Result<Place> {
        let first = &parts[0].entry;
        let (dtype, mut shape) = (first.dtype.clone(), first.shape.clone());
        let of = |part: &Part| format!("{} {:?}", part.entry.dtype, part.entry.shape);
        for part in &parts {
            if (&part.entry.dtype, &part.entry.shape) != (&dtype, &shape) {
                return Err(unlike(
                    doing,
                    &format!(
                        "tensor `{name}` is {} in {} and {} in {}",
                        of(&parts[0]),
                        files[0],
                        of(part),
                        files[part.file]
                    ),
                ));
            }
        }
        let ranks = parts.len();
        let join = match ranks {
            1 => Join::Same,
            _ => self.join(name, shape.len()),
        };
        if join == Join::Columns && name.ends_with(SCALE_SUFFIX) {
            return Err(Error::unsupported(
                doing,
                format!(
                    "`{name}`: {ranks} ranks have scales of their own for the columns of one row"
                ),
            )
            .next_step("start from the f16 shards, and quantise with `glm quantize`"));
        }
        let long = match join {
            Join::Same | Join::Equal => None,
            Join::Sections(sections) => Some((0, sections)),
            Join::Columns => Some((1, 1)),
        };
        let bytes = match long {
            None => Some(first.bytes()),
            Some(_) => first.bytes().checked_mul(ranks),
        };
        if let Some((dim, sections)) = long {
            let divided = shape.get(dim).copied();
            match divided.and_then(|n| n.checked_mul(ranks)) {
                Some(n) if n.is_multiple_of(ranks * sections) => shape[dim] = n,
                _ => {
                    return Err(unlike(
                        doing,
                        &format!("tensor `{name}` {shape:?} does not divide as its name says"),
                    ));
                }
            }
        }
        let bytes = bytes.ok_or_else(|| unlike(doing, &format!("tensor `{name}` is too large")))?;
        Ok(Place {
            dtype,
            shape,
            bytes,
            parts,
            join,
        })
    }
}
