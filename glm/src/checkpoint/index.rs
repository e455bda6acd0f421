//! `model.safetensors.index.json`, `pytorch_model.bin.index.json`: which tensor is in which file.

use std::collections::HashMap;

use hal::{Error, Result};
use serde::Deserialize;

use crate::files::{self, UniqueMap};

/// The parsed list.
#[derive(Debug)]
pub(super) struct Index {
    /// Names of the files, in order of appearance.
    pub(super) files: Vec<String>,
    /// Tensors, with the number of their file.
    pub(super) tensors: Vec<(String, usize)>,
}

#[derive(Deserialize)]
struct Raw {
    weight_map: UniqueMap<String>,
}

/// Parses an index of files whose names end in one of `endings`; `file` names it in errors.
///
/// # Errors
/// `Corrupt`: not this format, equal names, an empty list, or a shard outside the index's own
/// folder.
pub(super) fn parse(file: &str, json: &[u8], endings: &[&str]) -> Result<Index> {
    let corrupt = |why: String| {
        Error::corrupt(format!("read {file}"), why).next_step("download the index again")
    };
    let Raw {
        weight_map: UniqueMap(map),
    } = files::parse_json(file, json)?;
    if map.is_empty() {
        return Err(corrupt("weight_map is empty".to_owned()));
    }
    let mut numbers = HashMap::new();
    let mut index = Index {
        files: Vec::new(),
        tensors: Vec::with_capacity(map.len()),
    };
    for (name, shard) in map {
        // A downloaded list must not make us read files from elsewhere.
        if !files::is_plain_name(&shard) || !endings.iter().any(|end| shard.ends_with(end)) {
            return Err(corrupt(format!(
                "shard {shard:?} of tensor `{name}` is not the plain name of a {} file",
                endings[0]
            )));
        }
        let next = index.files.len();
        let number = *numbers.entry(shard.clone()).or_insert_with(|| {
            index.files.push(shard);
            next
        });
        index.tensors.push((name, number));
    }
    Ok(index)
}
