//! How fast images are read, decoded and cropped for training, and how long a device would wait for them.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use image::RgbImage;
use image::codecs::jpeg::JpegEncoder;
use semanticist::{Error, Result, Seed};
use semanticist_data::{BatchOptions, Batches, Crop, Position, Share, Source, Split};
use serde::Serialize;

use super::jobs::{Scratch, median};
use super::{BenchOptions, Measured};

/// Photos that are made if none are given.
const PHOTOS: usize = 64;

/// How long is measured at least, if images are given: the first of them may wait for a disk or a network.
const AT_LEAST: Duration = Duration::from_secs(2);

/// How fast images come.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ImageSpeed {
    /// The side of the squares, in pixels.
    pub size: usize,
    /// Images per second.
    pub images_per_second: f64,
    /// Images per second of processor time, if the time is known: what one core gives that does nothing else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images_per_core_second: Option<f64>,
    /// Images per second that a device was said to take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eaten_per_second: Option<f64>,
    /// The share of the time for which that device waited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_wait: Option<f64>,
}

/// Images as for training: those that are given, or JPEG files of 500×375 pixels.
pub fn data(options: &BenchOptions, batch: usize) -> Result<Measured> {
    let made = Scratch::new()?;
    let (source, at_least) = match &options.images {
        Some(source) => (source.clone(), AT_LEAST),
        None => {
            (0..PHOTOS)
                .try_for_each(|number| save_photo(&made.0.join(format!("{number}.jpg")), number as u64))?;
            let source = Source::open(std::slice::from_ref(&made.0), Split::All)?;
            (Arc::new(source), Duration::ZERO)
        }
    };
    let size = options.size.unwrap_or(options.config().image_size);
    let workers = rayon::current_num_threads();
    let (share, seed, crop) = (Share::WHOLE, Seed::new(0), Crop::Largest);
    let with = BatchOptions { size, batch, share, seed, workers, crop, flip: 0.5 };
    let mut batches = Batches::new(source, with, Position::default());
    let mut next = || match batches.next() {
        Some(images) => images.map(|images| drop(black_box(images))),
        None => Err(Error::Data("the data has ended".into())),
    };
    // What was prepared ahead must not count.
    (0..2).try_for_each(|_| next())?;

    let clock = || options.processor_time.map(|clock| clock());
    let (begun, used, mut seconds) = (Instant::now(), clock(), Vec::new());
    while seconds.len() < options.repeats || begun.elapsed() < at_least {
        let begun = Instant::now();
        next()?;
        seconds.push(begun.elapsed().as_secs_f64());
    }
    let images = (seconds.len() * batch) as f64;
    let speed = ImageSpeed {
        size,
        images_per_second: images / begun.elapsed().as_secs_f64(),
        images_per_core_second: used.zip(clock()).map(|(before, now)| images / (now - before).as_secs_f64()),
        eaten_per_second: options.eats,
        data_wait: match options.eats {
            Some(rate) => Some(wait(&mut next, Duration::from_secs_f64(batch as f64 / rate), at_least)?),
            None => None,
        },
    };
    Ok(Measured { seconds: median(seconds), images: Some(speed), ..Measured::default() })
}

/// The share of the time for which batches are waited for by what works on each for so long.
fn wait(next: &mut impl FnMut() -> Result<()>, work: Duration, at_least: Duration) -> Result<f64> {
    let (begun, mut waited) = (Instant::now(), Duration::ZERO);
    for number in 0.. {
        // A few batches make up for what the first finds ready.
        if number >= 8 && begun.elapsed() >= at_least {
            break;
        }
        let asked = Instant::now();
        next()?;
        waited += asked.elapsed();
        sleep(work);
    }
    Ok(waited.as_secs_f64() / begun.elapsed().as_secs_f64())
}

/// An image with as much detail as a photograph: waves of many lengths under a little noise.
fn save_photo(path: &Path, seed: u64) -> Result<()> {
    let mut noise = Seed::new(1).at(seed).noise();
    let waves = noise.uniform(24);
    let grain = noise.uniform(500 * 375);
    let photo = RgbImage::from_fn(500, 375, |x, y| {
        let shade = |channel: usize| {
            let sum: f32 = (waves[channel * 8..][..8].iter().enumerate())
                .map(|(i, &wave)| ((x as f32 * wave + y as f32 * (1.0 - wave)) / (1 << i) as f32).sin())
                .sum();
            (128.0 + 20.0 * sum + 16.0 * grain[(y * 500 + x) as usize]) as u8
        };
        image::Rgb([shade(0), shade(1), shade(2)])
    });
    let mut bytes = Vec::new();
    let encoded = photo.write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, 90));
    encoded.map_err(|error| Error::file(path, error.to_string()))?;
    std::fs::write(path, bytes).map_err(|error| Error::io(path, "write", error))
}
