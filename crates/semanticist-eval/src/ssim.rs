//! Structural similarity of planes of values in `[0, 1]`, at one scale and at five, in `f64`.
//!
//! As torchmetrics 1.9 computes both (`functional/image/ssim.py`). It mirrors the image beyond its edges and averages over
//! every pixel; scikit-image averages where the window fits, which gives other numbers, and more so in small images.

/// Taps of the Gaussian window on either side of its middle: 11 in all.
const RADIUS: usize = 5;
/// Its standard deviation, in pixels.
const SIGMA: f64 = 1.5;
/// Keep the fractions finite where an image is flat (Wang et al. 2004): `(K L)²` with K₁ = 0.01, K₂ = 0.03 and values of
/// range L = 1.
const C1: f64 = 0.01 * 0.01;
const C2: f64 = 0.03 * 0.03;

/// How much each scale counts, from the finest (Wang et al. 2003, section 3.2).
const WEIGHTS: [f64; 5] = [0.0448, 0.2856, 0.3001, 0.2363, 0.1333];

/// What one scale has.
#[derive(Debug, Clone, Copy)]
struct Similarity {
    /// Of luminance, contrast and structure: the mean over all pixels.
    all: f64,
    /// Of contrast and structure alone: the mean over those pixels whose window lies within the image, of which there are some.
    contrast: f64,
}

/// Structural similarity, the mean over all channels and pixels (Wang et al. 2004, eq. 13, with biased variances); none if a
/// side has no more than the 5 pixels that are mirrored.
///
/// # Shapes
/// `a`, `b`: `[C, height, width]`
pub(crate) fn ssim(a: &[f64], b: &[f64], size: (usize, usize)) -> Option<f64> {
    (size.0.min(size.1) > RADIUS).then(|| similarity(a, b, size).all)
}

/// Whether the window fits into the coarsest of five scales of a side: not of one of 160 pixels or fewer.
pub(crate) fn has_five_scales(side: usize) -> bool {
    side >> (WEIGHTS.len() - 1) > 2 * RADIUS
}

/// The same over five scales, each with half the pixels of the one before along each side (Wang et al. 2003); what is
/// negative counts as 0, as torchmetrics' default does it. None if the window does not fit at the coarsest.
///
/// # Shapes
/// `a`, `b`: `[C, height, width]`
pub(crate) fn multi_scale_ssim(a: &[f64], b: &[f64], (height, width): (usize, usize)) -> Option<f64> {
    if !has_five_scales(height.min(width)) {
        return None;
    }
    let (mut a, mut b, mut size) = (a.to_vec(), b.to_vec(), (height, width));
    let mut product = 1.0;
    for (scale, weight) in WEIGHTS.iter().enumerate() {
        if scale > 0 {
            (a, b) = (halved(&a, size), halved(&b, size));
            size = (size.0 / 2, size.1 / 2);
        }
        let found = similarity(&a, &b, size);
        let counts = if scale + 1 == WEIGHTS.len() { found.all } else { found.contrast };
        product *= counts.max(0.0).powf(*weight);
    }
    Some(product)
}

fn similarity(a: &[f64], b: &[f64], (height, width): (usize, usize)) -> Similarity {
    let window = gaussian();
    let planes = a.chunks(height * width).zip(b.chunks(height * width));
    let (mut all, mut contrast, mut inner) = (0.0, 0.0, 0usize);
    for (a, b) in planes {
        let product = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).collect::<Vec<f64>>();
        let blurred = |plane: &[f64]| blur(plane, (height, width), &window);
        let (mean_a, mean_b) = (blurred(a), blurred(b));
        let (aa, bb, ab) = (blurred(&product(a, a)), blurred(&product(b, b)), blurred(&product(a, b)));
        for at in 0..height * width {
            let (a, b) = (mean_a[at], mean_b[at]);
            let variances = (aa[at] - a * a).max(0.0) + (bb[at] - b * b).max(0.0);
            let of_contrast = (2.0 * (ab[at] - a * b) + C2) / (variances + C2);
            all += (2.0 * a * b + C1) / (a * a + b * b + C1) * of_contrast;
            if within(at / width, height) && within(at % width, width) {
                contrast += of_contrast;
                inner += 1;
            }
        }
    }
    Similarity { all: all / a.len() as f64, contrast: contrast / inner as f64 }
}

/// Whether the window around a place ends before the edges.
fn within(at: usize, side: usize) -> bool {
    at >= RADIUS && at + RADIUS < side
}

fn gaussian() -> [f64; 2 * RADIUS + 1] {
    let weights = std::array::from_fn(|i| {
        let distance = i as f64 - RADIUS as f64;
        (-distance * distance / (2.0 * SIGMA * SIGMA)).exp()
    });
    let sum: f64 = weights.iter().sum();
    weights.map(|weight| weight / sum)
}

/// The weighted mean around every pixel, of a plane that is mirrored beyond its edges, which are not repeated.
fn blur(plane: &[f64], (height, width): (usize, usize), window: &[f64]) -> Vec<f64> {
    let mirrored = |place: usize, side: usize| {
        let before_first = place.saturating_sub(RADIUS).max(RADIUS.saturating_sub(place));
        if before_first < side { before_first } else { 2 * (side - 1) - before_first }
    };
    let mut rows = Vec::with_capacity(plane.len());
    let mut line = vec![0.0; width + 2 * RADIUS];
    for row in plane.chunks(width) {
        line.iter_mut().enumerate().for_each(|(place, value)| *value = row[mirrored(place, width)]);
        rows.extend(
            line.windows(window.len()).map(|part| part.iter().zip(window).map(|(v, w)| v * w).sum::<f64>()),
        );
    }
    let mut all = vec![0.0; plane.len()];
    for (y, sums) in all.chunks_mut(width).enumerate() {
        for (tap, weight) in window.iter().enumerate() {
            let row = &rows[mirrored(y + tap, height) * width..][..width];
            sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += weight * value);
        }
    }
    all
}

/// The means of every 2×2 pixels; a last odd row or column is left out.
fn halved(planes: &[f64], (height, width): (usize, usize)) -> Vec<f64> {
    let quarter = |plane: &[f64], y: usize, x: usize| {
        let at = 2 * y * width + 2 * x;
        (plane[at] + plane[at + 1] + plane[at + width] + plane[at + width + 1]) / 4.0
    };
    let of_plane = |plane: &[f64]| {
        let places = (0..height / 2).flat_map(|y| (0..width / 2).map(move |x| (y, x)));
        places.map(|(y, x)| quarter(plane, y, x)).collect::<Vec<_>>()
    };
    planes.chunks(height * width).flat_map(of_plane).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One row per case: height, width, SSIM of two pairs, and MS-SSIM where it exists, recorded by
    /// `scripts/record_similarity.py` from torchmetrics in double precision (its weights of scales are single).
    const RECORDED: &str = include_str!("../tests/data/similarity.json");

    #[derive(serde::Deserialize)]
    struct Recorded {
        height: usize,
        width: usize,
        near: [Option<f64>; 2],
        far: [Option<f64>; 2],
    }

    fn image((height, width): (usize, usize), value: impl Fn(usize, usize, usize) -> usize) -> Vec<f64> {
        let places = (0..3).flat_map(|c| (0..height).flat_map(move |y| (0..width).map(move |x| (x, y, c))));
        places.map(|(x, y, c)| (value(x, y, c) % 256) as f64 / 255.0).collect()
    }

    #[test]
    fn values_are_those_of_torchmetrics() {
        let ramp = |x: usize, y: usize, c: usize| x * 7 + y * 13 + c * 29;
        let near = |x: usize, y: usize, c: usize| ramp(x, y, c) + (x * x + 3 * y + c * 5) % 23;
        let far = |x: usize, y: usize, c: usize| x * y * 3 + c * 71;
        let cases: Vec<Recorded> = serde_json::from_str(RECORDED).unwrap();
        assert!(cases.iter().any(|case| case.near[1].is_some()));
        for case in cases {
            let size = (case.height, case.width);
            let (a, pairs) =
                (image(size, ramp), [(image(size, near), case.near), (image(size, far), case.far)]);
            for (b, expected) in pairs {
                let found = [ssim(&a, &b, size), multi_scale_ssim(&a, &b, size)];
                for (found, expected) in found.into_iter().zip(expected) {
                    let same = match (found, expected) {
                        (Some(found), Some(expected)) => (found - expected).abs() < 1e-8,
                        (found, expected) => found == expected,
                    };
                    assert!(same, "{size:?}: {found:?}, not {expected:?}");
                }
            }
        }
    }

    #[test]
    fn equal_planes_are_alike_at_every_scale() {
        let plane = image((176, 180), |x, y, c| x * 9 + y * 5 + c);
        let found = [ssim(&plane, &plane, (176, 180)), multi_scale_ssim(&plane, &plane, (176, 180))];
        assert!(found.iter().all(|found| (found.unwrap() - 1.0).abs() < 1e-12), "{found:?}");
        assert_eq!(ssim(&plane[..15], &plane[..15], (5, 1)), None);
    }
}
