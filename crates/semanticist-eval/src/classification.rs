//! Which classes a classifier sees in images, and how often it is right.

use std::cmp::Ordering;

use burn::tensor::activation::{log_softmax, softmax};
use burn::tensor::{Device, Tensor};
use semanticist::image::{RgbImage, to_pixels};
use semanticist::model::ClassifierModel;
use semanticist::{Classifier, Error, Pixels, Result};
use semanticist_data::{Record, Source, transform};
use serde::{Deserialize, Serialize};

/// Images that go through the network together.
pub const BATCH: usize = 64;

/// How probable a class is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Prediction {
    /// Its number.
    pub class: usize,
    /// What to call it.
    pub name: String,
    /// In `[0, 1]`.
    pub probability: f64,
}

/// The `top` most probable classes of every image, the most probable first.
///
/// # Shapes
/// `[B, 3, H, W]` -> B lists
///
/// # Errors
/// If the images are of another size than the classifier's.
pub fn predictions(model: &ClassifierModel, images: &Pixels, top: usize) -> Result<Vec<Vec<Prediction>>> {
    let probabilities = softmax(model.classifier.logits(images)?, 1); // [B, C]
    let classes = model.classifier.config.classes;
    let values: Vec<f64> = probabilities.into_data().iter().collect();
    let of_image = |values: &[f64]| {
        let mut order: Vec<usize> = (0..classes).collect();
        order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
        let prediction =
            |&class: &usize| Prediction { class, name: model.class_name(class), probability: values[class] };
        order.iter().take(top).map(prediction).collect()
    };
    Ok(values.chunks(classes).map(of_image).collect())
}

/// Which classes of a classifier the labels of a data set mean: those of the same name, or where the data or the
/// classifier has no names, of the same number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels {
    /// How many classes the classifier has.
    classes: usize,
    /// The class of every label, if there are names.
    named: Option<Vec<usize>>,
}

impl Labels {
    /// Of a classifier of `count` classes with these names, if it has any, and data with those.
    ///
    /// # Errors
    /// If the data names a class that the classifier does not know.
    pub fn new(count: usize, names: &[String], data: Option<&[String]>) -> Result<Self> {
        let Some(data) = data.filter(|_| !names.is_empty()) else {
            return Ok(Self { classes: count, named: None });
        };
        let find = |wanted: &String| names.iter().position(|name| name == wanted);
        let unknown: Vec<&str> =
            data.iter().filter(|name| find(name).is_none()).map(String::as_str).collect();
        if unknown.is_empty() {
            return Ok(Self { classes: count, named: Some(data.iter().filter_map(find).collect()) });
        }
        const SHOWN: usize = 3;
        let list = |names: &[&str]| format!("\"{}\"", names[..names.len().min(SHOWN)].join("\", \""));
        let known: Vec<&str> = names.iter().map(String::as_str).collect();
        Err(Error::Data(format!(
            "the classifier does not know {} of the {} classes of the data, such as {}; it knows {count}, such as \
             {}: give data of the classes that it was trained on, under the same names",
            unknown.len(),
            data.len(),
            list(&unknown),
            list(&known),
        )))
    }

    /// The class that an image's label means; `name` is what errors call the image.
    ///
    /// # Errors
    /// If it has no label, or one that no class has.
    pub fn class(&self, name: &str, label: Option<i64>) -> Result<usize> {
        let Some(label) = label else {
            return Err(Error::Data(format!(
                "{name}: has no class; expected folders of class folders, or Parquet files with a column `label`"
            )));
        };
        let labels = self.named.as_ref().map_or(self.classes, Vec::len);
        let number = usize::try_from(label).ok().filter(|number| *number < labels);
        let number = number.ok_or_else(|| {
            Error::Data(format!("{name}: has the label {label}; expected one from 0, below {labels}"))
        })?;
        Ok(self.named.as_ref().map_or(number, |named| named[number]))
    }
}

/// Up to `count` images spread evenly over a source, cropped to `size`, each with its class; broken ones are left out.
/// They are decoded as they are asked for.
pub fn labelled_images<'a>(
    source: &'a Source,
    count: usize,
    size: usize,
    labels: &'a Labels,
) -> impl Iterator<Item = Result<(RgbImage, usize)>> + 'a {
    let decoded = move |Record { name, label, bytes }| {
        let image = semanticist::image::decode(&name, &bytes)?;
        Ok((transform::evaluation(&image, size), labels.class(&name, label)?))
    };
    source.spread_records(count).filter_map(move |record| match record.and_then(decoded) {
        Err(Error::Image { .. }) => None,
        found => Some(found),
    })
}

/// How often a classifier is right.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Accuracy {
    /// How many images it was shown.
    pub images: usize,
    /// Of how many the most probable class is the right one, in `[0, 1]`.
    pub top1: f64,
    /// Of how many the right one is among the five most probable, in `[0, 1]`.
    pub top5: f64,
    /// The mean of the right class's negative log probability, in nats.
    pub cross_entropy: f64,
}

/// [`Accuracy`] while images come in, of which one batch at a time is in memory.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct AccuracyCount {
    images: usize,
    first: usize,
    among_five: usize,
    cross_entropy: f64,
}

impl AccuracyCount {
    /// Shows some more images to a classifier. `after_batch` is called with the number of images in each batch.
    ///
    /// # Errors
    /// If an image cannot be had, or is of another size than the classifier's.
    pub fn add(
        &mut self,
        classifier: &Classifier,
        mut images: impl Iterator<Item = Result<(RgbImage, usize)>>,
        device: &Device,
        mut after_batch: impl FnMut(usize),
    ) -> Result<()> {
        loop {
            let batch = images.by_ref().take(BATCH).collect::<Result<Vec<_>>>()?;
            if batch.is_empty() {
                return Ok(());
            }
            let (images, classes): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
            self.count(classifier.logits(&to_pixels(&images, device))?, &classes);
            after_batch(images.len());
        }
    }

    /// Counts some more answers. Of classes of equal logits the first goes first.
    ///
    /// # Shapes
    /// `logits`: `[B, C]`, `classes`: B numbers below C
    ///
    /// # Panics
    /// If the sizes do not agree.
    pub fn count(&mut self, logits: Tensor<2>, classes: &[usize]) {
        let [batch, all] = logits.dims();
        assert_eq!(batch, classes.len(), "one class for each answer");
        let values: Vec<f64> = log_softmax(logits, 1).into_data().iter().collect();
        for (values, &class) in values.chunks(all).zip(classes) {
            let before = |(other, value): (usize, &f64)| match value.total_cmp(&values[class]) {
                Ordering::Greater => true,
                Ordering::Equal => other < class,
                Ordering::Less => false,
            };
            let rank = values.iter().enumerate().filter(|&found| before(found)).count();
            self.first += usize::from(rank == 0);
            self.among_five += usize::from(rank < 5);
            self.cross_entropy -= values[class];
            self.images += 1;
        }
    }

    /// Counts what another counted too.
    pub fn join(&mut self, other: Self) {
        self.images += other.images;
        self.first += other.first;
        self.among_five += other.among_five;
        self.cross_entropy += other.cross_entropy;
    }

    /// The shares and the mean.
    ///
    /// # Errors
    /// If there was no image.
    pub fn finish(self) -> Result<Accuracy> {
        if self.images == 0 {
            return Err(Error::Data("no image to classify could be decoded".into()));
        }
        let images = self.images as f64;
        Ok(Accuracy {
            images: self.images,
            top1: self.first as f64 / images,
            top5: self.among_five as f64 / images,
            cross_entropy: self.cross_entropy / images,
        })
    }
}

#[cfg(test)]
mod tests {
    use burn::module::Param;
    use burn::tensor::TensorData;
    use semanticist::classifier::ClassifierNetwork;
    use semanticist::nn::BlockSize;
    use semanticist::{ClassifierConfig, Noise};

    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    /// Answers the same for every image: the logarithms of these probabilities.
    fn constant(probabilities: &[f32]) -> ClassifierModel {
        let blocks = BlockSize { width: 4, depth: 1, heads: 1, mlp_ratio: 1 };
        let classes = probabilities.len();
        let config = ClassifierConfig { image_size: 4, classes, patch_size: 4, blocks, drop_path: 0.0 };
        let device = Device::flex();
        let mut network = ClassifierNetwork::init(&config, &mut Noise::seeded(1), &device).unwrap();
        let logits: Vec<f32> = probabilities.iter().map(|p| p.ln()).collect();
        network.head.bias =
            Param::from_tensor(Tensor::from_data(TensorData::new(logits, [classes]), &device));
        let classifier = Classifier { config, network };
        ClassifierModel { classifier, classes: names(&["ant", "bee", "cat"]), training: None }
    }

    #[test]
    fn the_most_probable_class_comes_first() {
        let images = Pixels(Noise::seeded(1).normal([2, 3, 4, 4], &Device::flex()));
        let found = predictions(&constant(&[0.2, 0.5, 0.3]), &images, 2).unwrap();
        assert_eq!(found[0], found[1]);
        let [first, second] = found[0].as_slice() else { panic!("two were asked for: {found:?}") };
        assert_eq!((first.class, first.name.as_str(), second.class), (1, "bee", 2));
        assert!((first.probability - 0.5).abs() < 1e-6 && (second.probability - 0.3).abs() < 1e-6);
    }

    #[test]
    fn accuracy_counts_ranks_and_probabilities() {
        let model = constant(&[0.1, 0.3, 0.05, 0.15, 0.15, 0.25]);
        // Ranks: class 1 is first, 5 second, 3 and 4 equal, 0 fifth, 2 sixth.
        let image = RgbImage::from_pixel(4, 4, image::Rgb([9, 9, 9]));
        let shown = [1usize, 5, 3, 4, 0, 2].map(|class| Ok((image.clone(), class)));
        let (mut count, mut seen) = (AccuracyCount::default(), 0);
        count.add(&model.classifier, shown.into_iter(), &Device::flex(), |images| seen += images).unwrap();
        let Accuracy { images, top1, top5, cross_entropy } = count.finish().unwrap();
        assert_eq!((images, seen), (6, 6));
        assert_eq!((top1, top5), (1.0 / 6.0, 5.0 / 6.0));
        let expected = -[0.1f64, 0.3, 0.05, 0.15, 0.15, 0.25].map(f64::ln).iter().sum::<f64>() / 6.0;
        assert!((cross_entropy - expected).abs() < 1e-6, "{cross_entropy} {expected}");
        assert!(AccuracyCount::default().finish().is_err());
    }

    #[test]
    fn a_classifier_that_knows_nothing_is_right_by_chance() {
        let mut count = AccuracyCount::default();
        let classes: Vec<usize> = (0..10).collect();
        count.count(Tensor::zeros([10, 10], &Device::flex()), &classes);
        let found = count.finish().unwrap();
        assert_eq!((found.top1, found.top5), (0.1, 0.5));
        assert!((found.cross_entropy - 10f64.ln()).abs() < 1e-6);
    }

    #[test]
    fn labels_are_matched_by_name_or_else_by_number() {
        let known = names(&["ant", "bee", "cat"]);
        let some = names(&["cat", "ant"]);
        let labels = Labels::new(3, &known, Some(&some)).unwrap();
        assert_eq!(labels.class("x", Some(0)).unwrap(), 2);
        assert_eq!(labels.class("x", Some(1)).unwrap(), 0);
        for (label, part) in [(Some(2), "from 0, below 2"), (Some(-1), "label -1"), (None, "x: has no class")]
        {
            let error = labels.class("x", label).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        for (known, data) in [(&known[..], None), (&[][..], Some(some.as_slice()))] {
            let labels = Labels::new(3, known, data).unwrap();
            assert_eq!(labels.class("x", Some(2)).unwrap(), 2);
        }
        let error = Labels::new(3, &known, Some(&names(&["dog", "ant"]))).unwrap_err().to_string();
        assert!(error.contains("1 of the 2 classes of the data, such as \"dog\""), "{error}");
        assert!(error.contains("\"ant\", \"bee\", \"cat\""), "{error}");
    }
}
