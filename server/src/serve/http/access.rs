//! Keys as requests show them.

use std::net::IpAddr;

use axum::http::{HeaderMap, StatusCode, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::super::keys::{Caller, Scope};
use super::super::service::Service;
use super::failure::Failure;

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

/// Who shows a key in a request's head, and may do this now. Without keys, only what this machine
/// sends by itself: no page of another site that a browser here shows.
pub(super) fn admit_head(
    service: &Service,
    headers: &HeaderMap,
    scope: Scope,
) -> Result<Caller, Failure> {
    if !service.gate.is_locked() && !is_own(headers) {
        let message = "without keys only this machine is served, and no page of another site; \
                       make a key with `pugmark keys create`";
        return Err(Failure::new(StatusCode::FORBIDDEN, "forbidden", message));
    }
    Ok(service.admit(shown(headers).as_deref(), scope)?)
}

/// True for requests that no page of another site made a browser send: of this machine by its own
/// name, and with an origin, where there is one, that is the service itself.
pub(super) fn is_own(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let host = text(header::HOST).unwrap_or_default();
    let name = match host.strip_prefix('[') {
        Some(address) => address.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let address = name
        .parse::<IpAddr>()
        .is_ok_and(|address| address.is_loopback());
    let here = address || name.eq_ignore_ascii_case("localhost");
    let own_origin = match text(header::ORIGIN) {
        Some(origin) => origin.split_once("://").is_some_and(|(_, of)| of == host),
        None => true,
    };
    here && own_origin
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_other_sites_are_told_from_this_machine() {
        let own = |host: &str, origin: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, origin.parse().unwrap());
            }
            is_own(&headers)
        };
        assert!(own("localhost:8686", None) && own("127.0.0.1", None) && own("[::1]:8686", None));
        assert!(own("localhost:8686", Some("http://localhost:8686")));
        assert!(!own("localhost:8686", Some("https://evil.example")));
        assert!(!own("localhost:8686", Some("null")));
        assert!(!own("rebound.example:8686", None) && !is_own(&HeaderMap::new()));
    }

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
