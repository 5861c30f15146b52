//! Layers with parameters that more than one network uses, in the published layout: the weight of a
//! linear layer is `[outputs, inputs]`.

mod block;
mod convolution;
mod embed;
mod initial;
mod linear;
mod norm;

pub use block::{Attention, BlockSize, Mlp};
pub use convolution::{Convolution, GroupNorm};
pub use embed::{PatchEmbed, TimestepEmbed, sine_cosine_grid, unpatchify};
pub use initial::{Initial, constant};
pub use linear::Linear;
pub use norm::{LayerNorm, NORM_EPSILON};
