//! Vectors of sums and the instruction that adds the products of pairs to them.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use std::marker::PhantomData;
use std::ops::Range;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use super::amx::AmxTiles;
use super::product::{self, Left, Order, ROWS, Sums};
use super::tiles::{self, BLOCK, Tiles};
use crate::flex::numeric::vectorised;

/// Sums per vector.
pub const LANES: usize = 16;

/// The processor's instruction, or the same in float32.
pub trait PairSums: Copy + Send + Sync {
    /// [`LANES`] sums.
    type Sums: Copy;
    /// [`LANES`] pairs, the first of each in the low half.
    type Pairs: Copy;

    fn zero(self) -> Self::Sums;

    /// # Safety
    /// [`LANES`] pairs can be read at `from`.
    unsafe fn load(self, from: *const u32) -> Self::Pairs;

    /// One pair in all lanes.
    fn splat(self, pair: u32) -> Self::Pairs;

    /// `sums + a₁ b₁ + a₀ b₀` in each lane: first the product of the pairs' high halves is added, then
    /// that of the low ones, each rounded.
    fn add(self, sums: Self::Sums, a: Self::Pairs, b: Self::Pairs) -> Self::Sums;

    /// # Safety
    /// [`LANES`] sums can be written at `to`.
    unsafe fn store(self, to: *mut f32, sums: Self::Sums);

    /// How transposed left matrices lie for [`Self::by_panel`].
    const ORDER: Order = Order::Interleaved;

    /// See [`product::by_panel`].
    #[inline(always)]
    fn by_panel(
        self,
        left: Left,
        rows: Range<usize>,
        panel: &[u32],
        width: usize,
        finish: impl FnMut(usize, &mut Sums),
    ) {
        product::by_panel(self, left, rows, panel, width, finish);
    }
}

/// Work that multiplies pairs.
pub trait Task {
    type Output;

    fn run<K: PairSums>(self, pairs: K) -> Self::Output;
}

/// Runs `task` with the widest instructions there are.
#[inline]
pub fn dispatch<T: Task>(task: T) -> T::Output {
    #[cfg(test)]
    if EMULATES_TILES.get() {
        return with_emulated_tiles(task);
    }
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    if has_tiles() {
        // SAFETY: the processor has what the function is compiled for.
        return unsafe { with_hardware(task, Tiled::<_, AmxTiles>::new(Hardware)) };
    }
    #[cfg(target_arch = "x86_64")]
    if hardware() {
        // SAFETY: the processor has what the function is compiled for.
        return unsafe { with_hardware(task, Hardware) };
    }
    emulated(task)
}

/// Runs `task` without the instruction.
pub fn emulated<T: Task>(task: T) -> T::Output {
    vectorised(
        #[inline(always)]
        || task.run(Emulated),
    )
}

/// Runs `task` with the instruction for vectors, whatever else the processor has.
#[cfg(test)]
pub fn with_vectors<T: Task>(task: T) -> Option<T::Output> {
    #[cfg(target_arch = "x86_64")]
    if hardware() {
        // SAFETY: the processor has what the function is compiled for.
        return Some(unsafe { with_hardware(task, Hardware) });
    }
    None
}

/// Whether the processor multiplies tiles, and may be asked to.
pub fn has_tiles() -> bool {
    #[cfg(test)]
    if EMULATES_TILES.get() {
        return true;
    }
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    return super::amx::available();
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    return false;
}

/// How transposed left matrices lie for what [`dispatch`] runs.
pub fn order() -> Order {
    if has_tiles() { Order::Rows } else { Order::Interleaved }
}

/// Tasks have a multiple of so many rows, but for the last.
pub fn rows_together() -> usize {
    if has_tiles() { BLOCK } else { ROWS }
}

#[cfg(test)]
thread_local! {
    /// Whether this thread does as one of a processor with tiles.
    pub static EMULATES_TILES: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Runs `task` as a processor with tiles would.
#[cfg(test)]
pub fn with_emulated_tiles<T: Task>(task: T) -> T::Output {
    vectorised(
        #[inline(always)]
        || task.run(Tiled::<_, tiles::EmulatedTiles>::new(Emulated)),
    )
}

/// Whether the processor multiplies pairs.
#[cfg(target_arch = "x86_64")]
pub fn hardware() -> bool {
    is_x86_feature_detected!("avx512bf16")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
}

/// Whether the processor multiplies pairs.
#[cfg(not(target_arch = "x86_64"))]
pub fn hardware() -> bool {
    false
}

/// Runs `task` with what the processor has: `pairs` and the vectors around it.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,fma,avx2")]
fn with_hardware<T: Task>(task: T, pairs: impl PairSums) -> T::Output {
    task.run(pairs)
}

/// `vdpbf16ps`. Made only where the processor has it.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct Hardware;

#[cfg(target_arch = "x86_64")]
impl PairSums for Hardware {
    type Sums = __m512;
    type Pairs = __m512i;

    #[inline(always)]
    fn zero(self) -> __m512 {
        // SAFETY: whoever has a `Hardware` has the instructions, here and below.
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn load(self, from: *const u32) -> __m512i {
        // SAFETY: the caller vouches for what is read.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    fn splat(self, pair: u32) -> __m512i {
        // SAFETY: as in `zero`.
        unsafe { _mm512_set1_epi32(pair.cast_signed()) }
    }

    #[inline(always)]
    fn add(self, sums: __m512, a: __m512i, b: __m512i) -> __m512 {
        // SAFETY: as in `zero`; both types are 512 bits of which every pattern is allowed.
        unsafe {
            let [a, b] = [a, b].map(|pairs| std::mem::transmute::<__m512i, __m512bh>(pairs));
            _mm512_dpbf16_ps(sums, a, b)
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, sums: __m512) {
        // SAFETY: the caller vouches for what is written.
        unsafe { _mm512_storeu_ps(to, sums) }
    }
}

/// The same sums in float32, which holds the product of two bfloat16 exactly: they differ from the
/// processor's only where one is below the smallest normal number.
#[derive(Clone, Copy)]
struct Emulated;

impl PairSums for Emulated {
    type Sums = [f32; LANES];
    type Pairs = [u32; LANES];

    #[inline(always)]
    fn zero(self) -> [f32; LANES] {
        [0.0; LANES]
    }

    #[inline(always)]
    unsafe fn load(self, from: *const u32) -> [u32; LANES] {
        // SAFETY: the caller vouches for what is read.
        unsafe { from.cast::<[u32; LANES]>().read_unaligned() }
    }

    #[inline(always)]
    fn splat(self, pair: u32) -> [u32; LANES] {
        [pair; LANES]
    }

    #[inline(always)]
    fn add(self, mut sums: [f32; LANES], a: [u32; LANES], b: [u32; LANES]) -> [f32; LANES] {
        let high = |pair: u32| f32::from_bits(pair & 0xffff_0000);
        let low = |pair: u32| f32::from_bits(pair << 16);
        for i in 0..LANES {
            sums[i] += high(a[i]) * high(b[i]);
            sums[i] += low(a[i]) * low(b[i]);
        }
        sums
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, sums: [f32; LANES]) {
        // SAFETY: the caller vouches for what is written.
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(sums) }
    }
}

/// Vectors as `V` multiplies them, panels as `T` does.
pub struct Tiled<V, T>(V, PhantomData<fn() -> T>);

impl<V, T> Tiled<V, T> {
    /// Both must be there.
    pub fn new(vectors: V) -> Self {
        Self(vectors, PhantomData)
    }
}

impl<V: Copy, T> Clone for Tiled<V, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V: Copy, T> Copy for Tiled<V, T> {}

impl<V: PairSums, T: Tiles + Default> PairSums for Tiled<V, T> {
    type Sums = V::Sums;
    type Pairs = V::Pairs;

    #[inline(always)]
    fn zero(self) -> V::Sums {
        self.0.zero()
    }

    #[inline(always)]
    unsafe fn load(self, from: *const u32) -> V::Pairs {
        // SAFETY: passed on.
        unsafe { self.0.load(from) }
    }

    #[inline(always)]
    fn splat(self, pair: u32) -> V::Pairs {
        self.0.splat(pair)
    }

    #[inline(always)]
    fn add(self, sums: V::Sums, a: V::Pairs, b: V::Pairs) -> V::Sums {
        self.0.add(sums, a, b)
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, sums: V::Sums) {
        // SAFETY: passed on.
        unsafe { self.0.store(to, sums) }
    }

    const ORDER: Order = Order::Rows;

    #[inline(always)]
    fn by_panel(
        self,
        left: Left,
        rows: Range<usize>,
        panel: &[u32],
        width: usize,
        finish: impl FnMut(usize, &mut Sums),
    ) {
        tiles::by_panel(T::default(), left, rows, panel, width, finish);
    }
}
