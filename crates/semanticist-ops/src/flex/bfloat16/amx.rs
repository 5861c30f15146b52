//! The instructions of AMX. Vectors are multiplied by those of AVX512-BF16, which every processor with AMX
//! has.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
use std::sync::OnceLock;

use super::product::COLUMNS;
use super::sums::{LANES, hardware};
use super::tiles::{Block, TILE, Tiles};

/// Whether the processor has tiles of bfloat16 and the system lets this process use them.
pub fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| hardware() && processor_has_tiles() && permitted())
}

fn processor_has_tiles() -> bool {
    const OSXSAVE: u32 = 1 << 27;
    const BF16_AND_TILE: u32 = 1 << 22 | 1 << 24;
    const CONFIG_AND_DATA: u64 = 1 << 17 | 1 << 18;
    if __cpuid(0).eax < 7 || __cpuid(1).ecx & OSXSAVE == 0 {
        return false;
    }
    // SAFETY: the system has switched on XGETBV, as OSXSAVE says.
    let saved = unsafe { states() };
    __cpuid_count(7, 0).edx & BF16_AND_TILE == BF16_AND_TILE && saved & CONFIG_AND_DATA == CONFIG_AND_DATA
}

/// Which states of the processor the system keeps for each thread.
#[target_feature(enable = "xsave")]
fn states() -> u64 {
    // SAFETY: register 0 is always there.
    unsafe { _xgetbv(0) }
}

/// Asks the kernel for room for the tiles of all threads; it refuses where it is too old.
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const TILE_DATA: libc::c_long = 18;
    // SAFETY: changes nothing but what this process may use.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0 }
}

/// What `ldtilecfg` reads.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes_per_row: [u16; 16],
    rows: [u8; 16],
}

/// The instructions, and the shapes that tiles have. Made only where [`available`] says so.
#[derive(Default)]
pub struct AmxTiles {
    /// Rows, columns and pairs.
    shapes: Option<[usize; 3]>,
}

impl Drop for AmxTiles {
    fn drop(&mut self) {
        // The system then no longer saves 8 KiB whenever it stops the thread.
        // SAFETY: whoever has an `AmxTiles` has the instruction.
        unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
    }
}

impl Tiles for AmxTiles {
    #[inline(always)]
    unsafe fn multiply(&mut self, block: Block) {
        let (whole, rest) = (block.pairs / TILE, block.pairs % TILE);
        // SAFETY: the caller vouches for the pointers; both parts lie inside.
        unsafe {
            self.steps(block, TILE, whole, false);
            if rest > 0 {
                let behind = Block {
                    left: block.left.add(2 * whole * TILE),
                    right: block.right.add(whole * TILE * block.right_stride),
                    ..block
                };
                self.steps(behind, rest, 1, whole > 0);
            }
        }
    }
}

impl AmxTiles {
    /// Writes the sums of `steps` tiles of `pairs` pairs each, with what is there if they `go_on`.
    ///
    /// # Safety
    /// As of [`Tiles::multiply`].
    #[inline(always)]
    unsafe fn steps(&mut self, block: Block, pairs: usize, steps: usize, go_on: bool) {
        if steps == 0 {
            return;
        }
        self.shape([block.rows, block.columns, pairs]);
        // SAFETY: passed on.
        unsafe {
            match (block.rows > TILE, block.columns > LANES) {
                (false, false) => one_by_one(block, pairs, steps, go_on),
                (false, true) => one_by_two(block, pairs, steps, go_on),
                (true, false) => two_by_one(block, pairs, steps, go_on),
                (true, true) => two_by_two(block, pairs, steps, go_on),
            }
        }
    }

    /// Gives the tiles their shapes: 0 to 3 are sums, 4 and 5 the left matrix, 6 and 7 the right one.
    #[inline(always)]
    fn shape(&mut self, shapes: [usize; 3]) {
        if self.shapes == Some(shapes) {
            return;
        }
        let [rows, columns, pairs] = shapes;
        let rows = [rows.min(TILE), rows.saturating_sub(TILE)];
        let columns = [columns.min(LANES), columns.saturating_sub(LANES)];
        let mut config =
            Shapes { palette: 1, start_row: 0, reserved: [0; 14], bytes_per_row: [0; 16], rows: [0; 16] };
        let mut tile = |number: usize, rows: usize, width: usize| {
            // A tile that is not used has neither.
            if rows > 0 && width > 0 {
                config.rows[number] = rows as u8;
                config.bytes_per_row[number] = 4 * width as u16;
            }
        };
        for i in 0..2 {
            tile(2 * i, rows[i], columns[0]);
            tile(2 * i + 1, rows[i], columns[1]);
            tile(4 + i, rows[i], pairs);
            tile(6 + i, pairs, columns[i]);
        }
        // SAFETY: whoever has an `AmxTiles` has the instruction; the shapes are at most 16 by 64 bytes.
        unsafe {
            asm!(
                "ldtilecfg [{}]",
                in(reg) &raw const config,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, readonly, preserves_flags)
            );
        }
        self.shapes = Some(shapes);
    }
}

/// Rows of sums of the lower tiles lie so many bytes behind those of the upper ones.
const _: () = assert!(4 * TILE * COLUMNS == 4096);

/// A function that multiplies so many tiles of rows with so many of columns.
macro_rules! kernel {
    ($name:ident, begin $begin:tt, go on $go_on:tt, step $step:tt, end $end:tt) => {
        kernel!(@ $name $begin $go_on $step $end);
    };
    (@ $name:ident [$($begin:literal),*] [$($go_on:literal),*] [$($step:literal),*] [$($end:literal),*]) => {
        /// # Safety
        /// As of [`Tiles::multiply`], with the shapes loaded.
        #[inline(always)]
        unsafe fn $name(block: Block, pairs: usize, steps: usize, go_on: bool) {
            let Block { left, left_stride, right, right_stride, sums, .. } = block;
            // SAFETY: reads and writes what the block describes, and no other memory.
            unsafe {
                asm!(
                    $($begin,)*
                    "test {go_on:e}, {go_on:e}",
                    "jz 2f",
                    $($go_on,)*
                    "2:",
                    $($step,)*
                    "add {upper}, {left_step}",
                    "add {lower}, {left_step}",
                    "add {right}, {right_step}",
                    "dec {steps}",
                    "jnz 2b",
                    $($end,)*
                    upper = inout(reg) left => _,
                    lower = inout(reg) left.wrapping_add(TILE * left_stride) => _,
                    left_stride = in(reg) 2 * left_stride,
                    left_step = in(reg) 4 * pairs,
                    right = inout(reg) right => _,
                    right_stride = in(reg) 4 * right_stride,
                    right_step = in(reg) 4 * pairs * right_stride,
                    steps = inout(reg) steps => _,
                    sums = in(reg) sums,
                    sums_stride = in(reg) 4 * COLUMNS,
                    go_on = in(reg) u32::from(go_on),
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack)
                );
            }
        }
    };
}

kernel!(
    one_by_one,
    begin ["tilezero tmm0"],
    go on ["tileloadd tmm0, [{sums} + {sums_stride}]"],
    step [
        "tileloadd tmm4, [{upper} + {left_stride}]",
        "tileloadd tmm6, [{right} + {right_stride}]",
        "tdpbf16ps tmm0, tmm4, tmm6"
    ],
    end ["tilestored [{sums} + {sums_stride}], tmm0"]
);
kernel!(
    one_by_two,
    begin ["tilezero tmm0", "tilezero tmm1"],
    go on [
        "tileloadd tmm0, [{sums} + {sums_stride}]",
        "tileloadd tmm1, [{sums} + {sums_stride} + 64]"
    ],
    step [
        "tileloadd tmm4, [{upper} + {left_stride}]",
        "tileloadd tmm6, [{right} + {right_stride}]",
        "tdpbf16ps tmm0, tmm4, tmm6",
        "tileloadd tmm7, [{right} + {right_stride} + 64]",
        "tdpbf16ps tmm1, tmm4, tmm7"
    ],
    end [
        "tilestored [{sums} + {sums_stride}], tmm0",
        "tilestored [{sums} + {sums_stride} + 64], tmm1"
    ]
);
kernel!(
    two_by_one,
    begin ["tilezero tmm0", "tilezero tmm2"],
    go on [
        "tileloadd tmm0, [{sums} + {sums_stride}]",
        "tileloadd tmm2, [{sums} + {sums_stride} + 4096]"
    ],
    step [
        "tileloadd tmm6, [{right} + {right_stride}]",
        "tileloadd tmm4, [{upper} + {left_stride}]",
        "tdpbf16ps tmm0, tmm4, tmm6",
        "tileloadd tmm5, [{lower} + {left_stride}]",
        "tdpbf16ps tmm2, tmm5, tmm6"
    ],
    end [
        "tilestored [{sums} + {sums_stride}], tmm0",
        "tilestored [{sums} + {sums_stride} + 4096], tmm2"
    ]
);
kernel!(
    two_by_two,
    begin ["tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3"],
    go on [
        "tileloadd tmm0, [{sums} + {sums_stride}]",
        "tileloadd tmm1, [{sums} + {sums_stride} + 64]",
        "tileloadd tmm2, [{sums} + {sums_stride} + 4096]",
        "tileloadd tmm3, [{sums} + {sums_stride} + 4160]"
    ],
    step [
        "tileloadd tmm4, [{upper} + {left_stride}]",
        "tileloadd tmm6, [{right} + {right_stride}]",
        "tdpbf16ps tmm0, tmm4, tmm6",
        "tileloadd tmm7, [{right} + {right_stride} + 64]",
        "tdpbf16ps tmm1, tmm4, tmm7",
        "tileloadd tmm5, [{lower} + {left_stride}]",
        "tdpbf16ps tmm2, tmm5, tmm6",
        "tdpbf16ps tmm3, tmm5, tmm7"
    ],
    end [
        "tilestored [{sums} + {sums_stride}], tmm0",
        "tilestored [{sums} + {sums_stride} + 64], tmm1",
        "tilestored [{sums} + {sums_stride} + 4096], tmm2",
        "tilestored [{sums} + {sums_stride} + 4160], tmm3"
    ]
);
