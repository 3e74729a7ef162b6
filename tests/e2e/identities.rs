//! What belongs to one request is never seen by another: many identities, interleaved over the same kept-alive
//! connections to the same app processes.

use crate::environment::{self, Told};
use crate::modules::{load, MPMS};
use harness::{Language, Mpm, Request, Response, Setup};

/// RFC 4648 base64 of a short text.
fn base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for piece in text.as_bytes().chunks(3) {
        let word = (0..3).fold(0, |word, i| {
            word << 8 | u32::from(piece.get(i).copied().unwrap_or(0))
        });
        for i in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * i)) as usize & 63];
            out.push(if i <= piece.len() {
                char::from(digit)
            } else {
                '='
            });
        }
    }
    out
}

/// Many identities, interleaved over the same kept-alive connections to one app process.
fn identities_stay_apart(language: Language, mpm: Mpm) {
    let site = environment::site(language)
        .with("SetEnvIf X-Person (.+) SHIB_PERSON=$1")
        .with("<LocationMatch ^/in>\nAuthType Basic\nAuthName x\nAuthBasicProvider anon\nAnonymous *\nAnonymous_MustGiveEmail off\nAnonymous_VerifyEmail off\nRequire valid-user\n</LocationMatch>");
    let setup = load(
        Setup::of(site),
        &["auth_basic", "authn_core", "authn_anon", "authz_user"],
    );
    let server = setup.with("PassengerMaxPoolSize 2").mpm(mpm).start();
    let name = |name: &str| match language {
        Language::Node => format!("var {name}"),
        _ => name.to_owned(),
    };
    let check = |response: &Response, user: Option<&str>| {
        for variable in ["REMOTE_USER", "SHIB_PERSON"] {
            let told = response.told(&name(variable));
            assert_eq!(told.as_deref(), user, "{language:?} {mpm:?} {variable}");
        }
    };
    std::thread::scope(|scope| {
        for client in 0..8 {
            let (server, check) = (&server, &check);
            scope.spawn(move || {
                let mut connection = server.client("app");
                for round in 0..40 {
                    let user = format!("user-{client}-{round}");
                    let request = Request::get("/in")
                        .header(
                            "Authorization",
                            &format!("Basic {}", base64(&format!("{user}:x"))),
                        )
                        .header("X-Person", &user);
                    check(
                        &connection.exchange(&request).expect("a response"),
                        Some(&user),
                    );
                    check(
                        &connection
                            .exchange(&Request::get("/out"))
                            .expect("a response"),
                        None,
                    );
                }
            });
        }
    });
    assert!(server.app_pids("app").len() <= 2);
}

#[test]
fn identities_stay_apart_in_ruby() {
    MPMS.iter()
        .for_each(|mpm| identities_stay_apart(Language::Ruby, *mpm));
}

#[test]
fn identities_stay_apart_in_python() {
    MPMS.iter()
        .for_each(|mpm| identities_stay_apart(Language::Python, *mpm));
}

#[test]
fn identities_stay_apart_in_node() {
    MPMS.iter()
        .for_each(|mpm| identities_stay_apart(Language::Node, *mpm));
}
