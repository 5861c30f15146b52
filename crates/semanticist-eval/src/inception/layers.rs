//! What stands where in the Inception-v3 of FID, under the names of its published files.

/// What is done to a map of features.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    Convolution {
        name: &'static str,
        /// Height and width.
        kernel: [usize; 2],
        stride: usize,
        padding: Padding,
    },
    /// Of the 3×3 neighbours that lie within the map: TensorFlow counts no zeros beyond its edge, and pytorch-fid patches
    /// torchvision's blocks to do the same (`count_include_pad=False`).
    AveragePool,
    /// The largest of 3×3 neighbours.
    MaxPool { stride: usize, padding: Padding },
    /// Several steps on the same map, their channels one behind the other.
    Fork(&'static [Step]),
}

/// What lies beyond the edge of a map.
#[derive(Debug, Clone, Copy)]
pub(super) enum Padding {
    /// Nothing: the map becomes smaller.
    Valid,
    /// As much as keeps the size at a stride of 1.
    Same,
}

/// A part of the network.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part {
    Step(Step),
    /// Branches on the same map, their channels one behind the other.
    Mixed {
        name: &'static str,
        branches: &'static [&'static [Step]],
    },
}

const fn same(name: &'static str, kernel: [usize; 2]) -> Step {
    Step::Convolution { name, kernel, stride: 1, padding: Padding::Same }
}

const fn valid(name: &'static str, kernel: [usize; 2], stride: usize) -> Step {
    Step::Convolution { name, kernel, stride, padding: Padding::Valid }
}

const REDUCE: Step = Step::MaxPool { stride: 2, padding: Padding::Valid };

/// `InceptionA`.
const A: &[&[Step]] = &[
    &[same("branch1x1", [1, 1])],
    &[same("branch5x5_1", [1, 1]), same("branch5x5_2", [5, 5])],
    &[same("branch3x3dbl_1", [1, 1]), same("branch3x3dbl_2", [3, 3]), same("branch3x3dbl_3", [3, 3])],
    &[Step::AveragePool, same("branch_pool", [1, 1])],
];

/// `InceptionB`: half the height and width.
const B: &[&[Step]] = &[
    &[valid("branch3x3", [3, 3], 2)],
    &[same("branch3x3dbl_1", [1, 1]), same("branch3x3dbl_2", [3, 3]), valid("branch3x3dbl_3", [3, 3], 2)],
    &[REDUCE],
];

/// `InceptionC`.
const C: &[&[Step]] = &[
    &[same("branch1x1", [1, 1])],
    &[same("branch7x7_1", [1, 1]), same("branch7x7_2", [1, 7]), same("branch7x7_3", [7, 1])],
    &[
        same("branch7x7dbl_1", [1, 1]),
        same("branch7x7dbl_2", [7, 1]),
        same("branch7x7dbl_3", [1, 7]),
        same("branch7x7dbl_4", [7, 1]),
        same("branch7x7dbl_5", [1, 7]),
    ],
    &[Step::AveragePool, same("branch_pool", [1, 1])],
];

/// `InceptionD`: half the height and width.
const D: &[&[Step]] = &[
    &[same("branch3x3_1", [1, 1]), valid("branch3x3_2", [3, 3], 2)],
    &[
        same("branch7x7x3_1", [1, 1]),
        same("branch7x7x3_2", [1, 7]),
        same("branch7x7x3_3", [7, 1]),
        valid("branch7x7x3_4", [3, 3], 2),
    ],
    &[REDUCE],
];

const E_SINGLE: &[Step] =
    &[same("branch3x3_1", [1, 1]), Step::Fork(&[same("branch3x3_2a", [1, 3]), same("branch3x3_2b", [3, 1])])];

const E_DOUBLE: &[Step] = &[
    same("branch3x3dbl_1", [1, 1]),
    same("branch3x3dbl_2", [3, 3]),
    Step::Fork(&[same("branch3x3dbl_3a", [1, 3]), same("branch3x3dbl_3b", [3, 1])]),
];

/// `InceptionE`, as `FIDInceptionE_1`.
const E_AVERAGE: &[&[Step]] =
    &[&[same("branch1x1", [1, 1])], E_SINGLE, E_DOUBLE, &[Step::AveragePool, same("branch_pool", [1, 1])]];

/// `InceptionE`, as `FIDInceptionE_2`: the network of 2015 takes the largest here where the paper has the average.
const E_MAX: &[&[Step]] = &[
    &[same("branch1x1", [1, 1])],
    E_SINGLE,
    E_DOUBLE,
    &[Step::MaxPool { stride: 1, padding: Padding::Same }, same("branch_pool", [1, 1])],
];

const fn mixed(name: &'static str, branches: &'static [&'static [Step]]) -> Part {
    Part::Mixed { name, branches }
}

/// The four blocks of pytorch-fid, whose outputs are its features of 64, 192, 768 and 2048 numbers.
pub(super) const BLOCKS: [&[Part]; 4] = [
    &[
        Part::Step(valid("Conv2d_1a_3x3", [3, 3], 2)),
        Part::Step(valid("Conv2d_2a_3x3", [3, 3], 1)),
        Part::Step(same("Conv2d_2b_3x3", [3, 3])),
        Part::Step(REDUCE),
    ],
    &[
        Part::Step(same("Conv2d_3b_1x1", [1, 1])),
        Part::Step(valid("Conv2d_4a_3x3", [3, 3], 1)),
        Part::Step(REDUCE),
    ],
    &[
        mixed("Mixed_5b", A),
        mixed("Mixed_5c", A),
        mixed("Mixed_5d", A),
        mixed("Mixed_6a", B),
        mixed("Mixed_6b", C),
        mixed("Mixed_6c", C),
        mixed(SPATIAL, C),
        mixed("Mixed_6e", C),
    ],
    &[mixed("Mixed_7a", D), mixed("Mixed_7b", E_AVERAGE), mixed("Mixed_7c", E_MAX)],
];

/// The part whose first branch has the features with places that sFID compares: `mixed_6/conv` of the graph of TensorFlow
/// (guided-diffusion, `evaluations/evaluator.py`, `FID_SPATIAL_NAME`).
pub(super) const SPATIAL: &str = "Mixed_6d";

/// The published name of a weight, for one of pytorch-fid's wrapper (`blocks.2.0.branch1x1.conv.weight`).
pub(super) fn unwrapped(name: &str) -> Option<String> {
    let mut pieces = name.strip_prefix("blocks.")?.splitn(3, '.');
    let block = BLOCKS.get(pieces.next()?.parse::<usize>().ok()?)?;
    let part = block.get(pieces.next()?.parse::<usize>().ok()?)?;
    let rest = pieces.next()?;
    match part {
        Part::Step(Step::Convolution { name, .. }) | Part::Mixed { name, .. } => {
            Some(format!("{name}.{rest}"))
        }
        Part::Step(_) => None,
    }
}
