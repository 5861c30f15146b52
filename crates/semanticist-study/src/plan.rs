//! What is shown to whom: the file of a study, and the trials of a participant.

use std::fs;
use std::path::{Path, PathBuf};

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use semanticist::files::write_atomically;
use semanticist::image::{RgbImage, save_png};
use semanticist::{Error, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

const FILE: &str = "study.json";
const PICTURES: &str = "pictures";

/// The version of the file.
const FORMAT: u32 = 1;

/// Frames of a common screen, and what nobody waits for, in milliseconds.
const REVEAL: std::ops::RangeInclusive<u32> = 16..=10_000;

/// What a study asks, apart from its pictures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// What participants read at the top.
    pub title: String,
    /// What they agree to before they begin; paragraphs are separated by empty lines.
    pub consent: String,
    /// Of the order of pictures and conditions, and of who is left and who is right.
    pub seed: u64,
    /// How long the two pictures are shown, in milliseconds: each from 16 to 10,000.
    pub reveal_ms: Vec<u32>,
    /// Trials of a participant that count; none shows a picture for the second time.
    pub trials: usize,
    /// Trials before them that do not count.
    pub practice: usize,
    /// When the original is shown.
    pub original: OriginalShown,
    /// Of an original that is shown before, for how long, in milliseconds.
    pub original_ms: u32,
}

/// When participants see the original. The paper says that the others are revealed and that then the question is asked, not
/// when the original is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OriginalShown {
    /// Before the two pictures, for a time.
    Before,
    /// After them, beside the question.
    After,
}

/// An image of a study, with what is compared.
#[derive(Debug, Clone)]
pub struct Item {
    /// What it is called in results.
    pub name: String,
    /// The image.
    pub original: RgbImage,
    /// What says the same in another way.
    pub distractor: RgbImage,
    /// One picture for each series.
    pub generated: Vec<RgbImage>,
}

/// One of the pictures of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Picture {
    /// The image itself.
    Original,
    /// What it is compared with.
    Distractor,
    /// That of a series, by its place.
    Generated(usize),
}

/// What a participant sees in one go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    /// Which image, by its place among the items.
    pub item: usize,
    /// Which series, by its place.
    pub series: usize,
    /// For how long the two are shown, in milliseconds.
    pub reveal_ms: u32,
    /// Whether the generated picture is on the left.
    pub generated_left: bool,
    /// Whether it does not count.
    pub practice: bool,
}

/// An opened study.
#[derive(Debug, Clone)]
pub struct Study {
    folder: PathBuf,
    file: StudyFile,
    fingerprint: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StudyFile {
    format: u32,
    plan: Plan,
    /// What is compared with the distractor, such as "2 tokens".
    series: Vec<String>,
    /// The names of the images, in the order of their folders.
    items: Vec<String>,
    /// Of what the pictures were made: model, data, command.
    made_of: serde_json::Value,
}

impl Study {
    /// Writes a study into a folder that is empty or does not exist. It is made beside its name (`NAME.part`) and renamed, so
    /// that half a study is none. The plan is checked before the first picture is asked for.
    ///
    /// # Errors
    /// If the plan makes no sense, something is in the folder, an item is an error, or it cannot be written; nothing is left then.
    ///
    /// # Panics
    /// If an item has not one picture for each series.
    pub fn create(
        folder: &Path,
        plan: Plan,
        series: Vec<String>,
        made_of: serde_json::Value,
        items: impl ExactSizeIterator<Item = Result<Item>>,
    ) -> Result<Self> {
        let mut file = StudyFile { format: FORMAT, plan, series, items: Vec::new(), made_of };
        file.check(&folder.join(FILE), items.len())?;
        if fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(Error::file(folder, "is not empty; a study takes a folder of its own"));
        }
        let mut name = folder.as_os_str().to_os_string();
        name.push(".part");
        let part = PathBuf::from(name);
        // Of an earlier call that was cut off.
        let _ = fs::remove_dir_all(&part);
        let made = file
            .write(&part, items)
            .and_then(|()| fs::rename(&part, folder).map_err(|error| Error::io(folder, "create", error)));
        if let Err(error) = made {
            let _ = fs::remove_dir_all(&part);
            return Err(error);
        }
        Self::open(folder)
    }

    /// Opens a study.
    ///
    /// # Errors
    /// If it cannot be read, makes no sense, or a picture is missing.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        let text = fs::read_to_string(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                Error::file(folder, format!("holds no {FILE}; make a study with `semanticist study new`"))
            }
            _ => Error::io(&path, "read", error),
        })?;
        let file: StudyFile = serde_json::from_str(&text)
            .map_err(|error| Error::file(&path, format!("is no study: {error}")))?;
        file.check(&path, file.items.len())?;
        let digest = Sha256::digest(text.as_bytes());
        let fingerprint = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let study = Self { folder: folder.to_path_buf(), file, fingerprint };
        for item in 0..study.items().len() {
            for picture in study.pictures() {
                let path = study.picture_path(item, picture);
                if !path.is_file() {
                    return Err(Error::file(path, "is not there; make the study again"));
                }
            }
        }
        Ok(study)
    }

    /// What is asked.
    pub fn plan(&self) -> &Plan {
        &self.file.plan
    }

    /// What is compared with the distractor, by name.
    pub fn series(&self) -> &[String] {
        &self.file.series
    }

    /// The names of the images.
    pub fn items(&self) -> &[String] {
        &self.file.items
    }

    /// SHA-256 of its file, in hexadecimal: answers belong to it.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Where its answers are.
    pub fn answers_path(&self) -> PathBuf {
        self.folder.join("answers.sqlite")
    }

    /// The file of a picture, a PNG.
    pub fn picture_path(&self, item: usize, picture: Picture) -> PathBuf {
        self.folder.join(PICTURES).join(format!("{item:05}")).join(file_name(picture))
    }

    fn pictures(&self) -> impl Iterator<Item = Picture> + use<> {
        let generated = (0..self.file.series.len()).map(Picture::Generated);
        [Picture::Original, Picture::Distractor].into_iter().chain(generated)
    }

    /// What a participant sees, practice first: the same for the same number. Every pair of a series and a time comes equally
    /// often, as near as their number allows, and whose turn it is to come once more goes round with the participants; the
    /// generated picture is on either side in half of the trials.
    pub fn trials(&self, participant: u64) -> Vec<Trial> {
        let Plan { seed, reveal_ms, trials, practice, .. } = &self.file.plan;
        let mut rng = ChaCha8Rng::seed_from_u64(*seed);
        rng.set_stream(participant);
        let conditions: Vec<(usize, u32)> = (0..self.series().len())
            .flat_map(|series| reveal_ms.iter().map(move |&reveal| (series, reveal)))
            .collect();
        let first = (participant as usize).wrapping_mul(*trials) % conditions.len();
        let mut shown: Vec<(usize, u32)> =
            conditions.iter().cycle().skip(first).take(*trials).copied().collect();
        shown.shuffle(&mut rng);
        let extra = rng.random_range(0..2);
        let mut left: Vec<bool> = (0..*trials).map(|at| (at + extra) % 2 == 0).collect();
        left.shuffle(&mut rng);
        let mut items: Vec<usize> = (0..self.items().len()).collect();
        items.shuffle(&mut rng);
        // Practice takes images that do not come later, if there are any.
        let spare = items.iter().skip(*trials).chain(&items).take(*practice);
        let practice: Vec<Trial> = spare
            .map(|&item| {
                let (series, reveal_ms) = conditions[rng.random_range(0..conditions.len())];
                Trial { item, series, reveal_ms, generated_left: rng.random_bool(0.5), practice: true }
            })
            .collect();
        let counted = shown.into_iter().zip(left).zip(items).map(|(((series, reveal_ms), left), item)| {
            Trial { item, series, reveal_ms, generated_left: left, practice: false }
        });
        practice.into_iter().chain(counted).collect()
    }
}

impl StudyFile {
    /// Writes pictures and, last, itself, with the names of the items.
    fn write(&mut self, folder: &Path, items: impl Iterator<Item = Result<Item>>) -> Result<()> {
        for item in items {
            let Item { name, original, distractor, generated } = item?;
            assert_eq!(generated.len(), self.series.len(), "pictures of {name}");
            let place = folder.join(PICTURES).join(format!("{:05}", self.items.len()));
            fs::create_dir_all(&place).map_err(|error| Error::io(&place, "create", error))?;
            let pictures = [(Picture::Original, original), (Picture::Distractor, distractor)];
            let made = generated.into_iter().enumerate().map(|(at, it)| (Picture::Generated(at), it));
            for (picture, image) in pictures.into_iter().chain(made) {
                save_png(&image, &place.join(file_name(picture)))?;
            }
            self.items.push(name);
        }
        let text = serde_json::to_string_pretty(self).expect("texts and numbers") + "\n";
        write_atomically(&folder.join(FILE), |out| std::io::Write::write_all(out, text.as_bytes()))
    }

    /// Of a study with so many items.
    fn check(&self, path: &Path, items: usize) -> Result<()> {
        let refuse = |problem: String| Err(Error::file(path, problem));
        let Self { format, plan, series, .. } = self;
        if *format != FORMAT {
            return refuse(format!("is of format {format}, expected {FORMAT}"));
        }
        if series.is_empty() {
            return refuse("has no series: nothing would be compared".into());
        }
        if let Some(twice) = series.iter().enumerate().find(|(at, name)| series[..*at].contains(name)) {
            return refuse(format!("has the series \"{}\" twice; give each a name of its own", twice.1));
        }
        if plan.reveal_ms.is_empty() {
            return refuse("has no reveal time; expected milliseconds such as 100, 200, 300".into());
        }
        if let Some(reveal) = plan.reveal_ms.iter().find(|reveal| !REVEAL.contains(reveal)) {
            return refuse(format!("reveals for {reveal} ms, expected 16 to 10000"));
        }
        if plan.original == OriginalShown::Before && !REVEAL.contains(&plan.original_ms) {
            return refuse(format!("shows the original for {} ms, expected 16 to 10000", plan.original_ms));
        }
        if plan.trials == 0 || plan.trials > items {
            return refuse(format!(
                "has {} trials and {items} images, of which none is shown twice; expected 1 to {items} trials",
                plan.trials
            ));
        }
        if plan.practice > items {
            return refuse(format!("has {} practice trials, but {items} images", plan.practice));
        }
        Ok(())
    }
}

fn file_name(picture: Picture) -> String {
    match picture {
        Picture::Original => "original.png".into(),
        Picture::Distractor => "distractor.png".into(),
        Picture::Generated(series) => format!("generated-{series}.png"),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    pub(crate) fn plan() -> Plan {
        Plan {
            title: "Which is nearer?".into(),
            consent: "Nothing but your answers is kept.".into(),
            seed: 3,
            reveal_ms: vec![100, 200, 300],
            trials: 12,
            practice: 2,
            original: OriginalShown::Before,
            original_ms: 1500,
        }
    }

    pub(crate) fn study(folder: &Path, plan: Plan) -> Result<Study> {
        let items = (0..14u8).map(|number| {
            let image = |shade: u8| RgbImage::from_pixel(4, 4, [number, shade, 0].into());
            let generated = vec![image(2), image(3)];
            Ok(Item { name: format!("image {number}"), original: image(0), distractor: image(1), generated })
        });
        let series = ["1 token", "2 tokens"].map(String::from).to_vec();
        Study::create(folder, plan, series, serde_json::json!({"model": "none"}), items)
    }

    #[test]
    fn every_participant_sees_every_condition_equally_often_and_no_image_twice() {
        let folder = tempfile::tempdir().unwrap();
        let study = study(&folder.path().join("study"), plan()).unwrap();
        let mut orders = BTreeSet::new();
        for participant in 0..20 {
            let trials = study.trials(participant);
            assert_eq!(trials, study.trials(participant));
            let (practice, counted) = trials.split_at(2);
            assert!(
                practice.iter().all(|trial| trial.practice) && counted.iter().all(|trial| !trial.practice)
            );
            let mut conditions = BTreeMap::new();
            counted.iter().for_each(|it| *conditions.entry((it.series, it.reveal_ms)).or_insert(0) += 1);
            assert_eq!(conditions.into_values().collect::<Vec<_>>(), [2; 6]);
            assert_eq!(counted.iter().filter(|trial| trial.generated_left).count(), 6);
            // Two images are left for practice.
            assert_eq!(trials.iter().map(|trial| trial.item).collect::<BTreeSet<_>>().len(), 14);
            orders.insert(trials.iter().map(|trial| trial.item).collect::<Vec<_>>());
        }
        assert_eq!(orders.len(), 20);
    }

    #[test]
    fn who_sees_a_condition_once_more_goes_round() {
        let folder = tempfile::tempdir().unwrap();
        let study = study(&folder.path().join("study"), Plan { trials: 4, ..plan() }).unwrap();
        let mut conditions = BTreeMap::new();
        let counted = (0..6).flat_map(|participant| study.trials(participant)).filter(|it| !it.practice);
        counted.for_each(|it| *conditions.entry((it.series, it.reveal_ms)).or_insert(0) += 1);
        assert_eq!(conditions.into_values().collect::<Vec<_>>(), [4; 6]);
    }

    #[test]
    fn a_study_is_read_back_and_what_makes_no_sense_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("study");
        let made = study(&place, plan()).unwrap();
        let read = Study::open(&place).unwrap();
        assert_eq!((read.plan(), read.fingerprint()), (made.plan(), made.fingerprint()));
        let shown = semanticist::image::open(&read.picture_path(7, Picture::Generated(1))).unwrap();
        assert_eq!(shown.get_pixel(0, 0).0, [7, 3, 0]);
        let again = study(&place, plan()).unwrap_err().to_string();
        assert!(again.contains("not empty"), "{again}");
        let refused = |plan: Plan, expected: &str| {
            let place = tempfile::tempdir().unwrap();
            let message = study(place.path(), plan).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
            assert!(Study::open(place.path()).unwrap_err().to_string().contains("study new"));
        };
        refused(Plan { trials: 15, ..plan() }, "15 trials and 14 images");
        refused(Plan { trials: 0, ..plan() }, "0 trials");
        refused(Plan { reveal_ms: vec![], ..plan() }, "no reveal time");
        refused(Plan { reveal_ms: vec![100, 5], ..plan() }, "reveals for 5 ms");
        refused(Plan { original_ms: 0, ..plan() }, "original for 0 ms");
        refused(Plan { practice: 15, ..plan() }, "15 practice trials");
        // What fails on the way leaves nothing, and the same place can be used again.
        let retried = folder.path().join("retried");
        let half = (0..20).map(|at| match at {
            0..5 => Ok(Item {
                name: format!("{at}"),
                original: RgbImage::new(1, 1),
                distractor: RgbImage::new(1, 1),
                generated: vec![RgbImage::new(1, 1)],
            }),
            _ => Err(Error::Data("no more".into())),
        });
        let failed = Study::create(&retried, plan(), vec!["a".into()], serde_json::Value::Null, half);
        assert!(failed.unwrap_err().to_string().contains("no more"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        study(&retried, plan()).unwrap();
        fs::remove_file(read.picture_path(3, Picture::Distractor)).unwrap();
        assert!(Study::open(&place).unwrap_err().to_string().contains("distractor.png"));
        fs::write(place.join(FILE), "{}").unwrap();
        assert!(Study::open(&place).unwrap_err().to_string().contains("is no study"));
    }
}
