//! Mean and covariance of features in a file: what a Fréchet distance compares with, without the images.
//!
//! The layouts are those of pytorch-fid (`mu`, `sigma`) and of ADM's reference batches (`mu_s`, `sigma_s` besides, for sFID;
//! openai/guided-diffusion, `evaluations/evaluator.py`). What we write has all that the network gives, and says in the comment
//! of the archive, which NumPy does not read, of what it was made.

use std::path::Path;

use semanticist::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::frechet::Gaussian;
use crate::npz::{self, Archive, Array};

/// What files of statistics are called that many papers compare with, and that were made of training images: those of ADM, and of
/// U-ViT, MAR and JiT after them.
const OF_TRAINING: &[&str] = &["VIRTUAL_", "fid_stats_imagenet", "adm_in256_stats", "jit_in"];

/// Statistics of a set of images.
#[derive(Debug, Clone)]
pub struct Statistics {
    /// Of the features.
    pub gaussian: Gaussian,
    /// Of the features of sFID.
    pub spatial: Option<Gaussian>,
    /// What they were made of, if the file says so: those of other programs do not.
    pub origin: Option<Origin>,
}

/// What statistics were made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// Which network: `inception`, `inception-tf`, `dinov2` or `classifier`.
    pub features: String,
    /// SHA-256 of its weights.
    pub weights: String,
    /// How many images.
    pub images: usize,
    /// Side of the squares, in pixels.
    pub image_size: usize,
    /// How images became squares of that size.
    pub crop: String,
    /// The fingerprint of the data.
    pub data: String,
    /// Which part of it.
    pub part: Part,
}

/// Which part of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// All of it.
    All,
    /// What models learn from.
    Training,
    /// What they do not learn from.
    Validation,
}

impl Statistics {
    /// Reads a file.
    ///
    /// # Errors
    /// If it is no `.npz` file, or has none of the layouts.
    pub fn read(path: &Path) -> Result<Self> {
        let mut archive = Archive::open(path)?;
        let gaussian = gaussian(&mut archive, path, ["mu", "sigma"])?.ok_or_else(|| {
            let names = archive.names().join(", ");
            Error::file(
                path,
                format!(
                    "has no mu and sigma but [{names}]; expected statistics of pytorch-fid (mu, sigma) or ADM (mu, sigma, mu_s, \
                     sigma_s)"
                ),
            )
        })?;
        let spatial = self::gaussian(&mut archive, path, ["mu_s", "sigma_s"])?;
        // A comment that is not ours says nothing of what we ask.
        let origin = serde_json::from_slice(archive.comment()).ok();
        Ok(Self { gaussian, spatial, origin })
    }

    /// Writes a file that NumPy, pytorch-fid and ADM's evaluator read.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut arrays = Vec::new();
        let of_set = [(Some(&self.gaussian), ["mu", "sigma"]), (self.spatial.as_ref(), ["mu_s", "sigma_s"])];
        for (gaussian, [mean, covariance]) in of_set {
            let Some(gaussian) = gaussian else { continue };
            let dimensions = gaussian.dimensions();
            arrays.push((mean, vec![dimensions], gaussian.mean()));
            arrays.push((covariance, vec![dimensions; 2], gaussian.covariance()));
        }
        let comment = self
            .origin
            .as_ref()
            .map_or_else(String::new, |origin| serde_json::to_string(origin).expect("texts and numbers"));
        npz::write(path, &arrays, &comment)
    }
}

/// Whether statistics are known to be those of training images: by what they say, or by the name of a file that many papers
/// compare with. `training` is the fingerprint of images that are known to be such.
pub fn of_training(origin: Option<&Origin>, path: &Path, training: Option<&str>) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    match origin {
        Some(Origin { part, data, .. }) => {
            *part == Part::Training || (*part == Part::All && Some(data.as_str()) == training)
        }
        None => OF_TRAINING.iter().any(|known| name.starts_with(known)),
    }
}

fn gaussian(archive: &mut Archive, path: &Path, [mean, covariance]: [&str; 2]) -> Result<Option<Gaussian>> {
    let (Some(mu), Some(sigma)) = (archive.array(mean)?, archive.array(covariance)?) else {
        return Ok(None);
    };
    let Array { shape, values } = sigma;
    let square = matches!(shape[..], [rows, columns] if rows == columns && mu.shape == [rows]);
    if !square || mu.values.is_empty() {
        let found = format!("{mean} is {:?} and {covariance} {shape:?}", mu.shape);
        return Err(Error::file(path, format!("{found}; expected D numbers and a square of D rows")));
    }
    let gaussian = Gaussian::new(mu.values, &values);
    gaussian.map(Some).map_err(|error| Error::file(path, format!("{mean}, {covariance}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by `scripts/record_statistics.py` with NumPy, and the distances with pytorch-fid's formula and scipy.
    fn recorded(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/statistics").join(name)
    }

    #[derive(Deserialize)]
    struct Distances {
        fid: f64,
        sfid: f64,
    }

    #[test]
    fn files_of_numpy_are_read_and_distances_are_those_of_scipy() {
        let text = std::fs::read_to_string(recorded("distances.json")).unwrap();
        let expected: Distances = serde_json::from_str(&text).unwrap();
        let [plain, adm] =
            ["pytorch_fid.npz", "adm.npz"].map(|name| Statistics::read(&recorded(name)).unwrap());
        assert!(plain.spatial.is_none() && plain.origin.is_none() && adm.origin.is_none());
        let close =
            |found: f64, expected: f64| assert!((found / expected - 1.0).abs() < 1e-6, "{found} {expected}");
        close(plain.gaussian.distance(&adm.gaussian).unwrap(), expected.fid);
        close(adm.gaussian.distance(&plain.gaussian).unwrap(), expected.fid);
        // Of the other set, in a compressed archive by columns and in single precision for the means.
        let other = Statistics::read(&recorded("compressed.npz")).unwrap();
        close(adm.spatial.unwrap().distance(&other.spatial.unwrap()).unwrap(), expected.sfid);
        close(other.gaussian.distance(&adm.gaussian).unwrap(), expected.fid);
    }

    fn origin(part: Part) -> Origin {
        Origin {
            features: "inception".into(),
            weights: "12".into(),
            images: 7,
            image_size: 32,
            crop: "middle".into(),
            data: "7:aa".into(),
            part,
        }
    }

    #[test]
    fn what_is_written_is_read_back_to_the_last_bit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.npz");
        let made =
            Statistics { origin: Some(origin(Part::All)), ..Statistics::read(&recorded("adm.npz")).unwrap() };
        made.write(&path).unwrap();
        let read = Statistics::read(&path).unwrap();
        assert_eq!(read.origin, made.origin);
        for (a, b) in [(&read.gaussian, &made.gaussian), (&read.spatial.unwrap(), &made.spatial.unwrap())] {
            assert_eq!((a.mean(), a.covariance()), (b.mean(), b.covariance()));
        }
    }

    #[test]
    fn statistics_of_training_images_are_known() {
        let known =
            |origin: Option<Origin>, path: &str| of_training(origin.as_ref(), Path::new(path), Some("7:aa"));
        assert!(known(Some(origin(Part::Training)), "x.npz") && known(Some(origin(Part::All)), "x.npz"));
        assert!(!known(Some(origin(Part::Validation)), "VIRTUAL_x.npz") && !known(None, "x.npz"));
        assert!(known(None, "refs/VIRTUAL_imagenet256_labeled.npz"));
    }

    #[test]
    fn what_are_no_statistics_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.npz");
        let refused = || Statistics::read(&path).unwrap_err().to_string();
        assert!(refused().contains("cannot read"));
        std::fs::write(&path, "hello").unwrap();
        assert!(refused().contains("is no .npz file"), "{}", refused());
        npz::write(&path, &[("arr_0", vec![2], &[0.0; 2])], "").unwrap();
        assert!(refused().contains("but [arr_0]"), "{}", refused());
        npz::write(&path, &[("mu", vec![2], &[0.0; 2]), ("sigma", vec![3, 3], &[0.0; 9])], "").unwrap();
        assert!(refused().contains("mu is [2] and sigma [3, 3]"), "{}", refused());
        npz::write(&path, &[("mu", vec![1], &[f64::NAN]), ("sigma", vec![1, 1], &[1.0])], "").unwrap();
        assert!(refused().contains("not finite"), "{}", refused());
        // However it is cut.
        let whole = std::fs::read(recorded("compressed.npz")).unwrap();
        for length in (0..whole.len()).step_by(97) {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(Statistics::read(&path).is_err(), "{length} bytes");
        }
    }
}
