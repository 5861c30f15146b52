//! Pictures of the measured images by other tokenizers: whether each is of its image, as far as files can tell.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;

use semanticist::{Error, Result};
use semanticist_data::Source;

/// Checks that there is a picture for every image, and that equal names stand in the same order.
///
/// # Errors
/// Says what does not fit.
pub(super) fn check(series: &str, pictures: &Source, images: &Source, measured: usize) -> Result<()> {
    let (found, all) = (pictures.len(), images.len());
    if found != all && found != measured {
        return Err(Error::Data(format!(
            "--series {series}: {found} images, but the data has {all}; give one picture per image, in the same order"
        )));
    }
    if found != all {
        return Err(Error::Data(format!(
            "--series {series}: {found} images for {measured} of {all}; which belong together cannot be known: give \
             pictures of all, or measure all with --images {all}"
        )));
    }
    let (Some(pictures), Some(images)) = (pictures.file_names(), images.file_names()) else { return Ok(()) };
    let (pictures, images) = (stems(&pictures), stems(&images));
    let differs = (0..all).find(|&at| pictures[at] != images[at]);
    // Other names are of another way to number pictures; the same ones in another order are other pairs.
    match differs.filter(|_| counted(&pictures) == counted(&images)) {
        None => Ok(()),
        Some(at) => Err(Error::Data(format!(
            "--series {series}: the pictures have the names of the images, but in another order: number {} is {}, where the \
             data has {}; put them into folders as the data is, or number them in its order",
            at + 1,
            pictures[at].to_string_lossy(),
            images[at].to_string_lossy()
        ))),
    }
}

/// Checks that a picture shows all that its image shows, and is large enough.
///
/// # Errors
/// If it is neither a square of at least `size` pixels nor of the size of its image.
pub(super) fn check_size(
    name: &str,
    picture: (u32, u32),
    (image, original): (&str, (u32, u32)),
    size: usize,
) -> Result<()> {
    let (width, height) = picture;
    if picture == original || (width == height && width as usize >= size) {
        return Ok(());
    }
    Err(Error::Data(format!(
        "{name}: {width}×{height} pixels, but {image} has {}×{}; expected a picture of that size, or its middle square of \
         {size}×{size} pixels or more",
        original.0, original.1
    )))
}

/// Names without extensions, which another tokenizer writes differently.
fn stems<'a>(names: &[&'a OsStr]) -> Vec<&'a OsStr> {
    names.iter().map(|&name| Path::new(name).file_stem().unwrap_or(name)).collect()
}

fn counted<'a>(names: &[&'a OsStr]) -> BTreeMap<&'a OsStr, usize> {
    let mut counts = BTreeMap::new();
    names.iter().for_each(|name| *counts.entry(*name).or_default() += 1);
    counts
}
