//! Every row of the table of who runs an app: owner, configured user and group, defaults, links, rights, an httpd
//! that is not root's. Needs root; `users` has the first of these rules. A user or group that does not exist keeps httpd
//! from starting.

use harness::app::owner_uid;
use harness::{processes, until, App, Language, Response, Server, Setup, Site};
use nix::unistd::{getgrouplist, Gid, Group, Uid, User};
use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs;
use std::os::unix::fs::{chown, lchown, symlink, PermissionsExt};

fn is_root() -> bool {
    let is_root = Uid::effective().is_root();
    if !is_root {
        eprintln!("skipped: needs root");
    }
    is_root
}

fn user(name: &str) -> User {
    let user = User::from_name(name).expect("read the user database");
    user.unwrap_or_else(|| panic!("no user {name}"))
}

fn gid(name: &str) -> u32 {
    let group = Group::from_name(name).expect("read the group database");
    group
        .unwrap_or_else(|| panic!("no group {name}"))
        .gid
        .as_raw()
}

/// The probe in Python, not started before it is asked.
fn site(name: &str) -> Site {
    Site::new(name, App::probe(Language::Python))
}

/// One word of the probe's answer to `/who`.
fn told(who: &str, key: &str) -> String {
    let word = who.split_whitespace().find_map(|word| {
        let value = word.strip_prefix(key)?.strip_prefix('=')?;
        Some(value.to_owned())
    });
    word.unwrap_or_else(|| panic!("{key} is not in {who:?}"))
}

/// What each row says: name, directives, owner and group of the startup file, user and group expected.
type Row = (
    &'static str,
    &'static [&'static str],
    (u32, u32),
    &'static str,
    &'static str,
);

#[test]
fn every_row_of_the_table() {
    if !is_root() {
        return;
    }
    let daemon = (owner_uid(), gid("daemon"));
    let unknown = (54_321, gid("daemon"));
    let rows: &[Row] = &[
        ("owner", &[], daemon, "daemon", "daemon"),
        ("unknown-owner", &[], unknown, "nobody", "nogroup"),
        ("root-owner", &[], (0, 0), "nobody", "nogroup"),
        ("user", &["PassengerUser games"], daemon, "games", "games"),
        (
            "user-by-number",
            &["PassengerUser 5"],
            daemon,
            "games",
            "games",
        ),
        (
            "root-user",
            &["PassengerUser root"],
            daemon,
            "nobody",
            "nogroup",
        ),
        ("group", &["PassengerGroup mail"], daemon, "daemon", "mail"),
        (
            "root-group",
            &["PassengerGroup root"],
            daemon,
            "daemon",
            "nogroup",
        ),
        (
            "group-of-file",
            &["PassengerGroup !STARTUP_FILE!"],
            (daemon.0, gid("www-data")),
            "daemon",
            "www-data",
        ),
        (
            "roots-group-of-file",
            &["PassengerGroup !STARTUP_FILE!"],
            (daemon.0, 0),
            "daemon",
            "nogroup",
        ),
        (
            "user-and-group",
            &["PassengerUser games", "PassengerGroup mail"],
            daemon,
            "games",
            "mail",
        ),
    ];
    let mut setup = Setup::default().with("PassengerMaxPoolSize 20");
    for (name, directives, ..) in rows {
        let with = |site: Site, directive: &&str| site.with(directive);
        setup = setup.site(directives.iter().fold(site(name), with));
    }
    let server = setup.start();
    for (name, _, (uid, group), ..) in rows {
        let file = server.app_root(name).join("passenger_wsgi.py");
        chown(file, Some(*uid), Some(*group)).expect("give the startup file away");
    }
    for (name, _, _, user, group) in rows {
        runs_as(&server, name, user, group);
    }
}

/// The site's app runs as that user and group, and has all that a user expects of a login.
fn runs_as(server: &Server, name: &str, expected_user: &str, expected_group: &str) {
    let who = server.get(name, "/who").ok();
    let expected = user(expected_user);
    assert_eq!(told(&who, "uid"), expected.uid.to_string(), "{name}: {who}");
    let group = gid(expected_group);
    assert_eq!(told(&who, "gid"), group.to_string(), "{name}: {who}");
    assert_eq!(told(&who, "home"), expected.dir.to_string_lossy(), "{name}");
    assert_eq!(told(&who, "umask"), "22", "{name}");
    let root = server.app_root(name);
    assert_eq!(told(&who, "cwd"), root.to_string_lossy(), "{name}");
    for (variable, value) in [
        ("USER", expected.name.clone()),
        ("LOGNAME", expected.name.clone()),
        ("SHELL", expected.shell.to_string_lossy().into_owned()),
    ] {
        let answer = server.get(name, &format!("/variable?{variable}")).ok();
        assert_eq!(answer.trim(), value, "{name}: {variable}");
    }
    let pids = server.app_pids(name);
    assert!(
        pids.iter().all(|pid| !processes::has_root_anywhere(*pid)),
        "{name}"
    );
}

#[test]
fn an_app_has_all_groups_of_its_user_and_no_other() {
    if !is_root() {
        return;
    }
    // The account with most groups that this machine has.
    let accounts = fs::read_to_string("/etc/passwd").expect("read the accounts");
    let memberships = |name: &str| -> BTreeSet<u32> {
        let user = user(name);
        let word = CString::new(name).expect("no NUL");
        let groups = getgrouplist(&word, user.gid).expect("look the groups up");
        groups.into_iter().map(Gid::as_raw).collect()
    };
    let name = accounts
        .lines()
        .filter_map(|line| line.split(':').next())
        .filter(|name| !user(name).uid.is_root() && user(name).gid.as_raw() != 0)
        .max_by_key(|name| memberships(name).len())
        .expect("an account");
    let server = Setup::of(site("app").with(&format!("PassengerUser {name}"))).start();
    let who = server.get("app", "/who").ok();
    let groups: BTreeSet<u32> = told(&who, "groups")
        .split(',')
        .map(|group| group.parse().expect("a number"))
        .collect();
    assert_eq!(groups, memberships(name), "{who}");
}

fn refused(server: &Server, name: &str, words: &str) {
    let response: Response = server.get(name, "/who");
    assert_eq!(response.status, 500, "{}", response.text());
    server.log().expect(words);
    assert!(server.app_pids(name).is_empty());
}

#[test]
fn links_and_rights_of_the_startup_file_are_judged_by_rules() {
    if !is_root() {
        return;
    }
    let server = Setup::of(site("open"))
        .site(site("open-by-user").with("PassengerUser games"))
        .site(site("link"))
        .site(site("roots-link"))
        .start();
    let file = |name: &str| server.app_root(name).join("passenger_wsgi.py");
    for name in ["open", "open-by-user"] {
        fs::set_permissions(file(name), fs::Permissions::from_mode(0o666)).expect("open the file");
    }
    // Everybody could have written it: its owner would run anybody's code.
    refused(&server, "open", "everybody can write the startup file");
    // Who runs it is the administrator's word.
    let who = server.get("open-by-user", "/who").ok();
    assert_eq!(told(&who, "uid"), user("games").uid.to_string());
    // A link counts as its own owner's, wherever it leads.
    for (name, owner) in [("link", user("games").uid.as_raw()), ("roots-link", 0)] {
        let target = server.app_root(name).join("code.py");
        fs::rename(file(name), &target).expect("move the file");
        symlink(&target, file(name)).expect("make a link");
        lchown(file(name), Some(owner), None).expect("give the link away");
    }
    let who = server.get("link", "/who").ok();
    assert_eq!(told(&who, "uid"), user("games").uid.to_string(), "{who}");
    let who = server.get("roots-link", "/who").ok();
    assert_eq!(told(&who, "uid"), user("nobody").uid.to_string(), "{who}");
}

#[test]
fn htaccess_never_chooses_a_user() {
    for directive in [
        "PassengerUser games",
        "PassengerGroup mail",
        "PassengerLoadShellEnvvars off",
    ] {
        let app = App::probe(Language::Python).file("public/.htaccess", directive);
        let server = Setup::of(Site::new("app", app)).start();
        let response = server.get("app", "/who");
        assert_eq!(response.status, 500, "{directive}");
        server.log().expect("not allowed");
        assert!(server.app_pids("app").is_empty(), "{directive}");
    }
}

#[test]
fn an_httpd_of_an_ordinary_user_runs_everything_as_that_user() {
    if !is_root() {
        return;
    }
    let server = Setup::of(site("app").with("PassengerUser games"))
        .site(site("other"))
        .started_by(owner_uid())
        .start();
    for name in ["app", "other"] {
        let who = server.get(name, "/who").ok();
        assert_eq!(told(&who, "uid"), owner_uid().to_string(), "{name}: {who}");
    }
    let all = processes::members_of(server.root());
    assert!(all
        .iter()
        .all(|pid| processes::uid_of(*pid) == Some(owner_uid())));
}

#[test]
fn the_login_shell_sets_up_the_environment_unless_told_not_to() {
    if !is_root() {
        return;
    }
    let accounts = fs::read_to_string("/etc/passwd").expect("read the accounts");
    let with_shell = accounts.lines().find_map(|line| {
        let words: Vec<&str> = line.split(':').collect();
        let is_shell = words.get(6).is_some_and(|shell| shell.ends_with("/bash"));
        let is_root = words.get(2) == Some(&"0") || words.get(3) == Some(&"0");
        (is_shell && !is_root).then(|| words[0].to_owned())
    });
    let Some(name) = with_shell else {
        eprintln!("skipped: no ordinary user of this machine has bash");
        return;
    };
    let profile =
        "export FROM_PROFILE=yes\nexport IN_PASSENGER=no USER=somebody\ncd /\numask 077\n";
    let home = |site: Site| {
        site.with(&format!("PassengerUser {name}"))
            .with("SetEnv HOME {root}/home")
    };
    let server = Setup::of(home(site("asks")))
        .site(home(site("asks-not")).with("PassengerLoadShellEnvvars off"))
        .start();
    let directory = server.root().join("home");
    fs::create_dir(&directory).expect("make a home");
    fs::write(directory.join(".bash_profile"), profile).expect("write the profile");
    let variable = |site: &str, name: &str| {
        let answer = server.get(site, &format!("/variable?{name}")).ok();
        answer.trim().to_owned()
    };
    assert_eq!(variable("asks", "FROM_PROFILE"), "yes");
    assert_eq!(variable("asks-not", "FROM_PROFILE"), "(unset)");
    for site in ["asks", "asks-not"] {
        assert_eq!(variable(site, "IN_PASSENGER"), "1", "{site}");
        assert_eq!(variable(site, "USER"), name, "{site}");
        let who = server.get(site, "/who").ok();
        assert_eq!(told(&who, "umask"), "22", "{site}");
        assert_eq!(
            told(&who, "cwd"),
            server.app_root(site).to_string_lossy(),
            "{site}"
        );
    }
    until("both to run", harness::wait::PATIENCE, || {
        ["asks", "asks-not"]
            .iter()
            .all(|site| !server.app_pids(site).is_empty())
    });
}
