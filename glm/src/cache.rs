//! The KV cache: pages of every layer, and the sequences that own them.
//!
//! A page id names the same slots in the keys and values of every layer, so a sequence is a list of
//! ids. Pages are zeroed once, when the cache is made: operations may multiply slots that nobody
//! sees by zero, so each must hold a finite value at all times.
//!
//! The first slots of a sequence may hold what is no token: the keys and values of a trained prefix. Lengths, indices
//! and limits count tokens only.
//!
//! Forks share pages, which are counted. A page that several sequences hold is never written: the one that is to
//! write gets a copy of its own first.

use std::cmp::Reverse;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hal::{Buffer, DType, Device, Error, ErrorKind, Result, Stream, View};
use ops::kv_cache::{LARGEST, row_elements};
use ops::{CopyArgs, Plan, StridedCopy};

use crate::checkpoint::random::Kind;

/// Slots of a page that sequences may share: enough that the keys of one head in a page are read as a stream. In pages of
/// 16, attention of one token over a long cache takes a third longer on a Zen 4.
const PAGE_SIZE: usize = 64;
/// The most slots of a page where steps have one sequence alone. Longer ones gain nothing, and the first token would touch more of the
/// cache.
const LONG_PAGE_SIZE: usize = 2048;
/// The least pages there: other sequences may be open meanwhile.
const LONG_PAGES: usize = 8;

/// Slots of a page of a cache for `slots` slots of a sequence, which may have the steps `alone`.
pub(crate) fn page_size(device: &hal::DeviceInfo, alone: bool, slots: usize) -> usize {
    if !(device.long_pages && alone) {
        return PAGE_SIZE;
    }
    let pages = slots.div_ceil(LONG_PAGE_SIZE).max(LONG_PAGES);
    slots.div_ceil(pages).max(1).next_multiple_of(PAGE_SIZE)
}

/// Geometry of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheShape {
    /// Transformer layers.
    pub layers: usize,
    /// Pages per layer.
    pub pages: usize,
    /// Key-value heads.
    pub kv_heads: usize,
    /// Slots per page.
    pub page_size: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// Element type: a float, or i8.
    pub dtype: DType,
}

impl CacheShape {
    /// `[pages, kv_heads, page_size, row]`; of i8, a row ends with its scale ([`ops::kv_cache`]).
    pub fn dims(&self) -> [usize; 4] {
        let row = row_elements(self.dtype, self.head_dim);
        [self.pages, self.kv_heads, self.page_size, row]
    }

    /// Bytes of the keys and values of one slot in all layers.
    pub fn slot_bytes(&self) -> usize {
        let row = row_elements(self.dtype, self.head_dim) * self.dtype.bytes();
        2 * self.layers * self.kv_heads * row
    }

    /// Bytes of the keys, or of the values, of one layer.
    pub fn layer_bytes(&self) -> usize {
        let dims = self.dims().into_iter();
        dims.fold(self.dtype.bytes(), usize::saturating_mul)
    }

    /// Bytes of the whole cache.
    pub fn bytes(&self) -> usize {
        self.layer_bytes().saturating_mul(2 * self.layers)
    }
}

/// The pages of every layer.
#[derive(Debug)]
pub struct KvCache {
    shape: CacheShape,
    k: Vec<Buffer>,
    v: Vec<Buffer>,
    pool: Arc<Pool>,
}

#[derive(Debug)]
struct Pool {
    pages: usize,
    page_size: usize,
    state: Mutex<PoolState>,
}

#[derive(Debug)]
struct PoolState {
    free: Vec<i32>,
    /// How many sequences hold each page.
    holders: Vec<u32>,
}

impl Pool {
    fn state(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PoolState {
    /// Takes `n` pages, which must be free.
    fn take(&mut self, n: usize) -> impl Iterator<Item = i32> + '_ {
        let Self { free, holders } = self;
        let at = free.len() - n;
        let taken = free.drain(at..).rev();
        taken.inspect(|&page| holders[page as usize] = 1)
    }

    /// One holder less for each page; those without any are free.
    fn release(&mut self, pages: impl Iterator<Item = i32>) {
        for page in pages {
            let holders = &mut self.holders[page as usize];
            *holders -= 1;
            if *holders == 0 {
                self.free.push(page);
            }
        }
        // The lowest are given out first: pages in order are read faster.
        self.free.sort_unstable_by_key(|&page| Reverse(page));
    }
}

impl KvCache {
    /// A zeroed cache.
    ///
    /// # Errors
    /// `OutOfMemory`, `DeviceLost`.
    pub fn new(device: &dyn Device, stream: &mut dyn Stream, shape: CacheShape) -> Result<Self> {
        // Keys and values of a layer are read together: their buffers follow each other.
        let mut buffer = || device.alloc_zeroed(shape.layer_bytes(), stream);
        let layers = (0..shape.layers).map(|_| Ok((buffer()?, buffer()?)));
        let (k, v) = layers.collect::<Result<Vec<_>>>()?.into_iter().unzip();
        let state = PoolState {
            // As after a release.
            free: (0..shape.pages as i32).rev().collect(),
            holders: vec![0; shape.pages],
        };
        let pool = Pool {
            pages: shape.pages,
            page_size: shape.page_size,
            state: Mutex::new(state),
        };
        Ok(Self {
            shape,
            k,
            v,
            pool: Arc::new(pool),
        })
    }

    /// Geometry.
    pub fn shape(&self) -> &CacheShape {
        &self.shape
    }

    /// Keys and values of layer `i`, each of [`CacheShape::dims`].
    ///
    /// # Errors
    /// `InvalidArgument` when there is no such layer.
    pub fn layer(&self, i: usize) -> Result<(View<'_>, View<'_>)> {
        let (Some(k), Some(v)) = (self.k.get(i), self.v.get(i)) else {
            let detail = format!("{i} of {}", self.shape.layers);
            return Err(Error::invalid("read a layer of the cache", detail));
        };
        let dims = self.shape.dims();
        Ok((
            View::new(k, self.shape.dtype, &dims)?,
            View::new(v, self.shape.dtype, &dims)?,
        ))
    }

    /// Fills all pages with random numbers, for measuring speed.
    pub(crate) fn randomise(&self, stream: &mut dyn Stream) -> Result<()> {
        let block = match self.shape.dtype {
            DType::I8 => self.random_rows(),
            dtype => Kind::floats(dtype, -1, true).period(1),
        };
        for buffer in self.k.iter().chain(&self.v) {
            repeat(stream, buffer, self.shape.layer_bytes(), &block)?;
        }
        stream.synchronize()
    }

    /// Rows of i8 whose elements are up to 1.
    fn random_rows(&self) -> Vec<u8> {
        let mut rows = Kind::Int8.period(1);
        let [.., row] = self.shape.dims();
        let whole = rows.len() / row.max(1) * row;
        rows.truncate(whole);
        for row in rows.chunks_exact_mut(row.max(1)) {
            let (_, scale) = row.split_at_mut(self.shape.head_dim);
            scale.copy_from_slice(&LARGEST.recip().to_le_bytes());
        }
        rows
    }

    /// Tokens that could still be stored.
    pub fn free_tokens(&self) -> usize {
        self.pool.state().free.len() * self.shape.page_size
    }

    /// A new, empty sequence of at most `max_tokens` tokens after `base` slots of a trained prefix.
    pub fn sequence(&self, max_tokens: usize, base: usize) -> Sequence {
        let slots = max_tokens + base;
        Sequence {
            pool: self.pool.clone(),
            // Growing must not allocate in the middle of decoding.
            pages: Vec::with_capacity(slots.div_ceil(self.shape.page_size)),
            base,
            has_base: base == 0,
            len: 0,
            max_tokens,
            prefix: 0,
        }
    }

    /// Whether `sequence` lives in this cache.
    pub fn owns(&self, sequence: &Sequence) -> bool {
        Arc::ptr_eq(&self.pool, &sequence.pool)
    }

    /// Gives `sequence` a copy of its own of the page that its next token will be written to, if another
    /// sequence holds that page too.
    ///
    /// # Errors
    /// `OutOfMemory` when no page is free; `DeviceLost`. The sequence is as it was then.
    pub(crate) fn unshare(
        &self,
        stream: &mut dyn Stream,
        copy: &Plan<StridedCopy>,
        workspace: &View<'_>,
        sequence: &mut Sequence,
    ) -> Result<()> {
        fn page<'v>(pages: &View<'v>, page: i32) -> Result<View<'v>> {
            pages.slice(0, page as usize..page as usize + 1)
        }
        let at = (sequence.base + sequence.len) / self.shape.page_size;
        let Some(&shared) = sequence.pages.get(at) else {
            return Ok(());
        };
        let own = {
            let mut state = self.pool.state();
            if state.holders[shared as usize] == 1 {
                return Ok(());
            }
            if state.free.is_empty() {
                return Err(sequence.full(&state, "copy a page of a forked sequence".into()));
            }
            state.take(1).next()
        };
        let Some(own) = own else { return Ok(()) };
        for layer in 0..self.shape.layers {
            let (k, v) = self.layer(layer)?;
            for pages in [k, v] {
                let copied = page(&pages, own).and_then(|out| {
                    let x = page(&pages, shared)?;
                    copy.run(stream, CopyArgs { out, x }, workspace)
                });
                if let Err(e) = copied {
                    self.pool.state().release(std::iter::once(own));
                    return Err(e);
                }
            }
        }
        sequence.pages[at] = own;
        self.pool.state().release(std::iter::once(shared));
        Ok(())
    }

    /// Empties `sequence` and writes zeros over what it alone held: for values that are not finite, which
    /// would reach the next owner of the pages. Of pages that a fork holds too, the last one to be scrubbed takes
    /// care.
    ///
    /// # Errors
    /// `DeviceLost`.
    pub fn scrub(&self, stream: &mut dyn Stream, sequence: &mut Sequence) -> Result<()> {
        let zeros = vec![0; self.shape.layer_bytes() / self.shape.pages];
        let own: Vec<i32> = {
            let state = self.pool.state();
            let pages = sequence.pages.iter().copied();
            pages
                .filter(|&page| state.holders[page as usize] == 1)
                .collect()
        };
        for layer in 0..self.shape.layers {
            let (k, v) = self.layer(layer)?;
            for &page in &own {
                let page = page as usize;
                stream.upload(&k.slice(0, page..page + 1)?, &zeros)?;
                stream.upload(&v.slice(0, page..page + 1)?, &zeros)?;
            }
        }
        sequence.has_base = sequence.base == 0;
        sequence.truncate(0);
        Ok(())
    }
}

/// Writes `block` again and again over the first `bytes` bytes of `buffer`.
pub(crate) fn repeat(
    stream: &mut dyn Stream,
    buffer: &Buffer,
    bytes: usize,
    block: &[u8],
) -> Result<()> {
    for at in (0..bytes).step_by(block.len().max(1)) {
        let len = block.len().min(bytes - at);
        stream.upload(&View::at(buffer, at, DType::U8, &[len])?, &block[..len])?;
    }
    Ok(())
}

/// One sequence of tokens in a cache. Its pages are free again when it is dropped.
#[derive(Debug)]
pub struct Sequence {
    pool: Arc<Pool>,
    pages: Vec<i32>,
    /// Slots before the first token.
    base: usize,
    /// Whether they are written.
    has_base: bool,
    len: usize,
    max_tokens: usize,
    prefix: usize,
}

impl Sequence {
    /// Tokens stored.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no token is stored.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The most tokens it may have.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// Tokens that every token sees, with `Mask::Prefix`.
    pub fn prefix(&self) -> usize {
        self.prefix
    }

    /// Sets [`Self::prefix`]. For an empty sequence: what tokens have seen cannot change.
    ///
    /// # Errors
    /// `InvalidArgument` when tokens are stored.
    pub fn set_prefix(&mut self, prefix: usize) -> Result<()> {
        if self.len > 0 {
            return Err(Error::invalid(
                "set the prefix of a sequence",
                format!("{} tokens are stored already", self.len),
            )
            .next_step("truncate it to 0 tokens first"));
        }
        self.prefix = prefix;
        Ok(())
    }

    /// Forgets all tokens but the first `len`; whole pages become free, unless a fork holds them.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        let keep = self.written_pages();
        // Back in the order in which they were taken, so that a rewound sequence gets the same
        // pages again.
        let rest = self.pages.drain(keep..).rev();
        self.pool.state().release(rest);
    }

    /// A second sequence with the same tokens. It shares the pages: nothing is copied before one of the two writes
    /// to a page that both hold.
    pub fn fork(&self) -> Self {
        let mut pages = Vec::with_capacity(self.pages.capacity());
        pages.extend_from_slice(&self.pages[..self.written_pages()]);
        let mut state = self.pool.state();
        for &page in &pages {
            state.holders[page as usize] += 1;
        }
        drop(state);
        Self {
            pool: self.pool.clone(),
            pages,
            ..*self
        }
    }

    /// Pages that hold something; more may be reserved.
    fn written_pages(&self) -> usize {
        let base = if self.has_base { self.base } else { 0 };
        (base + self.len).div_ceil(self.pool.page_size)
    }

    /// The pages, in order.
    pub(crate) fn pages(&self) -> &[i32] {
        &self.pages
    }

    /// Slots before the first token.
    pub(crate) fn base(&self) -> usize {
        self.base
    }

    /// Where the slots before the first token lie, if they are still to be written; the caller writes them now. Their
    /// pages must have been reserved.
    pub(crate) fn claim_base(&mut self) -> Option<impl ExactSizeIterator<Item = usize> + '_> {
        if self.has_base {
            return None;
        }
        self.has_base = true;
        Some((0..self.base).map(|i| self.place(i)))
    }

    /// The slot of token `i`; its page must have been reserved.
    pub(crate) fn slot(&self, i: usize) -> usize {
        self.place(self.base + i)
    }

    fn place(&self, i: usize) -> usize {
        let page_size = self.pool.page_size;
        self.pages[i / page_size] as usize * page_size + i % page_size
    }

    /// Makes room for `more` tokens after those stored.
    ///
    /// # Errors
    /// `InvalidArgument` beyond `max_tokens`; `OutOfMemory` when the cache is full.
    pub(crate) fn reserve(&mut self, more: usize) -> Result<()> {
        let doing = || format!("add {more} tokens to a sequence of {}", self.len);
        let wanted = self.len.saturating_add(more);
        if wanted > self.max_tokens {
            let detail = format!("the context is {} tokens", self.max_tokens);
            return Err(Error::invalid(doing(), detail)
                .next_step("shorten the prompt, or load the model with a longer context"));
        }
        let slots = self.base + wanted;
        let missing = (slots.div_ceil(self.pool.page_size)).saturating_sub(self.pages.len());
        let mut state = self.pool.state();
        if missing > state.free.len() {
            return Err(self.full(&state, doing()));
        }
        self.pages.extend(state.take(missing));
        Ok(())
    }

    fn full(&self, state: &PoolState, doing: String) -> Error {
        let (pages, page_size) = (self.pool.pages, self.pool.page_size);
        Error::new(
            ErrorKind::OutOfMemory,
            doing,
            format!(
                "the KV cache of {} tokens has room for {}",
                pages * page_size,
                state.free.len() * page_size
            ),
        )
        .next_step("end other sequences, or load the model with a larger cache")
    }

    /// Counts `more` tokens as stored; their room was reserved.
    pub(crate) fn advance(&mut self, more: usize) {
        self.len += more;
        debug_assert!(self.base + self.len <= self.pages.len() * self.pool.page_size);
    }
}

impl Drop for Sequence {
    fn drop(&mut self) {
        let pages = self.pages.drain(..).rev();
        self.pool.state().release(pages);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hal::null::NullDevice;

    fn cache(pages: usize) -> KvCache {
        let device = NullDevice::new();
        let shape = CacheShape {
            layers: 2,
            pages,
            kv_heads: 2,
            page_size: 4,
            head_dim: 8,
            dtype: DType::F16,
        };
        assert_eq!(shape.bytes(), 2 * 2 * pages * 2 * 4 * 8 * 2);
        KvCache::new(&device, &mut *device.stream().unwrap(), shape).unwrap()
    }

    fn grow(sequence: &mut Sequence, n: usize) -> Result<()> {
        sequence.reserve(n)?;
        sequence.advance(n);
        Ok(())
    }

    #[test]
    fn gives_takes_back_and_never_twice() {
        let cache = cache(4);
        let (mut a, mut b) = (cache.sequence(16, 0), cache.sequence(16, 0));
        grow(&mut a, 5).unwrap();
        grow(&mut b, 4).unwrap();
        grow(&mut a, 3).unwrap();
        assert_eq!((a.pages(), b.pages()), (&[0, 1][..], &[2][..]));
        assert_eq!((a.slot(3), a.slot(7), b.slot(1)), (3, 7, 9));
        assert_eq!(cache.free_tokens(), 4);
        drop(a);
        assert_eq!(cache.free_tokens(), 12);
        grow(&mut b, 12).unwrap();
        assert_eq!(b.pages(), [2, 0, 1, 3]);
    }

    #[test]
    fn says_when_it_is_full() {
        let cache = cache(2);
        let (mut a, mut b) = (cache.sequence(8, 0), cache.sequence(8, 0));
        grow(&mut a, 5).unwrap();
        let e = grow(&mut b, 1).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::OutOfMemory);
        assert!(e.to_string().contains("room for 0") && e.next().is_some());
        assert_eq!((b.len(), a.len()), (0, 5));
        let e = grow(&mut a, 4).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidArgument);
    }

    #[test]
    fn rewinds_to_the_same_pages() {
        let cache = cache(4);
        let mut a = cache.sequence(16, 0);
        grow(&mut a, 14).unwrap();
        let pages = a.pages().to_vec();
        a.truncate(5);
        assert_eq!(
            (a.len(), a.pages(), cache.free_tokens()),
            (5, &pages[..2], 8)
        );
        a.truncate(9);
        assert_eq!(a.len(), 5);
        grow(&mut a, 9).unwrap();
        assert_eq!(a.pages(), pages);
        assert!(a.set_prefix(1).is_err());
        a.truncate(0);
        a.set_prefix(3).unwrap();
        assert_eq!((a.prefix(), cache.free_tokens()), (3, 16));
    }

    #[test]
    fn slots_before_the_first_token_stay() {
        let cache = cache(4);
        let mut a = cache.sequence(10, 6);
        a.reserve(1).unwrap();
        let slots: Vec<usize> = a.claim_base().unwrap().collect();
        assert_eq!(slots, [0, 1, 2, 3, 4, 5]);
        a.advance(1);
        assert!(a.claim_base().is_none());
        grow(&mut a, 9).unwrap();
        assert_eq!((a.len(), a.slot(0), a.slot(9)), (10, 6, 15));
        assert!(grow(&mut a, 1).is_err());
        a.truncate(0);
        assert_eq!((a.len(), cache.free_tokens()), (0, 8));
        assert!(a.claim_base().is_none());
        let device = NullDevice::new();
        cache.scrub(&mut *device.stream().unwrap(), &mut a).unwrap();
        assert_eq!(cache.free_tokens(), 16);
        a.reserve(1).unwrap();
        assert!(a.claim_base().is_some());
    }

    #[test]
    fn forks_share_pages_until_the_last_holder_goes() {
        let cache = cache(4);
        let mut a = cache.sequence(16, 0);
        a.set_prefix(2).unwrap();
        grow(&mut a, 6).unwrap();
        let mut b = a.fork();
        let c = b.fork();
        assert_eq!((b.len(), b.prefix(), b.pages()), (6, 2, &[0, 1][..]));
        assert_eq!(cache.free_tokens(), 8);
        // What one forgets, the others still hold.
        a.truncate(3);
        drop(c);
        assert_eq!(cache.free_tokens(), 8);
        b.truncate(4);
        assert_eq!(cache.free_tokens(), 12);
        drop(a);
        assert_eq!(cache.free_tokens(), 12);
        drop(b);
        assert_eq!(cache.free_tokens(), 16);
    }

    #[test]
    fn a_sequence_alone_has_long_pages_and_leaves_some() {
        let mut info = NullDevice::new().info().clone();
        info.long_pages = true;
        for (slots, page) in [
            (1, 64),
            (512, 64),
            (2049, 320),
            (8192, 1024),
            (16_400, 1856),
            (131_072, 2048),
        ] {
            assert_eq!(page_size(&info, true, slots), page, "{slots}");
            assert_eq!(page_size(&info, false, slots), 64);
        }
        info.long_pages = false;
        assert_eq!(page_size(&info, true, 8192), 64);
    }
}
