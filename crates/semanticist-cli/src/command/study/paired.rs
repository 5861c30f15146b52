//! Pictures that belong to photos: by name, or else by their order.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use semanticist::Error;
use semanticist::image::RgbImage;
use semanticist_data::{Chunk, Source, Split};

use crate::command::sources;

/// A photo, and its place among those of the data.
pub struct Photo {
    pub name: String,
    pub label: Option<i64>,
    pub image: RgbImage,
}

/// One picture for each photo, in their order. If all photos are files and there is a file of each one's name, whatever its
/// extension, names decide; else their number has to be that of the photos, or that of all the data.
///
/// # Errors
/// If it is neither, or a picture cannot be read.
pub fn pictures(option: &str, path: &Path, photos: &[Photo], data: &Source) -> Result<Vec<RgbImage>> {
    let source = sources::open(&[path.to_path_buf()], Split::All)?;
    if let Some(paths) = by_name(&source, photos) {
        return Ok(paths.iter().map(|path| semanticist::image::open(path)).collect::<Result<_, _>>()?);
    }
    let found = source.len();
    if found != photos.len() && found != data.len() {
        return Err(Error::Data(format!(
            "{option} {}: {found} pictures, which have not the names of the {} photos; expected as many as there are photos, or as \
             the data has ({}), in their order, or files of their names",
            path.display(),
            photos.len(),
            data.len()
        ))
        .into());
    }
    let records = source.spread_records(photos.len());
    records
        .map(|record| {
            let record = record?;
            Ok(semanticist::image::decode(&record.name, &record.bytes)?)
        })
        .collect()
}

fn by_name(source: &Source, photos: &[Photo]) -> Option<Vec<PathBuf>> {
    let files = source.chunks().iter().map(|chunk| match chunk {
        Chunk::File { path, .. } => Some(path),
        _ => None,
    });
    let files: Vec<&PathBuf> = files.collect::<Option<_>>()?;
    let mut by_stem: HashMap<_, Vec<&PathBuf>> = HashMap::new();
    files.iter().for_each(|path| by_stem.entry(path.file_stem()).or_default().push(path));
    let of = |photo: &Photo| match by_stem.get(&Path::new(&photo.name).file_stem()).map(Vec::as_slice) {
        Some([path]) => Some((*path).clone()),
        _ => None,
    };
    photos.iter().map(of).collect()
}
