//! Where the networks compute, as people write it: `cpu`, `cuda`, `vulkan:1`.
//!
//! What a build can use besides the processor is chosen by Cargo features of the same names.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

pub use burn::tensor::Device;

/// A device by name; nothing is opened yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum DeviceSpec {
    /// The processor, with all the threads it is allowed.
    #[default]
    Cpu,
    /// A graphics card.
    Gpu {
        /// What it is spoken to with.
        interface: GpuInterface,
        /// Which of those that the interface finds, from 0; the first if not said.
        number: Option<usize>,
    },
}

/// How a graphics card is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GpuInterface {
    /// NVIDIA's own.
    Cuda,
    /// Vulkan with SPIR-V kernels.
    Vulkan,
    /// Whatever graphics interface the system has, with WGSL kernels.
    WebGpu,
    /// Apple's own.
    Metal,
}

impl GpuInterface {
    /// Every one there is.
    pub const ALL: [Self; 4] = [Self::Cuda, Self::Vulkan, Self::WebGpu, Self::Metal];

    /// The name on the command line, which is that of the Cargo feature too.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cuda => "cuda",
            Self::Vulkan => "vulkan",
            Self::WebGpu => "webgpu",
            Self::Metal => "metal",
        }
    }

    /// Whether this build can use it.
    pub fn built(self) -> bool {
        match self {
            Self::Cuda => cfg!(feature = "cuda"),
            Self::Vulkan => cfg!(feature = "vulkan"),
            Self::WebGpu => cfg!(feature = "webgpu"),
            Self::Metal => cfg!(feature = "metal"),
        }
    }

    /// All cards that it finds on this machine.
    fn devices(self) -> Vec<Device> {
        match self {
            #[cfg(feature = "cuda")]
            Self::Cuda => Device::enumerate(burn::tensor::DeviceType::Cuda).into_vec(),
            #[cfg(feature = "vulkan")]
            Self::Vulkan => Device::enumerate(burn::tensor::DeviceType::Vulkan).into_vec(),
            // Not Burn's `WebGpu`, which is the browser's own interface and finds nothing outside one.
            #[cfg(feature = "webgpu")]
            Self::WebGpu => Device::enumerate(burn::tensor::DeviceType::Wgpu).into_vec(),
            #[cfg(feature = "metal")]
            Self::Metal => Device::enumerate(burn::tensor::DeviceType::Metal).into_vec(),
            #[allow(unreachable_patterns, reason = "a build may have all of them")]
            _ => Vec::new(),
        }
    }
}

impl DeviceSpec {
    /// Every device that this build can use and this machine has, the processor first.
    pub fn found() -> Vec<Self> {
        let cards = GpuInterface::ALL.into_iter().flat_map(|interface| {
            let numbers = 0..interface.devices().len();
            numbers.map(move |number| Self::Gpu { interface, number: Some(number) })
        });
        [Self::Cpu].into_iter().chain(cards).collect()
    }

    /// Whether this build can use such a device.
    ///
    /// # Errors
    /// If it cannot; the message says what it can use, and which Cargo feature is missing.
    pub fn check(&self) -> Result<()> {
        let Self::Gpu { interface, .. } = self else {
            return Ok(());
        };
        if interface.built() {
            return Ok(());
        }
        let name = interface.name();
        let built = GpuInterface::ALL.iter().filter(|other| other.built()).map(|other| other.name());
        let built = built.collect::<Vec<_>>().join("\" or \"");
        let other = format!("or a build with the Cargo feature \"{name}\"");
        Err(Error::Config(match built.as_str() {
            "" => format!("this build has no GPU support, which \"{name}\" needs; use \"cpu\", {other}"),
            _ => format!("this build has no support of \"{name}\"; use \"cpu\" or \"{built}\", {other}"),
        }))
    }

    /// The device to make tensors on.
    ///
    /// # Errors
    /// If this build cannot use such a device (see [`DeviceSpec::check`]), or the machine has none.
    pub fn open(&self) -> Result<Device> {
        self.check()?;
        let Self::Gpu { interface, number } = self else {
            return Ok(Device::flex());
        };
        let mut devices = interface.devices();
        let (wanted, count, name) = (number.unwrap_or(0), devices.len(), interface.name());
        match count {
            0 => Err(Error::Config(format!("\"{name}\" finds no device on this machine; use \"cpu\""))),
            _ if wanted < count => Ok(devices.swap_remove(wanted)),
            _ => Err(Error::Config(format!(
                "there is no \"{self}\": {name} finds {count} on this machine, counted from 0"
            ))),
        }
    }
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Gpu { interface, number: None } => f.write_str(interface.name()),
            Self::Gpu { interface, number: Some(number) } => write!(f, "{}:{number}", interface.name()),
        }
    }
}

impl FromStr for DeviceSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "cpu" {
            return Ok(Self::Cpu);
        }
        let (name, number) = match text.split_once(':') {
            Some((name, number)) => (name, Some(number)),
            None => (text, None),
        };
        let Some(interface) = GpuInterface::ALL.into_iter().find(|interface| interface.name() == name) else {
            let names = GpuInterface::ALL.map(GpuInterface::name).join(", ");
            return Err(Error::Config(format!(
                "unknown device; use \"cpu\" ({names} need a build with GPU support)"
            )));
        };
        let number = number.map(str::parse).transpose().map_err(|_| {
            Error::Config(format!("\"{text}\" does not end in a number; the first is \"{name}:0\""))
        })?;
        Ok(Self::Gpu { interface, number })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written_alike() {
        for name in ["cpu", "cuda", "cuda:0", "vulkan", "vulkan:1", "webgpu", "metal", "metal:12"] {
            assert_eq!(name.parse::<DeviceSpec>().unwrap().to_string(), name);
        }
        let second = DeviceSpec::Gpu { interface: GpuInterface::Vulkan, number: Some(1) };
        assert_eq!("vulkan:1".parse::<DeviceSpec>().unwrap(), second);
    }

    #[test]
    fn other_names_say_what_is_known() {
        let problem = |name: &str| name.parse::<DeviceSpec>().unwrap_err().to_string();
        for name in ["", "abacus", "cpu:0", "CUDA", "rocm:1"] {
            assert!(problem(name).contains("use \"cpu\" (cuda, vulkan, webgpu, metal need"), "{name}");
        }
        for name in ["cuda:", "cuda:x", "cuda:-1"] {
            assert!(problem(name).contains("the first is \"cuda:0\""), "{name}");
        }
    }

    #[test]
    fn the_processor_opens_and_what_was_not_built_names_its_feature() {
        assert_eq!(DeviceSpec::default().open().unwrap(), Device::flex());
        for interface in GpuInterface::ALL.into_iter().filter(|interface| !interface.built()) {
            let problem = DeviceSpec::Gpu { interface, number: None }.open().unwrap_err().to_string();
            let feature = format!("the Cargo feature \"{}\"", interface.name());
            assert!(problem.contains(&feature), "{problem}");
        }
    }
}
