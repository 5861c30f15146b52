//! Where a visitor stands in a module: the names that a parameter's path is made of.

/// The path from the root of a module, as it is in model files.
#[derive(Debug, Clone, Default)]
pub struct Path(Vec<String>);

impl Path {
    pub fn enter(&mut self, name: &str) {
        self.0.push(name.to_string());
    }

    pub fn exit(&mut self) {
        self.0.pop();
    }

    /// `encoder.blocks.0.norm1.weight`
    pub fn name(&self) -> String {
        self.0.join(".")
    }
}
