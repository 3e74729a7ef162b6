//! Every directive in every context, against a real httpd: where it may stand, which values it takes, what is said of
//! old names and of what has no effect. The rows are those of `docs/directives.md`, which the module's own table makes;
//! that they are the original's is for `mod_passenger/src/config/reference_tests.rs` to say.

use crate::directive_rows::{obsolete, rows, Row};
use harness::stage::prefix;
use harness::wait::PATIENCE;
use harness::{until, App, Server, Setup, Site};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// A directory for `httpd -t`, removed at the end.
struct Check {
    root: PathBuf,
    runs: AtomicU32,
}

impl Check {
    fn new(name: &str) -> Check {
        let root = std::env::temp_dir().join(format!("psgr-t-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(&root).expect("create a directory");
        Check {
            root,
            runs: AtomicU32::new(0),
        }
    }

    /// Whether httpd accepts these lines, and what it says.
    fn test(&self, lines: &str) -> (bool, String) {
        let number = self.runs.fetch_add(1, Ordering::Relaxed);
        let file = self.root.join(format!("{number}.conf"));
        let (root, prefix) = (self.root.display(), prefix());
        let head = format!(
            "ServerRoot \"{root}\"\nServerName localhost\nListen 127.0.0.1:1\nDefaultRuntimeDir \"{root}\"\n\
             PidFile \"{root}/pid\"\nErrorLog \"{root}/error.log\"\n\
             LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so\n\
             LoadModule passenger_module \"{0}/modules/mod_passenger.so\"\nPassengerRoot \"{0}\"\n",
            prefix.display()
        );
        fs::write(&file, head + lines + "\n").expect("write a configuration");
        let output = Command::new("/usr/sbin/apache2")
            .args(["-t", "-f"])
            .arg(&file)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LANG", "C.UTF-8")
            .stdin(Stdio::null())
            .output()
            .expect("run /usr/sbin/apache2 -t");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), said)
    }

    /// Each of these must be refused with these words: (lines, words).
    fn refuses(&self, cases: &[(String, String)]) {
        // Two at a time: most of a run is the kernel's loading of libraries.
        let next = AtomicUsize::new(0);
        let run = || {
            while let Some((lines, words)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                let (is_accepted, said) = self.test(lines);
                assert!(!is_accepted, "accepted: {lines}\n{said}");
                assert!(said.contains(words), "{lines}\nno {words:?} in:\n{said}");
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(run);
            scope.spawn(run);
        });
    }
}

impl Drop for Check {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.root);
        }
    }
}

/// All of these directives with all their right values.
fn lines<'r>(rows: impl Iterator<Item = &'r Row>, root: &Path) -> String {
    let lines = rows.flat_map(|row| {
        let words = row.right(root);
        words
            .into_iter()
            .map(|word| format!("{} {word}\n", row.name))
    });
    lines.collect()
}

#[test]
fn every_directive_is_taken_with_every_right_value_wherever_it_may_stand() {
    let check = Check::new("right");
    let rows = rows();
    let everywhere = lines(rows.iter(), &check.root);
    let inside = lines(rows.iter().filter(|row| !row.is_global()), &check.root);
    let below = lines(rows.iter().filter(|row| row.is_for_htaccess()), &check.root);
    let (is_accepted, said) = check.test(&format!(
        "{everywhere}<VirtualHost *:1>\n{inside}<Directory /srv>\n{inside}</Directory>\n<Location /a>\n{inside}\
         </Location>\n<LocationMatch ^/b>\n{inside}</LocationMatch>\n<Files f>\n{below}</Files>\n\
         <If \"true\">\n{below}</If>\n</VirtualHost>\n<Directory /opt>\n{inside}</Directory>"
    ));
    assert!(is_accepted, "{said}");
    assert!(!said.contains("PSGR0102"), "{said}");
}

#[test]
fn old_and_obsolete_names_are_taken_and_named_once() {
    let check = Check::new("names");
    let (rows, obsolete) = (rows(), obsolete());
    let mut text = String::new();
    for row in &rows {
        for alias in &row.aliases {
            let word = &row.right(&check.root)[0];
            text += &format!("{alias} {word}\n{alias} {word}\n");
        }
    }
    for name in &obsolete {
        text += &format!("{name} any thing \"at all\"\n{name}\n");
    }
    let (is_accepted, said) = check.test(&text);
    assert!(is_accepted, "{said}");
    let sentence = |name: &str, rest: &str| {
        let mut lines = said.lines();
        lines.any(|line| line.contains(&format!("PSGR0103: {name} (")) && line.contains(rest))
    };
    let mut aliases = 0;
    for row in &rows {
        for alias in &row.aliases {
            let rest = format!(" and 1 more) is an old name: write {}", row.name);
            assert!(sentence(alias, &rest), "{alias}: {said}");
            aliases += 1;
        }
    }
    for name in &obsolete {
        let rest = " and 1 more) is obsolete and has no effect: remove it";
        assert!(sentence(name, rest), "{name}: {said}");
    }
    assert_eq!(said.matches("PSGR0103").count(), aliases + obsolete.len());
    assert!((aliases, obsolete.len()) == (13, 13), "{aliases}");
}

#[test]
fn a_directive_out_of_place_is_an_error_that_says_where_it_belongs() {
    let check = Check::new("place");
    let global = [
        ("<VirtualHost *:1>", "</VirtualHost>"),
        ("<Directory /srv>", "</Directory>"),
        ("<Location /a>", "</Location>"),
        ("<Files f>", "</Files>"),
    ];
    let app = [
        ("<Files f>", "</Files>"),
        ("<If \"true\">", "</If>"),
        ("<Directory /srv>\n<Limit GET>", "</Limit>\n</Directory>"),
    ];
    let mut cases = Vec::new();
    for (number, row) in rows().iter().enumerate() {
        let (sections, belongs) = match row.context.as_str() {
            "global" => (
                &global[..],
                "it holds for all of httpd and belongs outside of all sections",
            ),
            "app" => (
                &app[..],
                "it belongs outside of all sections, or in <VirtualHost>, <Directory> or <Location>",
            ),
            _ => (&app[2..], "it belongs outside of all sections, in <VirtualHost>"),
        };
        let (begin, end) = sections[number % sections.len()];
        let word = &row.right(&check.root)[0];
        let section = begin.lines().last().unwrap_or_default();
        let words = format!("{} may not stand in {section}: {belongs}", row.name);
        cases.push((format!("{begin}\n{} {word}\n{end}", row.name), words));
    }
    check.refuses(&cases);
}

#[test]
fn a_wrong_value_is_an_error_that_shows_the_right_form() {
    let check = Check::new("value");
    let rows = rows();
    let cases = rows.iter().flat_map(|row| {
        let line = |(word, words)| (format!("{} {word}", row.name), words);
        row.wrong().into_iter().map(line)
    });
    check.refuses(&cases.collect::<Vec<_>>());
}

/// Directories with an `.htaccess` each, below one document root.
struct Directories {
    app: App,
    count: usize,
}

impl Directories {
    fn new() -> Directories {
        Directories {
            app: App::files(),
            count: 0,
        }
    }

    /// Another one; its name.
    fn add(&mut self, lines: &str) -> String {
        self.count += 1;
        let name = format!("d{}", self.count);
        let app = std::mem::replace(&mut self.app, App::files());
        self.app = app
            .file(&format!("public/{name}/.htaccess"), &format!("{lines}\n"))
            .file(&format!("public/{name}/file.txt"), "here\n");
        name
    }
}

#[test]
fn htaccess_may_say_what_concerns_a_location_and_nothing_else() {
    let mut directories = Directories::new();
    let (mut taken, mut refused) = (Vec::new(), Vec::new());
    for row in rows() {
        if row.is_for_htaccess() {
            for word in row.right(Path::new("/nonexistent")) {
                let line = format!("{} {word}", row.name);
                taken.push((directories.add(&line), line));
            }
            for (word, words) in row.wrong() {
                let line = format!("{} {word}", row.name);
                refused.push((directories.add(&line), words));
            }
            let line = format!("<Limit GET>\n{} \"{}\"\n</Limit>", row.name, row.default);
            let words = format!("{} may not stand in <Limit GET>: it belongs", row.name);
            refused.push((directories.add(&line), words));
        } else {
            let line = format!("{} {}", row.name, row.right(Path::new("/nonexistent"))[0]);
            let words = format!("{} not allowed here", row.name);
            refused.push((directories.add(&line), words));
        }
    }
    let narrow = directories.add("PassengerAllowEncodedSlashes on");
    // Whatever an administrator lists, these are not for users to say.
    let listed = directories.add("PassengerUser root");
    let listed_global = directories.add("PassengerLogFile /etc/passwd");
    let public = "{root}/sites/app/public";
    let allows = |directory: &str| {
        format!(
            "<Directory \"{public}/{directory}\">\n    AllowOverride None\n    \
             AllowOverrideList PassengerUser PassengerLogFile\n</Directory>"
        )
    };
    let site = Site::new("app", directories.app)
        .with(&format!(
            "<Directory \"{public}/{narrow}\">\n    AllowOverride FileInfo\n</Directory>"
        ))
        .with(&allows(&listed))
        .with(&allows(&listed_global));
    let server = Setup::of(site).start();
    for (name, line) in &taken {
        let response = server.get("app", &format!("/{name}/file.txt"));
        assert_eq!(response.status, 200, "{line}: {}", server.log().tail(3));
    }
    refused.push((
        narrow,
        "PassengerAllowEncodedSlashes not allowed here".to_owned(),
    ));
    refused.push((
        listed,
        "PassengerUser may not stand in .htaccess: it belongs".to_owned(),
    ));
    refused.push((
        listed_global,
        "PassengerLogFile may not stand in .htaccess: it holds for all of httpd".to_owned(),
    ));
    for (name, words) in &refused {
        let response = server.get("app", &format!("/{name}/file.txt"));
        assert_eq!(response.status, 500, "{words}: {}", server.log().tail(3));
        is_said_of(&server, &format!("/{name}/.htaccess"), words);
    }
}

/// httpd wrote a line about that file with those words.
fn is_said_of(server: &Server, file: &str, words: &str) {
    let text = server.log().text();
    let is_said = text
        .lines()
        .any(|line| line.contains(file) && line.contains(words));
    assert!(is_said, "no {words:?}: {}", server.log().tail(3));
}

#[test]
fn what_has_no_effect_is_said_once_at_start_unless_it_says_what_holds_anyway() {
    let mut setup = Setup::of(Site::new("app", App::files()));
    let mut named = Vec::new();
    let mut silent = Vec::new();
    for row in rows().into_iter().filter(|row| !row.has_effect) {
        let is_flag = row.takes == "On, Off";
        if is_flag && row.default == "on" {
            setup = setup.with(&format!("{} On", row.name));
            silent.push(row.name);
        } else {
            let word = match row.bounds() {
                Some((least, _)) => (least + 1).to_string(),
                None if is_flag => "On".to_owned(),
                None => "{root}/x".to_owned(),
            };
            setup = setup.with(&format!("{0} {word}\n{0} {word}", row.name));
            named.push(row.name);
        }
    }
    let server = setup
        .with("PassengerCtl max_instances_per_app 3\nPassengerCtl controller_threads 4")
        .with("PassengerCtl hook_spawned /bin/true\nPassengerCtl invented 1")
        .start();
    let log = server.log();
    let said: Vec<String> = log
        .text()
        .lines()
        .filter(|line| line.contains("PSGR0104"))
        .map(str::to_owned)
        .collect();
    assert!((1..=2).contains(&said.len()), "{said:?}");
    for name in &named {
        let times = said.concat().matches(&format!("{name} (")).count();
        assert_eq!(times, 1, "{name}: {said:?}");
    }
    for name in &silent {
        assert!(!said.concat().contains(&format!("{name} (")), "{name}");
    }
    assert!(named.len() > 8 && silent.len() == 2, "{silent:?}");
    for (key, why) in [
        (
            "controller_threads",
            "has no effect: requests pass no controller",
        ),
        ("hook_spawned", "there is no hook of that name"),
        ("invented", "is no option that is known here"),
    ] {
        let text = log.text();
        let mut lines = text.lines();
        let is_said = |line: &str| {
            line.contains(&format!("PSGR0103: PassengerCtl {key} (")) && line.contains(why)
        };
        assert!(lines.any(is_said), "{key}: {text}");
    }
    assert_eq!(log.count("max_instances_per_app"), 0, "it has an effect");
}

#[test]
fn the_manifest_says_which_line_each_value_comes_from() {
    let site = Site::new("app", App::files())
        .with("PassengerMinInstances 2\n    <Location /quiet>\n        PassengerEnabled off\n    </Location>");
    let mut server = Setup::of(site)
        .with("PassengerDumpConfigManifest manifest.json\nPassengerCtl max_pool_size 7")
        .start();
    let path = server.root().join("manifest.json");
    let manifest = || -> serde_json::Value {
        let text = fs::read_to_string(&path).expect("the manifest");
        serde_json::from_str(&text).expect("JSON")
    };
    let mode = fs::metadata(&path)
        .expect("the manifest")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let sizes =
        &manifest()["global_configuration"]["PassengerMaxPoolSize"]["value_hierarchy"].clone();
    assert_eq!(
        (&sizes[0]["value"], &sizes[1]["value"]),
        (&7.into(), &6.into())
    );
    let file = sizes[0]["source"]["path"].as_str().expect("a path");
    assert!(file.ends_with("httpd.conf"), "{file}");
    let name = format!("{} (production)", server.app_root("app").display());
    let app = |key: &str| manifest()["application_configurations"][&name][key].clone();
    let least = app("options")["PassengerMinInstances"]["value_hierarchy"][0]["value"].clone();
    assert_eq!(least, 2);
    let quiet = &app("location_configurations")[0];
    assert_eq!(quiet["location_matcher"]["value"], "/quiet");
    // A restart that changes something changes the manifest.
    server.reconfigure(|setup| setup.with_lines_of("app", &["PassengerMinInstances 5"]));
    until("the new value in the manifest", PATIENCE, || {
        app("options")["PassengerMinInstances"]["value_hierarchy"][0]["value"] == 5
    });
}
