//! Layers with parameters that more than one network uses, in the published layout: the weight of a
//! linear layer is `[outputs, inputs]`. One thing without parameters is here too: a grid of vectors on
//! a grid of another side, for the encoder's positions and for what is aligned with a teacher.

mod block;
mod convolution;
mod embed;
mod initial;
mod linear;
mod norm;
mod recompute;

mod bicubic;

pub use bicubic::{GridResize, resize_grid, resize_grid_as};
pub use block::{Attention, BlockSize, Mlp};
pub use convolution::{Convolution, GroupNorm, doubled};
pub use embed::{PatchEmbed, TimestepEmbed, sine_cosine_grid, unpatchify};
pub use initial::{Initial, constant};
pub use linear::Linear;
pub use norm::{LayerNorm, NORM_EPSILON};
pub use recompute::Activations;
pub(crate) use recompute::Inputs;
