//! Folders as SwissArmyTransformer writes them: `latest`, and a file per rank of tensor parallelism.
//!
//! ```ignore
//! sat::write(dir, &golden_shapes(&case), Family::Glm130b, 4, DType::F16);
//! ```

use std::path::Path;

use hal::DType;

use super::torch::{Tensor, deepspeed_file, element_bytes, tensors};
use super::{Shapes, torch};

/// Whose rules divide the tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Rows of query, key and value by head; a gated MLP.
    Glm130b,
    /// Rows of query, key and value in blocks; a plain MLP.
    Glm10b,
}

/// Writes `latest` and the shards of `parallel` ranks into `dir`; no `config.json`.
pub fn write(dir: &Path, shapes: &Shapes, family: Family, parallel: usize, dtype: DType) {
    write_tensors(dir, &tensors(shapes, dtype), family, parallel);
}

/// As [`write`], of any tensors.
pub fn write_tensors(dir: &Path, tensors: &[Tensor], family: Family, parallel: usize) {
    let shards = dir.join("49300");
    std::fs::create_dir_all(&shards).unwrap();
    std::fs::write(dir.join("latest"), "49300\n").unwrap();
    for rank in 0..parallel {
        let parts: Vec<Tensor> = tensors
            .iter()
            .map(|tensor| part(tensor, family, rank, parallel))
            .collect();
        let file = shards.join(format!("mp_rank_{rank:02}_model_states.pt"));
        std::fs::write(file, deepspeed_file(&parts)).unwrap();
    }
}

/// What `rank` of `parallel` has of a tensor.
pub fn part(whole: &Tensor, family: Family, rank: usize, parallel: usize) -> Tensor {
    let name = whole.name.as_str();
    let has = |part: &str| name.contains(part);
    let rows = |sections: usize| {
        let size = whole.shape[0] / sections / parallel;
        let rows = (0..sections).flat_map(move |section| {
            let start = section * size * parallel + rank * size;
            start..start + size
        });
        rows.collect::<Vec<_>>()
    };
    let all = || (0..whole.shape[0]).collect::<Vec<_>>();
    let mut cols = 0..whole.shape.get(1).copied().unwrap_or(1);
    let rows = if has("word_embeddings") {
        rows(1)
    } else if has("query_key_value") {
        rows(if family == Family::Glm10b { 3 } else { 1 })
    } else if has("dense_h_to_4h") {
        rows(if family == Family::Glm130b { 2 } else { 1 })
    } else if whole.shape.len() == 2 && (has("attention.dense") || has("dense_4h_to_h")) {
        let size = cols.len() / parallel;
        cols = rank * size..(rank + 1) * size;
        all()
    } else {
        all()
    };
    let size = element_bytes(whole.kind);
    let width = whole.shape.get(1).copied().unwrap_or(1);
    let bytes = rows.iter().flat_map(|row| {
        let start = (row * width + cols.start) * size;
        whole.storage.1[start..start + cols.len() * size].to_vec()
    });
    let mut shape = vec![rows.len()];
    shape.extend((whole.shape.len() == 2).then_some(cols.len()));
    torch::Tensor::new(whole.storage.0, name, whole.kind, &shape, bytes.collect())
}
