//! Bind groups, made once for the same arguments.

use std::collections::HashMap;
use std::sync::Mutex;

use arrayvec::ArrayVec;

use crate::gpu::lock;

/// The most bind groups that are kept: those of a large model's decode step, and of a few prefills.
const MOST: usize = 4096;

/// What a bind group is made of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) layout: wgpu::BindGroupLayout,
    /// The number of each buffer, and the bytes of it.
    pub(crate) parts: ArrayVec<(u64, u64, u64), 9>,
}

/// Bind groups by what they are made of, until one of their buffers is dropped.
#[derive(Debug, Default)]
pub(crate) struct Groups(Mutex<HashMap<Key, wgpu::BindGroup>>);

impl Groups {
    /// The bind group of `key`, which `make` makes.
    pub(crate) fn group(
        &self,
        key: &Key,
        make: impl FnOnce() -> wgpu::BindGroup,
    ) -> wgpu::BindGroup {
        let mut groups = lock(&self.0);
        if let Some(group) = groups.get(key) {
            return group.clone();
        }
        if groups.len() >= MOST {
            // Those in use come back at their next launch.
            groups.clear();
        }
        let group = make();
        groups.insert(key.clone(), group.clone());
        group
    }

    /// Drops the bind groups of a buffer, which would keep its memory.
    pub(crate) fn forget(&self, buffer: u64) {
        lock(&self.0).retain(|key, _| key.parts.iter().all(|part| part.0 != buffer));
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        lock(&self.0).len()
    }
}
