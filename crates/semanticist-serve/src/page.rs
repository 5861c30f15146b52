//! The page, compiled in.

use axum::body::Bytes;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};

/// A file of the page.
#[derive(Debug)]
pub struct Asset {
    pub path: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
}

macro_rules! assets {
    ($($path:literal $kind:literal $file:literal),* $(,)?) => {
        &[$(Asset { path: $path, kind: $kind, bytes: include_bytes!(concat!("../page/", $file)) }),*]
    };
}

/// All of it.
pub static ASSETS: &[Asset] = assets![
    "/" "text/html; charset=utf-8" "index.html",
    "/style.css" "text/css; charset=utf-8" "style.css",
    "/app.js" "text/javascript; charset=utf-8" "app.js",
    "/api.js" "text/javascript; charset=utf-8" "api.js",
    "/parts.js" "text/javascript; charset=utf-8" "parts.js",
    "/reconstruct.js" "text/javascript; charset=utf-8" "reconstruct.js",
    "/photo.js" "text/javascript; charset=utf-8" "photo.js",
    "/mix.js" "text/javascript; charset=utf-8" "mix.js",
    "/compare.js" "text/javascript; charset=utf-8" "compare.js",
    "/chart.js" "text/javascript; charset=utf-8" "chart.js",
    "/generate.js" "text/javascript; charset=utf-8" "generate.js",
    "/about.js" "text/javascript; charset=utf-8" "about.js",
    "/study" "text/html; charset=utf-8" "study.html",
    "/study.js" "text/javascript; charset=utf-8" "study.js",
    "/study.css" "text/css; charset=utf-8" "study.css",
    "/icon.svg" "image/svg+xml" "icon.svg",
];

/// What the page may do: only what comes from here, and pictures that it was sent.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HEADERS: [(HeaderName, &str); 4] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-cache"),
];

impl Asset {
    pub fn response(&self) -> Response {
        let mut response = Bytes::from_static(self.bytes).into_response();
        let headers = response.headers_mut();
        for (name, value) in HEADERS.into_iter().chain([(header::CONTENT_TYPE, self.kind)]) {
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_small_and_asks_nobody_else() {
        assert!(ASSETS.iter().map(|asset| asset.bytes.len()).sum::<usize>() < 300_000);
        for asset in ASSETS {
            let text = std::str::from_utf8(asset.bytes).unwrap();
            let foreign = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!foreign.contains("http://") && !foreign.contains("https://"), "{}", asset.path);
        }
    }
}
