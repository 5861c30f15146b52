//! A page of findings.

use crate::findings::Findings;

/// The sheet of samples beside the page.
pub const SAMPLES: &str = "samples.png";

/// The findings in Markdown; beside it are the sheet [`SAMPLES`], the plots of each kind in `KIND.svg`, its numbers in
/// `KIND.json`.
pub fn page(all: &[Findings]) -> String {
    let mut text = String::from("# What was measured\n");
    if let Some(findings) = all.first() {
        let made = &findings.made;
        let model = made
            .model
            .as_ref()
            .map_or("pictures alone".into(), |model| format!("{} (SHA-256 {})", model.name, model.hash));
        text += &format!(
            "\n- Model: {model}\n- Data: {} (fitted to: {})\n- Images: {}×{2} pixels, {}\n- Program: semanticist {}, products in {}\n",
            made.data, made.training, made.image_size, made.crop, made.version, made.precision
        );
        text += &format!("\nMade by `{}`.\n", made.command);
    }
    text += &format!(
        "\nImages spread evenly over the data, not chosen, and their samples:\n\n![samples]({SAMPLES})\n"
    );
    for findings in all {
        let kind = &findings.kind;
        text += &format!("\n## {}{}\n", kind[..1].to_uppercase(), &kind[1..]);
        text += &format!("\n{}\n", findings.sentences.join("\n"));
        for table in &findings.tables {
            text += &format!("\n{}, {} images:\n\n{}\n", table.title, findings.made.images, table.markdown());
        }
        text += &format!(
            "\n![{kind}]({kind}.svg)\n\n[All numbers]({kind}.json), options `{}`.\n\n",
            findings.made.options
        );
        text += &findings.protocol.iter().map(|line| format!("- {line}\n")).collect::<String>();
    }
    text
}
