//! What a step of a model must read and compute, whatever the device.

use super::Model;
use crate::cache::CacheShape;

/// Bytes and multiply-adds of a step, counted from shapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Bytes of the matrices of the layers and of the output layer, which every step reads whatever its tokens.
    pub weight_bytes: usize,
    /// Multiply-adds of one token with the layers' matrices.
    pub token_products: usize,
    /// Multiply-adds of one row of logits.
    pub logits_products: usize,
    /// Bytes of the keys and values of one slot, over all layers.
    pub slot_bytes: usize,
    /// Multiply-adds of one token with the keys and values of one slot, over all layers.
    pub slot_products: usize,
}

impl Work {
    /// Bytes and operations of prompts of `tokens` tokens, one for each of `batch` sequences that have `depth` already, in
    /// steps of at most `most` tokens.
    pub fn prefill(&self, [batch, depth, tokens]: [usize; 3], most: usize) -> [f64; 2] {
        let steps = (batch * tokens).div_ceil(most.max(1));
        let slots = batch * (depth + 2 * tokens);
        let bytes = steps as f64 * self.weight_bytes as f64 + (slots * self.slot_bytes) as f64;
        let products = (batch * tokens) as f64 * self.token_products as f64
            + (batch * self.logits_products) as f64
            + seen([batch, depth, tokens]) * self.slot_products as f64;
        [bytes, 2.0 * products]
    }

    /// Bytes and operations of `tokens` steps that decode a token for each of `batch` sequences, from `depth` on.
    pub fn decode(&self, [batch, depth, tokens]: [usize; 3]) -> [f64; 2] {
        let slots = seen([batch, depth, tokens]);
        let bytes = tokens as f64 * self.weight_bytes as f64 + slots * self.slot_bytes as f64;
        let products = (batch * tokens) as f64
            * (self.token_products + self.logits_products) as f64
            + slots * self.slot_products as f64;
        [bytes, 2.0 * products]
    }
}

/// Pairs of a new token and a slot that it sees.
fn seen([batch, depth, tokens]: [usize; 3]) -> f64 {
    batch as f64 * (tokens as f64 * depth as f64 + (tokens * (tokens + 1)) as f64 / 2.0)
}

impl Model {
    /// What a step must read and compute.
    pub fn work(&self) -> Work {
        let a = &self.network.architecture;
        let layers = self.network.layers.iter();
        let matrices = layers.flat_map(|layer| [&layer.qkv, &layer.dense, &layer.up, &layer.down]);
        let query = self.network.top_query.as_ref().map(|top| &top.query);
        let (mut weight_bytes, mut token_products) = (self.network.head.bytes(), 0);
        for matrix in matrices.chain(query) {
            weight_bytes += matrix.bytes();
            token_products += matrix.products();
        }
        let CacheShape {
            kv_heads,
            head_dim,
            dtype,
            ..
        } = *self.cache().shape();
        Work {
            weight_bytes,
            token_products,
            logits_products: self.network.head.products(),
            slot_bytes: 2 * a.layers * kv_heads * head_dim * dtype.bytes(),
            slot_products: 2 * a.layers * a.heads * head_dim,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_read_weights_and_what_they_see() {
        let work = Work {
            weight_bytes: 1000,
            token_products: 100,
            logits_products: 10,
            slot_bytes: 4,
            slot_products: 2,
        };
        // Three tokens see 6, 7 and 8 slots; each of two sequences.
        assert_eq!(seen([2, 5, 3]), 42.0);
        assert_eq!(
            work.decode([2, 5, 3]),
            [3000.0 + 42.0 * 4.0, 2.0 * (6.0 * 110.0 + 84.0)]
        );
        // Six tokens in steps of four are two; the cache is read once and three slots of it are written.
        let bytes = 2000.0 + 2.0 * (5.0 + 6.0) * 4.0;
        let operations = 2.0 * (600.0 + 20.0 + 84.0);
        assert_eq!(work.prefill([2, 5, 3], 4), [bytes, operations]);
    }
}
