//! Together with httpd's own modules: each in an ordinary configuration, on event and prefork.

use crate::environment::{self, Told};
use harness::{App, Language, Mpm, Request, Server, Setup, Site};

/// The MPMs that differ most: threads and processes.
pub(crate) const MPMS: [Mpm; 2] = [Mpm::Event, Mpm::Prefork];

/// Adds `LoadModule` lines.
pub(crate) fn load(setup: Setup, modules: &[&str]) -> Setup {
    modules.iter().fold(setup, |setup, module| {
        setup.with(&format!(
            "LoadModule {module}_module /usr/lib/apache2/modules/mod_{module}.so"
        ))
    })
}

/// A server under each of [`MPMS`] with this site and these modules.
fn servers(site: &Site, modules: &[&str]) -> impl Iterator<Item = Server> {
    let setup = load(Setup::of(site.clone()), modules);
    MPMS.into_iter()
        .map(move |mpm| setup.clone().mpm(mpm).start())
}

fn gzip_accepting(target: &str) -> Request {
    Request::get(target).header("Accept-Encoding", "gzip")
}

#[test]
fn rewrites_of_the_host_and_of_htaccess_decide_what_the_app_sees() {
    let app = environment::app(Language::Ruby)
        .file("public/static.txt", "static")
        .file(
            "public/.htaccess",
            "RewriteEngine on\nRewriteRule ^perdir/(.*)$ /inner/$1 [QSA]\nRewriteRule ^away$ /elsewhere [R=302]\n\
             RewriteRule ^tofile$ /static.txt\nRewriteRule ^marked - [E=MARK:yes]\n",
        );
    let site = Site::new("app", app)
        .with("RewriteEngine on")
        .with("RewriteRule ^/pt/(.*)$ /target/$1?from=pt [PT]");
    for server in servers(&site, &[]) {
        assert_eq!(
            server.get("app", "/pt/x").paths(),
            "|/target/x|/target/x?from=pt|from=pt"
        );
        assert_eq!(
            server.get("app", "/perdir/a%20b?q=1").paths(),
            "|/inner/a%20b|/inner/a%20b?q=1|q=1"
        );
        let away = server.get("app", "/away");
        assert_eq!(away.status, 302);
        assert!(away
            .header("location")
            .is_some_and(|l| l.ends_with("/elsewhere")));
        assert_eq!(server.get("app", "/tofile").ok(), "static");
        assert_eq!(
            server.get("app", "/marked").told("MARK"),
            Some("yes".into())
        );
        let posted = server.post("app", "/perdir/form", b"a=b");
        assert_eq!(posted.told("CONTENT_LENGTH"), Some("3".into()));
        assert_eq!(posted.told("PATH_INFO"), Some("/inner/form".into()));
    }
}

#[test]
fn directories_are_neither_redirected_nor_listed() {
    let app = environment::app(Language::Python).file("public/images/a.png", "png");
    let site = Site::new("app", app)
        .with("<Location />\nOptions +Indexes\n</Location>")
        .with("Alias /listed {root}/sites/app/public/images")
        .with("<Location /listed>\nPassengerEnabled off\n</Location>");
    for server in servers(&site, &[]) {
        assert_eq!(
            server.get("app", "/images").told("PATH_INFO"),
            Some("/images".into())
        );
        assert_eq!(
            server.get("app", "/images/").told("PATH_INFO"),
            Some("/images/".into())
        );
        assert_eq!(server.get("app", "/images/a.png").ok(), "png");
        assert!(server.get("app", "/listed/").ok().contains("a.png"));
        assert_eq!(server.get("app", "/listed").status, 301);
    }
}

#[test]
fn what_has_a_handler_is_not_the_apps() {
    let app = environment::app(Language::Python)
        .file("public/tool.stat", "")
        .file("public/plain.txt", "");
    let site = Site::new("app", app)
        .with("AddHandler server-status .stat")
        .with("<Location /status>\nSetHandler server-status\n</Location>");
    for server in servers(&site, &["status"]) {
        for target in ["/status?auto", "/tool.stat?auto", "/tool.stat/more?auto"] {
            assert!(
                server.get("app", target).ok().contains("ServerUptime"),
                "{target}"
            );
        }
        // A name that would have a handler, but no file: the app's.
        let missing = server.get("app", "/missing.stat");
        assert_eq!(missing.told("PATH_INFO"), Some("/missing.stat".into()));
        let below = server.get("app", "/plain.txt/more");
        assert_eq!(below.told("PATH_INFO"), Some("/plain.txt/more".into()));
    }
}

#[test]
fn multiviews_find_variants_and_the_app_gets_the_rest() {
    let app = environment::app(Language::Python)
        .file("public/doc.html.en", "english")
        .file("public/doc.html.de", "deutsch");
    let site = Site::new("app", app)
        .with("AddLanguage en .en\nAddLanguage de .de")
        .with("<Location />\nOptions +MultiViews\n</Location>");
    for server in servers(&site, &["negotiation"]) {
        let german = Request::get("/doc").header("Accept-Language", "de");
        assert_eq!(server.request("app", &german).ok(), "deutsch");
        assert_eq!(
            server.get("app", "/nodoc").told("PATH_INFO"),
            Some("/nodoc".into())
        );
        assert_eq!(server.get("app", "/nodoc").header("content-language"), None);
    }
}

#[test]
fn variables_of_setenv_and_setenvif_reach_each_language() {
    for language in Language::ALL {
        let site = environment::site(language)
            .with("SetEnv FIXED always")
            .with("SetEnvIf X-Kind (.+) KIND=$1")
            .with("<Location /only>\nSetEnv HERE yes\n</Location>");
        let name = |name: &str| match language {
            Language::Node => format!("var {name}"),
            _ => name.to_owned(),
        };
        for server in servers(&site, &[]) {
            let request = Request::get("/only").header("X-Kind", "odd = one");
            let first = server.request("app", &request);
            assert_eq!(
                first.told(&name("FIXED")),
                Some("always".into()),
                "{language:?}"
            );
            assert_eq!(
                first.told(&name("KIND")),
                Some("odd = one".into()),
                "{language:?}"
            );
            assert_eq!(
                first.told(&name("HERE")),
                Some("yes".into()),
                "{language:?}"
            );
            let second = server.get("app", "/other");
            assert_eq!(
                second.told(&name("KIND")),
                None,
                "{language:?}: kept from another request"
            );
            assert_eq!(
                second.told(&name("HERE")),
                None,
                "{language:?}: kept from another request"
            );
        }
    }
}

#[test]
fn headers_can_be_changed_in_both_directions() {
    let site = environment::site(Language::Ruby)
        .with("RequestHeader set X-To-App yes\nRequestHeader unset X-Secret")
        .with("Header set X-From-Host yes\nHeader unset Content-Type");
    for server in servers(&site, &["headers"]) {
        let request = Request::get("/")
            .header("X-Secret", "1")
            .header("X-To-App", "forged");
        let response = server.request("app", &request);
        assert_eq!(response.told("HTTP_X_TO_APP"), Some("yes".into()));
        assert_eq!(response.told("HTTP_X_SECRET"), None);
        assert_eq!(response.header("x-from-host"), Some("yes"));
    }
}

#[test]
fn output_is_compressed_and_rate_limited_by_httpd() {
    let site = environment::site(Language::Python)
        .with("<Location /zipped>\nSetOutputFilter DEFLATE\n</Location>")
        .with(
            "<Location /limited>\nSetOutputFilter RATE_LIMIT\nSetEnv rate-limit 4000\n</Location>",
        );
    for server in servers(&site, &["filter", "deflate", "ratelimit"]) {
        let zipped = server.request("app", &gzip_accepting("/zipped"));
        assert_eq!(zipped.header("content-encoding"), Some("gzip"));
        assert!(zipped.body.starts_with(&[0x1f, 0x8b]), "no gzip");
        assert!(zipped
            .header("vary")
            .is_some_and(|v| v.contains("Accept-Encoding")));
        let plain = server.get("app", "/zipped");
        assert_eq!(plain.told("PATH_INFO"), Some("/zipped".into()));
        assert_eq!(
            server.get("app", "/limited").told("PATH_INFO"),
            Some("/limited".into())
        );
    }
}

#[test]
fn authentication_names_the_user_and_keeps_others_out() {
    let app = environment::app(Language::Ruby)
        // "password", by `htpasswd -s`.
        .file("users", "anna:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\n")
        .file("public/in/file.txt", "protected");
    let site = Site::new("app", app).with(
        "<Location /in>\nAuthType Basic\nAuthName x\nAuthBasicProvider file\n\
         AuthUserFile {root}/sites/app/users\nRequire valid-user\n</Location>",
    );
    for server in servers(
        &site,
        &["auth_basic", "authn_core", "authn_file", "authz_user"],
    ) {
        let refused = server.get("app", "/in/x");
        assert_eq!(refused.status, 401);
        assert_eq!(server.get("app", "/in/file.txt").status, 401);
        assert_eq!(
            server.app_pids("app"),
            [0; 0],
            "an unauthorised request started the app"
        );
        let request = Request::get("/in/x").header("Authorization", "Basic YW5uYTpwYXNzd29yZA==");
        assert_eq!(
            server.request("app", &request).told("REMOTE_USER"),
            Some("anna".into())
        );
        let forged = Request::get("/public/x")
            .header("Remote-User", "root")
            .header("REMOTE_USER", "root");
        let response = server.request("app", &forged);
        assert_eq!(response.told("REMOTE_USER"), None);
        assert_eq!(
            response.told("HTTP_REMOTE_USER"),
            Some("root".into()),
            "an ordinary header"
        );
    }
}

#[test]
fn the_clients_address_is_what_mod_remoteip_says() {
    let site = environment::site(Language::Ruby);
    let trusting = site
        .clone()
        .with("RemoteIPHeader X-Forwarded-For\nRemoteIPInternalProxy 127.0.0.1");
    let forwarded = Request::get("/").header("X-Forwarded-For", "192.0.2.7");
    for server in servers(&trusting, &["remoteip"]) {
        assert_eq!(
            server.request("app", &forwarded).told("REMOTE_ADDR"),
            Some("192.0.2.7".into())
        );
    }
    for server in servers(&site, &["remoteip"]) {
        let claims = forwarded
            .clone()
            .header("X-Client-IP", "192.0.2.8")
            .header("Client-IP", "192.0.2.9");
        assert_eq!(
            server.request("app", &claims).told("REMOTE_ADDR"),
            Some("127.0.0.1".into())
        );
    }
}

#[test]
fn an_apps_cacheable_response_is_kept_by_mod_cache() {
    let app = App::inline(
        Language::Ruby,
        "n = 0\nrun ->(env) { [200, {'content-type' => 'text/plain', 'cache-control' => env['PATH_INFO'] == '/kept' ? 'max-age=600' : 'no-store'}, [(n += 1).to_s]] }",
    );
    let site = Site::new("app", app)
        .with("PassengerMinInstances 1")
        .with("CacheEnable socache /");
    let setup = load(
        Setup::of(site),
        &["cache", "cache_socache", "socache_shmcb"],
    )
    .with("CacheSocache shmcb")
    .with("PassengerMaxPoolSize 1");
    for mpm in MPMS {
        let server = setup.clone().mpm(mpm).start();
        assert_eq!(server.get("app", "/kept").ok(), "1");
        assert_eq!(server.get("app", "/kept").ok(), "1");
        assert_eq!(server.get("app", "/fresh").ok(), "2");
        assert_eq!(server.get("app", "/fresh").ok(), "3");
    }
}

/// An app of one process that fails on demand and includes itself.
const NESTING: &str = "run ->(env) {
  case env['PATH_INFO']
  when '/fails' then [500, {'content-type' => 'text/plain', 'set-cookie' => 'a=b'}, ['the app said so']]
  when '/missing' then [404, {'content-type' => 'text/plain'}, ['the app has no such thing']]
  when '/fragment' then [200, {'content-type' => 'text/plain'}, ['fragment']]
  when '/error' then [200, {'content-type' => 'text/plain'}, [\"error page for #{env['REDIRECT_STATUS']}\"]]
  else [200, {'content-type' => 'text/html'}, ['[<!--#include virtual=\"/fragment\" -->]']]
  end
}
";

#[test]
fn errors_of_the_app_become_httpds_documents_only_where_asked_for() {
    let app = App::inline(Language::Ruby, NESTING).file("public/500.html", "static error page");
    let site = Site::new("app", app)
        .with("PassengerErrorOverride on")
        .with("ErrorDocument 500 /500.html")
        .with("ErrorDocument 404 /error");
    for mpm in MPMS {
        let server = Setup::of(site.clone())
            .with("PassengerMaxPoolSize 1")
            .mpm(mpm)
            .start();
        let failed = server.get("app", "/fails");
        assert_eq!(
            (failed.status, failed.text().as_str()),
            (500, "static error page")
        );
        assert_eq!(failed.header("set-cookie"), Some("a=b"));
        // Served by the one process of the same app, once its own answer is out of the way.
        let missing = server.get("app", "/missing");
        assert_eq!(
            (missing.status, missing.text().as_str()),
            (404, "error page for 404")
        );
        let plain = Setup::of(
            Site::new("app", App::inline(Language::Ruby, NESTING)).with("ErrorDocument 404 /error"),
        )
        .mpm(mpm)
        .start();
        assert_eq!(
            plain.get("app", "/missing").text(),
            "the app has no such thing"
        );
    }
}

#[test]
fn an_app_of_one_process_may_include_itself() {
    let app = App::inline(Language::Ruby, NESTING).file(
        "public/page.shtml",
        "<<!--#include virtual=\"/fragment\" -->>",
    );
    let site = Site::new("app", app)
        .with("<Location />\nOptions +Includes\nAddOutputFilter INCLUDES .shtml\n</Location>")
        .with("<Location /including>\nSetOutputFilter INCLUDES\n</Location>");
    let setup = load(Setup::of(site), &["include"]).with("PassengerMaxPoolSize 1");
    for mpm in MPMS {
        let server = setup.clone().mpm(mpm).start();
        assert_eq!(server.get("app", "/page.shtml").ok(), "<fragment>");
        assert_eq!(server.get("app", "/including").ok(), "[fragment]");
    }
}
