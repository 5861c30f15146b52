//! A page of findings: in Markdown, for repositories, and as one HTML file, for everybody else.

mod html;

pub use html::html;

use crate::findings::{Findings, Made};

/// The sheet of samples beside the page.
pub const SAMPLES: &str = "samples.png";

/// The page that needs nothing beside it.
pub const PAGE: &str = "report.html";

/// The findings in Markdown; beside it are the sheet [`SAMPLES`], the plots of each kind in `KIND.svg`, its numbers in
/// `KIND.json`.
pub fn page(all: &[Findings]) -> String {
    let mut text = String::from("# What was measured\n");
    if let Some(findings) = all.first() {
        text += "\n";
        text.extend(made(&findings.made).map(|(name, value)| format!("- {name}: {value}\n")));
        text += &format!("\nMade by `{}`.\n", findings.made.command);
    }
    text += &format!(
        "\nImages spread evenly over the data, not chosen, and their samples:\n\n![samples]({SAMPLES})\n"
    );
    for findings in all {
        let kind = &findings.kind;
        text += &format!("\n## {}\n", heading(kind));
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

/// What was measured on what, by name.
fn made(made: &Made) -> [(&'static str, String); 4] {
    let model = made
        .model
        .as_ref()
        .map_or("pictures alone".into(), |model| format!("{} (SHA-256 {})", model.name, model.hash));
    [
        ("Model", model),
        ("Data", format!("{} (fitted to: {})", made.data, made.training)),
        ("Images", format!("{0}×{0} pixels, {1}", made.image_size, made.crop)),
        ("Program", format!("semanticist {}, products in {}", made.version, made.precision)),
    ]
}

fn heading(kind: &str) -> String {
    kind[..1].to_uppercase() + &kind[1..]
}
