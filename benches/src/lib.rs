//! What the machine could do, and what the kernels do of it.
//!
//! - `cargo run --release -p glm-benches --bin roofline` prints limits and products side by side;
//!   `cargo bench -p glm-benches` gives limits and every operation their distributions.
//! - `peers/peers.py` runs other programs beside ours, `curves.py` draws how speed and memory grow.
//! - Whole models and single operations on any device are measured by the tool itself: `glm bench`.

use glm::architecture::Architecture;
use glm::{shapes, speed};
use hal::Result;

/// A weight matrix of a model.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// The model.
    pub model: &'static str,
    /// The layer: `qkv`, `o`, `up` (gate and up together), `down`.
    pub layer: &'static str,
    /// Output features.
    pub n: usize,
    /// Input features.
    pub k: usize,
}

/// The matrices of one layer of a small and of a usual GLM.
///
/// # Errors
/// None in practice: both shapes are known.
pub fn shapes() -> Result<Vec<Shape>> {
    let mut list = Vec::new();
    for model in ["glm-edge-1.5b", "chatglm3-6b"] {
        let architecture: Architecture = shapes::architecture(model, Some(1))?;
        let layer = speed::matrices(&architecture)
            .into_iter()
            .filter(|(layer, ..)| *layer != "head");
        list.extend(layer.map(|(layer, n, k)| Shape { model, layer, n, k }));
    }
    Ok(list)
}
