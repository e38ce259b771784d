//! Keys as requests show them.

use axum::http::{HeaderMap, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The key that a request's head shows: as a Bearer token, or as the user of Basic authentication,
/// with a colon behind it or not; as the password where the user is empty.
pub(super) fn shown(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, rest) = value.split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(rest).ok()?).ok()?;
    let key = match decoded.split_once(':') {
        Some(("", password)) => password,
        Some((user, _)) => user,
        None => &decoded,
    };
    Some(key.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_however_they_are_shown() {
        let shown = |value: &str| {
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())]);
            super::shown(&headers)
        };
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
        for value in [
            &basic("k"),
            &basic("k:"),
            &basic("k:x"),
            &basic(":k"),
            "bearer k",
        ] {
            assert_eq!(shown(value).as_deref(), Some("k"), "{value}");
        }
        for value in ["", "k", "Basic !", "Digest k"] {
            assert_eq!(shown(value), None, "{value}");
        }
        assert_eq!(super::shown(&HeaderMap::new()), None);
    }
}
