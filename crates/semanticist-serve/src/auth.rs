//! Who may ask: a token if one was set, and no other site's page in somebody's browser.

use std::net::IpAddr;

use axum::http::{HeaderMap, StatusCode, Uri, header};

use crate::problem::{Problem, Result};

/// Whether a request may be answered. Without a token the server listens to its own machine alone, where every page
/// that a browser shows could still reach it: so the names it is called by must be this machine's (a foreign name
/// that points here is an attack), and a page that asks must be its own.
///
/// # Errors
/// 403 for other names and sites, 401 for a missing or wrong token.
pub fn check(headers: &HeaderMap, uri: &Uri, token: Option<&str>) -> Result<()> {
    let text = |name| headers.get(name).and_then(|value: &axum::http::HeaderValue| value.to_str().ok());
    let host = text(header::HOST).unwrap_or_default();
    if token.is_none() && !is_this_machine(host) {
        let message = format!("called by the name \"{host}\"; use localhost or 127.0.0.1, or set a token");
        return Err(Problem::new(StatusCode::FORBIDDEN, message));
    }
    if let Some(origin) = text(header::ORIGIN) {
        let site = origin.split_once("://").map_or(origin, |(_, site)| site);
        if site != host {
            let message = format!("a page of {origin} may not ask; only the server's own page may");
            return Err(Problem::new(StatusCode::FORBIDDEN, message));
        }
    }
    let Some(token) = token.filter(|_| needs_token(uri.path())) else { return Ok(()) };
    let given = text(header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
    match given {
        Some(given) if equal(given, token) => Ok(()),
        Some(_) => Err(Problem::new(StatusCode::UNAUTHORIZED, "the token is another one")),
        None => {
            let message = "a token is needed: send the header \"Authorization: Bearer TOKEN\"";
            Err(Problem::new(StatusCode::UNAUTHORIZED, message))
        }
    }
}

/// The page itself tells nothing; that the server runs may be known.
fn needs_token(path: &str) -> bool {
    path.starts_with("/api/") || path == "/metrics"
}

fn is_this_machine(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// Takes as long for a token that is nearly right as for one that is all wrong.
fn equal(given: &str, token: &str) -> bool {
    let differences = given.bytes().zip(token.bytes()).fold(0, |sum, (a, b)| sum | (a ^ b));
    given.len() == token.len() && differences == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(host: &str, extra: Option<(header::HeaderName, &str)>, token: Option<&str>, path: &str) -> u16 {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some((name, value)) = extra {
            headers.insert(name, value.parse().unwrap());
        }
        check(&headers, &path.parse().unwrap(), token)
            .map_or_else(|problem| problem.status.as_u16(), |()| 200)
    }

    #[test]
    fn without_a_token_only_this_machine_is_answered() {
        for host in ["localhost", "localhost:7860", "127.0.0.1:1", "[::1]:7860", "LOCALHOST:80", "127.8.8.8"]
        {
            assert_eq!(status(host, None, None, "/api/models"), 200, "{host}");
        }
        for host in ["", "evil.example", "evil.example:7860", "10.0.0.1:7860", "localhost.evil.example"] {
            assert_eq!(status(host, None, None, "/"), 403, "{host}");
        }
    }

    #[test]
    fn pages_of_other_sites_may_not_ask() {
        let from = |origin| status("localhost:7860", Some((header::ORIGIN, origin)), None, "/api/models");
        assert_eq!(from("http://localhost:7860"), 200);
        for origin in ["http://localhost:7861", "https://evil.example", "null"] {
            assert_eq!(from(origin), 403, "{origin}");
        }
    }

    #[test]
    fn a_token_opens_what_it_must() {
        let with =
            |value, path| status("box:7860", Some((header::AUTHORIZATION, value)), Some("secret"), path);
        assert_eq!(with("Bearer secret", "/api/models"), 200);
        for wrong in ["Bearer secre", "Bearer secrets", "Bearer ", "secret", "Basic secret"] {
            assert_eq!([with(wrong, "/api/models"), with(wrong, "/metrics")], [401, 401], "{wrong}");
        }
        assert_eq!(
            ["/", "/health", "/app.js"].map(|path| status("box", None, Some("secret"), path)),
            [200; 3]
        );
    }
}
