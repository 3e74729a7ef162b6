//! Sticky sessions: a cookie that names the process which served a client, so that its next request goes there
//! again. For apps that keep something of a client in memory.
//!
//! The cookie holds the process's route (`passenger_shm`), which says nothing to anybody but this instance. It is a
//! wish: when the process is gone, or busy for too long, another one answers and the cookie changes.

use crate::config::{self, DirConfig};
use crate::ffi::request::Request;
use crate::mapping::Mapping;

/// What a request of a location with sticky sessions brought along.
pub(crate) struct Sticky<'a> {
    name: &'a str,
    attributes: &'a str,
    path: String,
    /// The route its cookie names.
    pub(crate) route: Option<u64>,
}

impl<'a> Sticky<'a> {
    /// `None` where sessions are not sticky.
    pub(crate) fn of(r: &Request<'a>, mapping: &Mapping) -> Option<Self> {
        let config = config::of_request(r.as_ptr()).filter(|config| config.sticky_sessions())?;
        Some(Self::new(config, r, mapping))
    }

    fn new(config: &DirConfig<'a>, r: &Request<'a>, mapping: &Mapping) -> Self {
        let name = config.sticky_cookie_name();
        let fields = r.headers_in();
        let cookies = fields
            .iter()
            .filter(|(field, _)| field.eq_ignore_ascii_case(b"cookie"));
        Self {
            name,
            attributes: config.sticky_cookie_attributes(),
            path: cookie_path(&mapping.script_name),
            route: cookies
                .filter_map(|(_, cookies)| route_in(cookies, name))
                .next(),
        }
    }

    /// The value of `Set-Cookie` for a response of the process with that route.
    pub(crate) fn cookie(&self, route: u64) -> Vec<u8> {
        let mut cookie = format!("{}={route:016x}; Path={}", self.name, self.path);
        let attributes = self.attributes.trim().trim_end_matches(';');
        if !attributes.is_empty() {
            cookie += "; ";
            cookie += attributes;
        }
        cookie.into_bytes()
    }
}

/// The base URI, so that apps of one host do not take each other's cookies.
fn cookie_path(script_name: &str) -> String {
    let is_plain = |b: u8| b.is_ascii_graphic() && !b";,\"\\".contains(&b);
    match script_name {
        "" => "/".to_owned(),
        path if path.bytes().all(is_plain) => path.to_owned(),
        _ => "/".to_owned(),
    }
}

/// The route in a `Cookie` field. httpd joins several of those with commas.
pub(crate) fn route_in(cookies: &[u8], name: &str) -> Option<u64> {
    cookies
        .split(|b| *b == b';' || *b == b',')
        .map(<[u8]>::trim_ascii)
        .filter_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
        .find_map(route)
}

fn route(value: &[u8]) -> Option<u64> {
    let value = value.strip_prefix(b"\"").unwrap_or(value);
    let value = value.strip_suffix(b"\"").unwrap_or(value);
    let is_ours = value.len() == 16 && value.iter().all(u8::is_ascii_hexdigit);
    let text = std::str::from_utf8(value).ok().filter(|_| is_ours)?;
    u64::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NAME: &str = "_passenger_route";

    fn sticky(attributes: &'static str, script_name: &str) -> Sticky<'static> {
        Sticky {
            name: NAME,
            attributes,
            path: cookie_path(script_name),
            route: None,
        }
    }

    #[test]
    fn the_route_is_found_among_other_cookies() {
        for cookies in [
            "_passenger_route=00000000000000ff",
            "a=b; _passenger_route=00000000000000ff; c=d",
            "a=b,_passenger_route=\"00000000000000FF\"",
            "_passenger_route=nonsense; _passenger_route=00000000000000ff",
        ] {
            assert_eq!(route_in(cookies.as_bytes(), NAME), Some(255), "{cookies}");
        }
        for cookies in [
            "",
            "_passenger_route",
            "_passenger_route=",
            "x_passenger_route=00000000000000ff",
            "_passenger_route=00000000000000fg",
            "_passenger_route=000000000000000000ff",
            "_passenger_route=+0000000000000ff",
        ] {
            assert_eq!(route_in(cookies.as_bytes(), NAME), None, "{cookies}");
        }
    }

    #[test]
    fn the_cookie_has_the_path_of_the_app_and_the_configured_attributes() {
        let text = |sticky: Sticky<'_>| String::from_utf8(sticky.cookie(255)).unwrap();
        assert_eq!(
            text(sticky("SameSite=Lax; Secure;", "")),
            "_passenger_route=00000000000000ff; Path=/; SameSite=Lax; Secure"
        );
        assert_eq!(
            text(sticky("", "/blog")),
            "_passenger_route=00000000000000ff; Path=/blog"
        );
        assert_eq!(
            text(sticky("", "/~x;Domain=evil")),
            "_passenger_route=00000000000000ff; Path=/"
        );
    }

    proptest! {
        #[test]
        fn what_we_set_is_what_we_find(route in any::<u64>(), before in "[ -~]{0,30}") {
            let cookie = sticky("", "").cookie(route);
            let pair = cookie.split(|b| *b == b';').next().unwrap();
            prop_assert_eq!(route_in(pair, NAME), Some(route));
            let joined = [before.as_bytes(), b"; ", pair].concat();
            // Whatever stands before it, unless that is one of ours itself.
            prop_assert!(before.contains(NAME) || route_in(&joined, NAME) == Some(route));
        }
    }
}
