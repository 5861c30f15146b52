//! Images that are asked for, wherever they lie: of the hub's data sets, the files of the part that is asked for are fetched
//! into its cache first.

use std::path::{Path, PathBuf};

use anyhow::Result;
use semanticist_data::{Source, Split};
use semanticist_hub::{Dataset, Hub};

use crate::fetch;

/// The images at these paths, addresses and names; each is a source that may have a weight.
pub fn open(paths: &[PathBuf], split: Split) -> Result<Source> {
    let groups = paths.iter().map(|path| here(path, split)).collect::<Result<Vec<_>>>()?;
    Ok(Source::open_groups(&groups, split)?)
}

/// Where what is asked for lies on this machine, if it has to be here.
fn here(path: &Path, split: Split) -> Result<Vec<PathBuf>> {
    let name = path.to_str().filter(|_| !path.exists());
    let Some(dataset) = name.map(Dataset::parse).transpose()?.flatten() else {
        return Ok(vec![path.to_path_buf()]);
    };
    if let Some(file) = dataset.file() {
        return Ok(vec![fetch::find(&file)?]);
    }
    let files = dataset.files(&Hub::from_env()?)?;
    let names = files.iter().map(|file| PathBuf::from(&file.file)).collect();
    let chosen = split.choose(path, names)?;
    let chosen = files.iter().filter(|file| chosen.iter().any(|name| name == Path::new(&file.file)));
    chosen.map(fetch::find).collect()
}
