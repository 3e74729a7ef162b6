//! What is shipped beside the programs: the demo of `make run` and the configuration of `apache-conf`.

use harness::stage::{prefix, repository};
use harness::wait::{until, until_ok, PATIENCE};
use harness::{processes, App, Client, Language, Request, Setup, Site};
use nix::sys::signal::Signal;
use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// `make run` without make: the demo on a port, killed at the end whatever happens.
struct Demo {
    child: Child,
    port: u16,
    directory: PathBuf,
}

impl Demo {
    fn start(port: u16) -> Demo {
        let name = format!("demo-{}-{port}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).expect("create a directory");
        // Whoever runs this in the background may have it ignore SIGINT, and a shell cannot undo that.
        let child = Command::new("env")
            .arg("--default-signal=INT")
            .arg(repository().join("tests/run/demo"))
            .arg(prefix())
            .current_dir(repository())
            .env("PORT", port.to_string())
            .env("TMPDIR", &directory)
            .stdin(Stdio::null())
            .stdout(fs::File::create(directory.join("output")).expect("create a file"))
            .stderr(fs::File::create(directory.join("errors")).expect("create a file"))
            .process_group(0)
            .spawn()
            .expect("start the demo");
        let readable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&directory, readable).expect("open the directory");
        Demo {
            child,
            port,
            directory,
        }
    }

    fn pid(&self) -> processes::ProcessId {
        i32::try_from(self.child.id()).expect("a pid fits")
    }

    fn output(&self, file: &str) -> String {
        fs::read_to_string(self.directory.join(file)).unwrap_or_default()
    }

    fn get(&self, host: &str) -> std::io::Result<String> {
        Ok(Client::connect(self.port, host)?
            .exchange(&Request::get("/"))?
            .ok())
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "the demo said:\n{}{}",
                self.output("output"),
                self.output("errors")
            );
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        for pid in processes::members_of(&self.directory) {
            processes::signal(pid, Signal::SIGKILL);
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

#[test]
fn make_run_shows_three_apps_and_leaves_nothing_after_ctrl_c() {
    let port = TcpListener::bind("127.0.0.1:0")
        .and_then(|l| l.local_addr())
        .expect("a free port")
        .port();
    let mut demo = Demo::start(port);
    until("the demo to say its URLs", PATIENCE, || {
        demo.output("output").contains("http://ruby.localhost")
    });
    assert!(demo
        .get("127.0.0.1")
        .expect("the landing page")
        .contains("node.localhost"));
    for language in Language::ALL {
        let host = format!("{}.localhost", language.name());
        let page = until_ok(&host, PATIENCE, || demo.get(&host));
        assert!(page.contains("<form"), "{host} shows no form: {page}");
    }
    processes::signal(demo.pid(), Signal::SIGINT);
    until("the demo to end", PATIENCE, || {
        demo.child.try_wait().expect("wait for the demo").is_some()
    });
    let left: Vec<_> = processes::members_of(&demo.directory)
        .into_iter()
        .map(processes::command_of)
        .collect();
    assert_eq!(left, Vec::<String>::new());
    let files: Vec<_> = fs::read_dir(&demo.directory)
        .expect("read the directory")
        .flatten()
        .collect();
    assert_eq!(
        files.len(),
        2,
        "only what this test redirected should be left: {files:?}"
    );
}

#[test]
fn make_run_on_a_taken_port_says_so_in_one_sentence() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("its address").port();
    let mut demo = Demo::start(port);
    until("the demo to end", PATIENCE, || {
        demo.child.try_wait().expect("wait for the demo").is_some()
    });
    assert!(!demo.child.wait().expect("its status").success());
    let errors = demo.output("errors");
    assert_eq!(errors.lines().count(), 1, "{errors}");
    assert!(
        errors.contains(&format!("Port {port} on 127.0.0.1 is taken")),
        "{errors}"
    );
}

/// `passenger.conf` with every directive in force that does not name a place on this system.
fn shipped_configuration() -> String {
    let path = repository().join("apache-conf/passenger.conf");
    let text = fs::read_to_string(path).expect("read passenger.conf");
    let in_force = |line: &str| match line.trim_start().strip_prefix("#Passenger") {
        Some(rest)
            if !["Root", "LogFile", "InstanceRegistryDir", "Python "]
                .iter()
                .any(|it| rest.starts_with(it)) =>
        {
            format!("Passenger{rest}")
        }
        _ => line.to_owned(),
    };
    text.lines().map(in_force).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_shipped_configuration_is_accepted_with_every_directive_in_force() {
    let configuration = shipped_configuration();
    assert!(
        configuration.matches("\nPassenger").count() > 8,
        "nothing in force:\n{configuration}"
    );
    let server = Setup::of(Site::probe(Language::Ruby))
        .with(&configuration)
        .start();
    assert_eq!(server.get("ruby", "/").ok(), "hello from ruby\n");
    let complaints: Vec<_> = server
        .log()
        .text()
        .lines()
        .filter(|line| line.contains("not built yet"))
        .map(str::to_owned)
        .collect();
    assert!(
        complaints.is_empty(),
        "passenger.conf names what does not exist: {complaints:?}"
    );
}

#[test]
fn the_shipped_virtual_hosts_are_accepted() {
    for language in Language::ALL {
        let example = repository().join(format!("apache-conf/examples/{}.conf", language.name()));
        let include = format!("Include \"{}\"", example.display());
        let server = Setup::of(Site::new("site", App::probe(language)))
            .with(&include)
            .start();
        assert_eq!(server.get("site", "/static.txt").status, 200);
    }
}
