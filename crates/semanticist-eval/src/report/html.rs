//! The page as one HTML file that needs nothing beside it, nor a network: plots, the sheet and all numbers are in it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use semanticist::Result;
use semanticist::image::{RgbImage, png};

use super::{heading, made};
use crate::findings::{Cell, Findings, Table};
use crate::plot;

/// The findings as a page.
///
/// # Errors
/// If a plot cannot be drawn.
pub fn html(all: &[Findings], samples: &RgbImage) -> Result<String> {
    let mut text = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>What was measured · Semanticist</title>\n<style>\n{}</style>\n</head>\n<body>\n<main>\n<h1>What was measured</h1>\n",
        include_str!("page.css")
    );
    if let Some(findings) = all.first() {
        text += "<dl>\n";
        for (name, value) in made(&findings.made) {
            text += &format!("<dt>{name}</dt><dd>{}</dd>\n", escaped(&value));
        }
        text +=
            &format!("<dt>Command</dt><dd><code>{}</code></dd>\n</dl>\n", escaped(&findings.made.command));
    }
    text += "<nav aria-label=\"Kinds\"><ul>\n";
    for Findings { kind, .. } in all {
        text += &format!("<li><a href=\"#{kind}\">{}</a></li>\n", heading(kind));
    }
    text += &format!(
        "</ul></nav>\n<p>Images spread evenly over the data, not chosen, and their samples:</p>\n{}",
        picture("image/png", &png(samples), "The images, and samples of them from each number of tokens")
    );
    for findings in all {
        text += &section(findings)?;
    }
    text += &format!("</main>\n<script>\n{}</script>\n</body>\n</html>\n", include_str!("page.js"));
    Ok(text)
}

fn section(findings: &Findings) -> Result<String> {
    let Findings { kind, made, protocol, sentences, tables, figures } = findings;
    let mut text = format!("<section>\n<h2 id=\"{kind}\">{}</h2>\n", heading(kind));
    for sentence in sentences {
        text += &format!("<p class=\"found\">{}</p>\n", escaped(sentence));
    }
    for table in tables {
        text += &of_table(table, made.images);
    }
    for figure in figures {
        let drawn = plot::svg(std::slice::from_ref(figure))?;
        text += &picture("image/svg+xml", drawn.as_bytes(), &figure.title);
    }
    let numbers = serde_json::to_string(findings).expect("texts and numbers");
    text += &format!(
        "<p class=\"download\"><a download=\"{kind}.json\" href=\"data:application/json;base64,{}\">All numbers of this section \
         (JSON)</a></p>\n<ul class=\"protocol\">\n<li>Options: <code>{}</code></li>\n",
        STANDARD.encode(numbers),
        escaped(&made.options.to_string())
    );
    text.extend(protocol.iter().map(|line| format!("<li>{}</li>\n", escaped(line))));
    text += "</ul>\n</section>\n";
    Ok(text)
}

fn of_table(table: &Table, images: usize) -> String {
    let title = escaped(&table.title);
    let mut text = format!(
        "<h3>{title}, {images} images</h3>\n<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{title}\">\n<table>\n\
         <thead><tr>"
    );
    text.extend(
        table
            .columns
            .iter()
            .map(|name| format!("<th scope=\"col\"><button type=\"button\">{}</button></th>", escaped(name))),
    );
    text += "</tr></thead>\n<tbody>\n";
    for row in &table.rows {
        text += "<tr>";
        for (at, cell) in row.iter().enumerate() {
            let value = match cell {
                Cell::Count(count) => format!(" data-value=\"{count}\""),
                Cell::Number(number) => format!(" data-value=\"{number}\""),
                Cell::Text(_) | Cell::Missing(()) => String::new(),
            };
            let tag = if at == 0 { "th scope=\"row\"" } else { "td" };
            text += &format!("<{tag}{value}>{}</{}>", escaped(&cell.shown()), &tag[..2]);
        }
        text += "</tr>\n";
    }
    text + "</tbody>\n</table>\n</div>\n"
}

fn picture(kind: &str, bytes: &[u8], what: &str) -> String {
    let what = escaped(what);
    format!("<figure><img src=\"data:{kind};base64,{}\" alt=\"{what}\"></figure>\n", STANDARD.encode(bytes))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::findings::Made;
    use crate::plot::{Axis, Figure, Series};

    #[test]
    fn the_page_holds_everything_and_nothing_of_it_is_markup() {
        let mut table = Table::new("How <close>", &["tokens", "dB"]);
        table.row([Cell::from(1), 20.25.into()]);
        table.row(["none & \"all\"".into(), Cell::Missing(())]);
        let findings = Findings {
            kind: "reconstruction".into(),
            made: Made {
                command: "semanticist evaluate <x>".into(),
                version: "1".into(),
                model: None,
                data: "a".into(),
                training: "b".into(),
                images: 7,
                image_size: 8,
                crop: "middle".into(),
                precision: "float32".into(),
                options: json!({"a": "<b>"}),
                seconds: 1.0,
            },
            protocol: vec!["one < two".into()],
            sentences: vec!["It & that.".into()],
            tables: vec![table],
            figures: vec![Figure {
                title: "A plot".into(),
                x: Axis::linear("x"),
                y: Axis::linear("y"),
                series: vec![Series::line("a", [(0.0, 1.0), (1.0, 2.0)])],
            }],
        };
        let page = html(std::slice::from_ref(&findings), &RgbImage::new(3, 3)).unwrap();
        for part in [
            "<th scope=\"row\" data-value=\"1\">1</th><td data-value=\"20.25\">20.25</td>",
            "<th scope=\"row\">none &amp; &quot;all&quot;</th><td>-</td>",
            "How &lt;close&gt;, 7 images",
            "semanticist evaluate &lt;x&gt;",
            "<li>one &lt; two</li>",
            "alt=\"A plot\"",
            "href=\"#reconstruction\">Reconstruction</a>",
            "pictures alone",
        ] {
            assert!(page.contains(part), "{part} is not in\n{page}");
        }
        let data = page.split("data:application/json;base64,").nth(1).unwrap().split('"').next().unwrap();
        let read: Findings = serde_json::from_slice(&STANDARD.decode(data).unwrap()).unwrap();
        assert_eq!(read.tables, findings.tables);
        // Nothing is fetched from anywhere.
        assert!(!page.contains("http://") && !page.contains("https://"));
    }
}
