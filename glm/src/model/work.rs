//! What a step of a model must read and compute, whatever computes it.

use super::Model;
use crate::speed::Amounts;

/// What steps of a model read and compute.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// Bytes of the matrices of the layers and of the output layer, which every step reads whatever its tokens.
    pub weight_bytes: usize,
    /// Operations of one token with the layers' matrices.
    pub token: Amounts,
    /// Operations of one row of logits.
    pub logits: Amounts,
    /// Bytes of the keys and values of one slot, over all layers.
    pub slot_bytes: usize,
    /// Multiply-adds of one token with the keys and values of one slot, over all layers.
    pub slot_products: usize,
}

impl Work {
    /// Of prompts of `tokens` tokens, one for each of `batch` sequences that have `depth` already, in steps of at most `most`
    /// tokens.
    pub fn prefill(&self, [batch, depth, tokens]: [usize; 3], most: usize) -> Amounts {
        let steps = (batch * tokens).div_ceil(most.max(1));
        let slots = batch * (depth + 2 * tokens);
        let bytes = steps as f64 * self.weight_bytes as f64 + (slots * self.slot_bytes) as f64;
        let products = self.token * (batch * tokens) as f64 + self.logits * batch as f64;
        self.amounts(bytes, products, seen([batch, depth, tokens]))
    }

    /// Of `tokens` steps that decode a token for each of `batch` sequences, from `depth` on.
    pub fn decode(&self, [batch, depth, tokens]: [usize; 3]) -> Amounts {
        let slots = seen([batch, depth, tokens]);
        let bytes = tokens as f64 * self.weight_bytes as f64 + slots * self.slot_bytes as f64;
        let products = (self.token + self.logits) * (batch * tokens) as f64;
        self.amounts(bytes, products, slots)
    }

    /// `products` with the matrices, and what the cache's slots that are `seen` take; `bytes` in all.
    fn amounts(&self, bytes: f64, products: Amounts, seen: f64) -> Amounts {
        products + Amounts::from([bytes, 2.0 * seen * self.slot_products as f64])
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
        let card = &self.device.info().numerics;
        let (mut weight_bytes, mut token) = (self.network.head.bytes(), Amounts::default());
        for matrix in matrices.chain(query) {
            weight_bytes += matrix.bytes();
            token = token + Amounts::product(matrix.op(), 1.0, card);
        }
        Work {
            weight_bytes,
            token,
            logits: Amounts::product(self.network.head.op(), 1.0, card),
            slot_bytes: self.cache().shape().slot_bytes(),
            slot_products: 2 * a.layers * a.heads * a.head_dim,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_read_weights_and_what_they_see() {
        let operations = |floats, integers| Amounts {
            bytes: 0.0,
            floats,
            integers,
        };
        let work = Work {
            weight_bytes: 1000,
            token: operations(80.0, 120.0),
            logits: operations(20.0, 0.0),
            slot_bytes: 4,
            slot_products: 2,
        };
        // Three tokens see 6, 7 and 8 slots; each of two sequences.
        assert_eq!(seen([2, 5, 3]), 42.0);
        let decoded = work.decode([2, 5, 3]);
        assert_eq!(decoded.bytes, 3000.0 + 42.0 * 4.0);
        assert_eq!(decoded.floats, 2.0 * (6.0 * 50.0 + 84.0));
        assert_eq!(decoded.integers, 2.0 * 6.0 * 60.0);
        // Six tokens in steps of four are two; the cache is read once and three slots of it are written.
        let prompts = work.prefill([2, 5, 3], 4);
        assert_eq!(prompts.bytes, 2000.0 + 2.0 * (5.0 + 6.0) * 4.0);
        assert_eq!(prompts.floats, 2.0 * (240.0 + 20.0 + 84.0));
        assert_eq!(prompts.integers, 2.0 * 360.0);
    }
}
