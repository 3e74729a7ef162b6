//! Document roots that are known only at run time: `UserDir`, `VirtualDocumentRoot`, targets of aliases. Such an app runs only as
//! the sole owner of its files, so these tests need root and a directory that nobody else can write to.

use crate::environment::{self, Told};
use crate::modules::{load, MPMS};
use harness::app::{owner_uid, APP_OWNER};
use harness::{Language, Setup};
use nix::unistd::Uid;
use std::os::unix::fs::chown;
use std::path::PathBuf;

/// Apps under `/var/lib`, removed at the end.
struct Homes(PathBuf);

impl Homes {
    /// None without root.
    fn new(name: &str) -> Option<Homes> {
        if !Uid::effective().is_root() {
            eprintln!("skipped: needs root");
            return None;
        }
        let directory = PathBuf::from(format!("/var/lib/psgr-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("create a directory below /var/lib");
        Some(Homes(directory))
    }

    /// Makes the app of `name`, owned by `uid`.
    fn app(&self, name: &str, uid: u32) {
        let root = self.0.join(name);
        std::fs::create_dir_all(root.join("public")).expect("create the app");
        let source = "run ->(env) { [200, {'content-type' => 'text/plain'}, \
                      [\"SCRIPT_NAME=#{env['SCRIPT_NAME']}\\nPATH_INFO=#{env['PATH_INFO']}\\nUID=#{Process.uid}\\n\"]] }";
        std::fs::write(root.join("config.ru"), source).expect("write config.ru");
        std::fs::write(root.join("public/file.txt"), name).expect("write a file");
        for path in [root.clone(), root.join("public"), root.join("config.ru")] {
            chown(path, Some(uid), Some(uid)).expect("give the app to its owner");
        }
    }
}

impl Drop for Homes {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_users_directory_is_a_host_of_its_own() {
    let Some(homes) = Homes::new("homes") else {
        return;
    };
    homes.app("anna", owner_uid());
    homes.app("mallory", 0);
    let site =
        environment::site(Language::Ruby).with(&format!("UserDir {}/*/public", homes.0.display()));
    for mpm in MPMS {
        let server = load(Setup::of(site.clone()), &["userdir"]).mpm(mpm).start();
        let anna = server.get("app", "/~anna/x/y?z");
        assert_eq!(anna.told("SCRIPT_NAME"), Some("/~anna".into()));
        assert_eq!(anna.told("PATH_INFO"), Some("/x/y".into()));
        assert_eq!(
            anna.told("UID"),
            Some(owner_uid().to_string()),
            "not {APP_OWNER}"
        );
        assert_eq!(server.get("app", "/~anna/file.txt").ok(), "anna");
        assert_eq!(
            server.get("app", "/~mallory/x").status,
            500,
            "an app of root's was run"
        );
        server.log().expect("belongs to uid 0");
        // Nobody's directory: the host's own app answers.
        assert_eq!(
            server.get("app", "/~nobody-there/x").told("PATH_INFO"),
            Some("/~nobody-there/x".into())
        );
    }
}

#[test]
fn a_virtual_document_root_belongs_to_the_host_that_was_asked_for() {
    let Some(homes) = Homes::new("vhosts") else {
        return;
    };
    homes.app("one", owner_uid());
    homes.app("two", owner_uid());
    let site = environment::site(Language::Ruby)
        .with("ServerAlias *")
        .with(&format!(
            "VirtualDocumentRoot {}/%0/public",
            homes.0.display()
        ));
    for mpm in MPMS {
        let server = load(Setup::of(site.clone()), &["vhost_alias"])
            .mpm(mpm)
            .start();
        for host in ["one", "two"] {
            let response = server.get(host, "/x");
            assert_eq!(response.told("PATH_INFO"), Some("/x".into()));
            assert_eq!(server.get(host, "/file.txt").ok(), host);
            assert_eq!(server.instance().app_pids(&homes.0.join(host)).len(), 1);
        }
        assert_eq!(server.get("three", "/x").status, 404);
    }
}

#[test]
fn an_alias_that_is_a_base_uri_needs_no_app_root() {
    let Some(homes) = Homes::new("alias") else {
        return;
    };
    homes.app("anna", owner_uid());
    homes.app("mallory", 0);
    let alias = |uri: &str, name: &str| {
        let directory = homes.0.display();
        format!("Alias {uri} {directory}/{name}/public\nPassengerBaseURI {uri}")
    };
    let site = environment::site(Language::Ruby)
        .with(&alias("/sub", "anna"))
        .with(&alias("/evil", "mallory"));
    for mpm in MPMS {
        let server = Setup::of(site.clone()).mpm(mpm).start();
        let sub = server.get("app", "/sub/x");
        assert_eq!(sub.told("SCRIPT_NAME"), Some("/sub".into()));
        assert_eq!(sub.told("PATH_INFO"), Some("/x".into()));
        assert_eq!(sub.told("UID"), Some(owner_uid().to_string()));
        assert_eq!(
            server.get("app", "/evil/x").status,
            500,
            "an app of root's was run"
        );
        assert_eq!(server.get("app", "/x").told("PATH_INFO"), Some("/x".into()));
    }
}
