//! Arguments of `evaluate`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use semanticist::diffusion::Sampler;
use semanticist_eval::FeatureKind;
use semanticist_eval::clip::ClipActivation;

use super::generator::{Decoding, TokenDrawing};
use super::{Decomposing, ModelChoice, Sampling, count, guidance, kept, steps};
use crate::device::Machine;

/// What is measured.
#[derive(Debug, Subcommand)]
pub enum EvaluateCommand {
    /// How close images come back from 0, 1, 2, 4 … tokens
    ///
    /// PSNR and SSIM of samples and of the one-step mean (MS-SSIM above 160 pixels; LPIPS and DISTS where their weights are given),
    /// and the diffusion loss; beside them the autoencoder alone, PCA of
    /// whole images with as many numbers, JPEG and WebP with as many bytes, and pictures by other tokenizers.
    #[command(after_help = "\
Examples:
  semanticist evaluate reconstruction --data photos
  semanticist evaluate reconstruction --data tiny-imagenet-100 --images 500 --json found.json --plot found.svg
  semanticist evaluate reconstruction --data photos --series TiTok=titok-pictures --tokens 8,32
  semanticist evaluate reconstruction --data photos --lpips alexnet-owt-7be5be79.pth alex.pth --dists vgg16-397923af.pth weights.pt
  semanticist evaluate reconstruction --data imagenet --tokenizer titok=tokenizer_titok_l32.safetensors")]
    Reconstruction {
        #[command(flatten)]
        decomposing: Decomposing,
        #[command(flatten)]
        series: OtherTokenizers,
        #[command(flatten)]
        perceptual: PerceptualFiles,
        #[command(flatten)]
        measuring: Measuring,
        #[command(flatten)]
        sampling: Sampling,
    },
    /// How much of the diffusion loss each token explains, and whether tokens are orthogonal
    #[command(after_help = "\
Examples:
  semanticist evaluate variance --data tiny-imagenet-100 --plot variance.svg")]
    Variance {
        /// Of timesteps, noise and resamples
        #[arg(long, value_name = "N", default_value = "0")]
        seed: u64,
        #[command(flatten)]
        measuring: Measuring,
    },
    /// How well a linear map tells classes from the first tokens
    #[command(after_help = "\
Examples:
  semanticist evaluate probe --data tiny-imagenet-100 --images 5000 --plot probe.svg")]
    Probe {
        #[command(flatten)]
        probing: Probing,
        #[command(flatten)]
        measuring: Measuring,
    },
    /// Whether fewer tokens mean other frequencies: mean power spectra
    #[command(after_help = "\
Examples:
  semanticist evaluate spectrum --data tiny-imagenet-100 --images 500 --tokens 1,8,32 --plot spectrum.svg
  semanticist evaluate spectrum --data imagenet --tokenizer titok=tokenizer_titok_l32.safetensors --tokens 8,16,24,32 \\
    --decomposition pca --plot spectrum.svg")]
    Spectrum {
        #[command(flatten)]
        decomposing: Decomposing,
        #[command(flatten)]
        series: OtherTokenizers,
        #[command(flatten)]
        measuring: Measuring,
        #[command(flatten)]
        sampling: Sampling,
    },
    /// Whether pictures look alike to a network: rFID, FD-DINOv2, Fréchet distances to a classifier trained here
    ///
    /// Of samples and one-step means from every number of tokens, the autoencoder alone, training images, and any other
    /// pictures: those of --series may be of other images here, in folders of class folders. With Inception-v3 there are sFID and
    /// the Inception score too, with a classifier how often it knows the class.
    #[command(after_help = "\
Examples:
  semanticist evaluate frechet --data tiny-imagenet-100 --images 2000 --classifier classifier.safetensors
  semanticist evaluate frechet --data imagenet --model MODEL --images 50000 --tokens 16,64,256 \\
    --features inception=pt_inception-2015-12-05-6726825d.pth
  semanticist evaluate frechet --data imagenet --model MODEL --images 50000 --features dinov2=dinov2_vitl14_pretrain.pth
  semanticist evaluate frechet --data imagenet --tokenizer titok=tokenizer_titok_l32.safetensors --images 50000 --tokens 32 \\
    --decomposition first-k --features inception-tf=pt_inception-2015-12-05-6726825d.pth")]
    Frechet {
        #[command(flatten)]
        decomposing: Decomposing,
        #[command(flatten)]
        comparing: Comparing,
        #[command(flatten)]
        series: OtherTokenizers,
        #[command(flatten)]
        measuring: Measuring,
        #[command(flatten)]
        sampling: Sampling,
    },
    /// Whether generated pictures look like images and are not copies of them, to a network; no tokenizer takes part
    ///
    /// gFID, FD-DINOv2 or Fréchet distances to a classifier, kernel distances, precision and recall, and how many pictures are
    /// nearer to a training image than unseen images are. With Inception-v3 there are sFID and the Inception score too, with a
    /// classifier how often it knows the class (of folders of class folders).
    #[command(after_help = "\
Examples:
  semanticist generate --class 0 --class 1 -n 250 --out-dir drawn
  semanticist evaluate generation --data tiny-imagenet-100 --images 2000 --classifier classifier.safetensors \\
    --series drawn=drawn
  semanticist evaluate generation --data imagenet --images 50000 --series drawn=drawn --reference VIRTUAL_imagenet256_labeled.npz \\
    --features inception-tf=pt_inception-2015-12-05-6726825d.pth
  semanticist evaluate generation --data imagenet/train --images 1281167 --size 256 --save-statistics train256.npz \\
    --features inception=pt_inception-2015-12-05-6726825d.pth")]
    Generation {
        /// Pictures to measure, such as drawn=generated
        #[arg(long, value_name = "NAME=PATH", value_parser = named, required_unless_present = "save_statistics")]
        series: Vec<(String, PathBuf)>,
        /// Side of the squares that are compared, in pixels [default: that of the classifier, else the shorter side of the first
        /// picture of the first series]
        #[arg(long, value_name = "PIXELS", value_parser = count)]
        size: Option<usize>,
        /// Of the subsets of kernel distances and the parts of Inception scores
        #[arg(long, value_name = "N", default_value = "0")]
        seed: u64,
        #[command(flatten)]
        comparing: Comparing,
        #[command(flatten)]
        on: Images,
    },
    /// What guidance does to generated pictures: their distance from images, precision, recall and classes at each scale
    ///
    /// As many pictures as images are measured are drawn at each scale from the same seeds, of the classes in turn, and measured as
    /// `generation` does it; no picture is kept.
    #[command(after_help = "\
Examples:
  semanticist evaluate guidance --data tiny-imagenet-100 --images 2000 --classifier classifier.safetensors --plot guidance.svg
  semanticist evaluate guidance --data imagenet --images 50000 --generator GENERATOR --model MODEL --scales 1,2,4,6 \
    --schedule linear --reference VIRTUAL_imagenet256_labeled.npz --features inception-tf=pt_inception-2015-12-05-6726825d.pth")]
    Guidance {
        #[command(flatten)]
        sweeping: Sweeping,
        #[command(flatten)]
        comparing: Comparing,
        #[command(flatten)]
        decoding: Decoding,
        #[command(flatten)]
        on: Images,
        #[command(flatten)]
        model: ModelChoice,
    },
    /// How often CLIP, which was not taught them, tells the classes of images and of their reconstructions
    ///
    /// Top-1 and top-5 of the images, of samples from every number of tokens, of the autoencoder alone and of pictures by other
    /// tokenizers. A class is its name in the 80 sentences of CLIP's notebook for ImageNet; the images are the squares that the
    /// tokenizer sees, resized for CLIP as it does it (bicubic).
    #[command(after_help = "\
Examples:
  semanticist evaluate zero-shot --data tiny-imagenet-100 --images 1000 --clip model.safetensors --clip-tokenizer tokenizer.json \\
    --plot zero-shot.svg
  semanticist evaluate zero-shot --data imagenet --model MODEL --images 50000 --tokens 1,4,16,64,256 --class-names names.txt \\
    --clip open_clip_pytorch_model.bin --clip-activation gelu --clip-tokenizer tokenizer.json")]
    ZeroShot {
        #[command(flatten)]
        clip: ClipChoice,
        #[command(flatten)]
        series: OtherTokenizers,
        #[command(flatten)]
        measuring: Measuring,
        #[command(flatten)]
        sampling: Sampling,
    },
    /// What steps, samplers and guidance do to quality from the same tokens, and what they cost
    #[command(after_help = "\
Examples:
  semanticist evaluate ablation --data tiny-imagenet-100 --images 100 --tokens 8,32 --steps 4,10,25 --guidance 1,1.5
  semanticist evaluate ablation --data photos --steps 1,2,4 --sampler euler,ab2 --plot ablation.svg")]
    Ablation {
        /// Numbers of sampling steps
        #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "4,10,25", value_parser = steps)]
        steps: Vec<usize>,
        /// Samplers [default: what the model was made for]
        #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
        sampler: Vec<Sampler>,
        /// Scales of guidance [default: 1 and what the model was made for]
        #[arg(long, value_name = "SCALE,…", value_delimiter = ',', value_parser = guidance, allow_negative_numbers = true)]
        guidance: Vec<f64>,
        /// The noise that images start from
        #[arg(long, value_name = "N", default_value = "0")]
        seed: u64,
        #[command(flatten)]
        perceptual: PerceptualFiles,
        #[command(flatten)]
        measuring: Measuring,
    },
    /// Quality, variance, spectra and probes in a folder: JSON and plots of each, and a page
    ///
    /// What an earlier, interrupted call finished is not measured again. With a feature network there are Fréchet distances too,
    /// with CLIP the classes that it tells.
    #[command(after_help = "\
Examples:
  semanticist evaluate report --data tiny-imagenet-100 -o report
  semanticist evaluate report --data tiny-imagenet-100 --images 3000 -o report --features inception=inception.pth")]
    Report {
        /// The folder; it is created
        #[arg(short, long, value_name = "DIR")]
        output: PathBuf,
        #[command(flatten)]
        features: FeatureChoice,
        #[command(flatten)]
        clip: ClipChoice,
        #[command(flatten)]
        series: OtherTokenizers,
        #[command(flatten)]
        probing: Probing,
        #[command(flatten)]
        perceptual: PerceptualFiles,
        #[command(flatten)]
        measuring: Measuring,
        #[command(flatten)]
        sampling: Sampling,
    },
}

impl EvaluateCommand {
    /// What all kinds are asked.
    pub fn on(&self) -> &Images {
        match self {
            Self::Reconstruction { measuring, .. }
            | Self::Variance { measuring, .. }
            | Self::Probe { measuring, .. }
            | Self::Spectrum { measuring, .. }
            | Self::Frechet { measuring, .. }
            | Self::ZeroShot { measuring, .. }
            | Self::Ablation { measuring, .. }
            | Self::Report { measuring, .. } => &measuring.on,
            Self::Generation { on, .. } | Self::Guidance { on, .. } => on,
        }
    }
}

/// On what a tokenizer is measured.
#[derive(Debug, Args)]
pub struct Measuring {
    /// Numbers of tokens, 0 included [default: 0, 1, 2, 4 … all; of variance all of them up to 64]
    #[arg(long, value_name = "K,…", value_delimiter = ',', value_parser = kept)]
    pub tokens: Vec<usize>,
    #[command(flatten)]
    pub on: Images,
    #[command(flatten)]
    pub model: ModelChoice,
}

/// On which images, and where the findings go.
#[derive(Debug, Args)]
pub struct Images {
    /// Images: folders of class folders, folders of images, Parquet files or folders of them; the validation part is
    /// measured if there is one
    #[arg(long, value_name = "PATH", required = true, num_args = 1..)]
    pub data: Vec<PathBuf>,
    /// Images to fit principal components to and to train probes on [default: the training part of the data]
    #[arg(long, value_name = "PATH", num_args = 1..)]
    pub training: Vec<PathBuf>,
    /// How many images, spread evenly over the data
    #[arg(long, value_name = "N", default_value = "500", value_parser = count)]
    pub images: usize,
    /// Write all numbers to a file, or without a name print them instead of tables; interrupted work goes on where the same
    /// file is asked for
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    pub json: Option<PathBuf>,
    /// Write plots: a name that ends in .svg or .png
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
    #[command(flatten)]
    pub machine: Machine,
}

/// What draws pictures, and how.
#[derive(Debug, Args)]
#[command(next_help_heading = "Drawing")]
pub struct Sweeping {
    /// Scales of guidance: how strongly the class is over-weighted; 1 is not at all
    #[arg(
        long,
        value_name = "SCALE,…",
        value_delimiter = ',',
        default_value = "1,2,3,4,6",
        allow_negative_numbers = true
    )]
    pub scales: Vec<f64>,
    /// How many tokens are drawn [default: what the generator's file says, else all]
    #[arg(long, value_name = "K", value_parser = count)]
    pub tokens: Option<usize>,
    #[command(flatten)]
    pub drawing: TokenDrawing,
    /// What the first picture is drawn from, the next ones follow; also of the subsets of kernel distances
    #[arg(long, value_name = "N", default_value = "0")]
    pub seed: u64,
    /// The generator: a file of `train generator`, a name of `models list`, hf:OWNER/REPO/FILE [default: the built-in one]
    #[arg(long, value_name = "NAME|FILE")]
    pub generator: Option<PathBuf>,
    /// What a published generator's checkpoint holds, by name, such as gpt-l
    #[arg(long, value_name = "NAME", requires = "generator")]
    pub generator_preset: Option<String>,
}

/// In whose features pictures are compared.
#[derive(Debug, Args)]
pub struct Comparing {
    #[command(flatten)]
    pub features: FeatureChoice,
    /// Training images among which the nearest of each picture is looked for
    #[arg(long, value_name = "N", default_value = "10000", value_parser = count)]
    pub training_images: usize,
    /// Measure Fréchet distances from statistics in a file, not from the images of --data: of pytorch-fid (mu, sigma), of ADM
    /// (mu, sigma, mu_s, sigma_s), or of --save-statistics
    #[arg(long, value_name = "FILE.npz")]
    pub reference: Option<PathBuf>,
    /// Write mean and covariance of the features of the images of --data, for --reference and for other programs
    #[arg(long, value_name = "FILE.npz")]
    pub save_statistics: Option<PathBuf>,
    /// Call it rFID or gFID with fewer than 50,000 images too, and take a --reference of training images, of other weights, sizes
    /// or crops
    #[arg(long)]
    pub force: bool,
}

/// A network whose features pictures are compared in.
#[derive(Debug, Args)]
pub struct FeatureChoice {
    /// The network in whose features pictures are compared, and its file: inception (FID; resized as pytorch-fid), inception-tf
    /// (the same, resized as ADM's evaluator and torch-fidelity), dinov2 (FD-DINOv2), clip and clip-gelu (FD-CLIP, of OpenAI's
    /// weights and of OpenCLIP's of LAION and DataComp), classifier
    #[arg(long, value_name = "NAME=FILE", value_parser = features)]
    pub features: Option<(FeatureKind, PathBuf)>,
    /// Short for --features classifier=FILE: a file of `train classifier`
    #[arg(long, value_name = "FILE", conflicts_with = "features")]
    pub classifier: Option<PathBuf>,
}

impl FeatureChoice {
    /// Which network, and its file, if one was asked for.
    pub fn file(&self) -> Option<(FeatureKind, &Path)> {
        let classifier = || self.classifier.as_deref().map(|path| (FeatureKind::Classifier, path));
        self.features.as_ref().map(|(kind, path)| (*kind, path.as_path())).or_else(classifier)
    }
}

fn features(text: &str) -> Result<(FeatureKind, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !path.is_empty() => Ok((name.parse()?, path.into())),
        _ => Err("expected NAME=FILE, such as inception=pt_inception-2015-12-05-6726825d.pth".into()),
    }
}

/// Weights of measures that compare images as networks see them.
#[derive(Debug, Args)]
pub struct PerceptualFiles {
    /// Measure LPIPS too: the weights of torchvision's vgg16 or alexnet, and those of LPIPS for it (lpips/weights/v0.1/vgg.pth or
    /// alex.pth of PyPI's lpips), in one file or two
    #[arg(long, value_name = "FILE", num_args = 1..=2)]
    pub lpips: Vec<PathBuf>,
    /// Measure DISTS too: the weights of torchvision's vgg16, and those of DISTS (weights.pt of PyPI's dists-pytorch), in one file
    /// or two
    #[arg(long, value_name = "FILE", num_args = 1..=2)]
    pub dists: Vec<PathBuf>,
}

/// CLIP, and what the classes are called.
#[derive(Debug, Args)]
pub struct ClipChoice {
    /// CLIP with a vision transformer: model.safetensors or pytorch_model.bin of openai/clip-vit-base-patch32 and the like, a
    /// file of OpenCLIP, or the state dictionary of one of OpenAI's
    #[arg(long, value_name = "FILE", requires = "clip_tokenizer")]
    pub clip: Option<PathBuf>,
    /// Its tokenizer.json: that of openai/clip-vit-base-patch32 serves all
    #[arg(long, value_name = "FILE", requires = "clip")]
    pub clip_tokenizer: Option<PathBuf>,
    /// What its blocks have, which files do not tell: quick-gelu (OpenAI's weights) or gelu (OpenCLIP's of LAION and DataComp)
    #[arg(long, value_name = "NAME", default_value_t)]
    pub clip_activation: ClipActivation,
    /// What the classes are called, one a line, in the order of the labels (of folders the alphabetical one) [default: the names
    /// that the data has for them, of several the first, and spaces for _]
    #[arg(long, value_name = "FILE", requires = "clip")]
    pub class_names: Option<PathBuf>,
}

/// How probes are trained.
#[derive(Debug, Args)]
pub struct Probing {
    /// Labelled images to train probes on, spread evenly over the training part
    #[arg(long, value_name = "N", default_value = "10000", value_parser = count)]
    pub training_images: usize,
}

/// Pictures of the same images.
#[derive(Debug, Args)]
pub struct OtherTokenizers {
    /// Pictures of the same images by another tokenizer, in the order of the data, such as TiTok=titok-pictures
    #[arg(long, value_name = "NAME=PATH", value_parser = named)]
    pub series: Vec<(String, PathBuf)>,
}

pub(super) fn named(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => Ok((name.into(), path.into())),
        _ => Err("expected NAME=PATH, such as TiTok=titok-pictures".into()),
    }
}
