//! `PassengerAppStartCommand`: any program that serves HTTP at `$PORT` is an app.

use crate::frames;
use harness::app::owner_uid;
use harness::wait::PATIENCE;
use harness::{processes, until, App, Load, Request, Server, Setup, Site};
use nix::sys::signal::Signal;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Child, Command, Stdio};

/// The server of `tests/apps/standalone-server.rs`, as a file that it finds in its directory.
const SERVER: &str = env!("CARGO_BIN_EXE_standalone-server");

fn site() -> Site {
    Site::new("app", App::files()).with("PassengerAppStartCommand \"./server $PORT\"")
}

/// Starts httpd and puts the program where the command expects it, before any request comes.
fn start(setup: Setup) -> Server {
    let server = setup.start();
    let program = server.app_root("app").join("server");
    fs::copy(SERVER, &program).expect("copy the server");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("make it executable");
    server
}

fn pid(server: &Server) -> i32 {
    server.get("app", "/pid").ok().parse().expect("a pid")
}

/// PIDs of the server's processes that were ready at some time and are alive.
fn pids(server: &Server) -> Vec<i32> {
    let text = server.log().text();
    let ready = text.lines().filter_map(|line| {
        let (_, after) = line.split_once(": process ")?;
        let (before, _) = after.split_once(" is ready after")?;
        before.rsplit(' ').next()?.parse().ok()
    });
    ready.filter(|pid| processes::is_alive(*pid)).collect()
}

/// Until it is no more: over TCP nobody can tell whether a dying process has read a request.
fn kill(pid: i32) {
    processes::signal(pid, Signal::SIGKILL);
    until("it to be dead", PATIENCE, || !processes::is_alive(pid));
}

#[test]
fn any_program_that_serves_http_is_an_app() {
    let server = start(Setup::of(site()));
    assert_eq!(server.get("app", "/").ok(), "standalone\n");
    let body: Vec<u8> = (0..300_000u32)
        .map(|i| u8::try_from(i % 251).expect("small"))
        .collect();
    assert_eq!(server.post("app", "/echo", &body).body, body);
    let mut client = server.client("app");
    for _ in 0..3 {
        assert_eq!(
            client
                .exchange(&Request::get("/pid"))
                .expect("a response")
                .status,
            200
        );
    }
    let head = server.get("app", "/head?a=b%20c").ok();
    let head = head.to_ascii_lowercase();
    assert!(
        head.starts_with("get /head?a=b%20c http/1.1\r\n") || head == "standalone\n",
        "{head}"
    );
    let head = server.request("app", &Request::new("HEAD", "/pid"));
    assert!(head.status == 200 && head.body.is_empty());
    until("its line in the log", PATIENCE, || pids(&server).len() == 1);
}

#[test]
fn a_command_runs_where_and_as_whom_an_app_does() {
    let site = site()
        .with("SetEnv FROM_THE_ADMINISTRATOR yes")
        .with("SetEnv PORT 80")
        .with("PassengerAppEnv staging");
    let server = start(Setup::of(site));
    let env = server.get("app", "/env").ok();
    let told = |name: &str| {
        let value = env
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        value.map(ToOwned::to_owned)
    };
    let root = server.app_root("app").display().to_string();
    assert_eq!(told("cwd"), Some(root.clone()));
    assert_eq!(told("PWD"), Some(root));
    assert_eq!(told("FROM_THE_ADMINISTRATOR").as_deref(), Some("yes"));
    assert_eq!(told("IN_PASSENGER").as_deref(), Some("1"));
    for name in [
        "RAILS_ENV",
        "RACK_ENV",
        "WSGI_ENV",
        "NODE_ENV",
        "PASSENGER_APP_ENV",
    ] {
        assert_eq!(told(name).as_deref(), Some("staging"), "{name}");
    }
    let port: u16 = told("PORT").expect("a port").parse().expect("a number");
    assert!(port >= 1024, "{port}");
    assert_eq!(told("PASSENGER_PEER_UID"), None, "that is for loaders");
    let uid = fs::metadata(format!("/proc/{}", pid(&server)))
        .expect("look at the process")
        .uid();
    assert_eq!(uid, owner_uid());
}

#[test]
fn a_command_is_ready_when_it_answers_and_not_before() {
    let server = start(Setup::of(site()));
    server.touch("app", "mute");
    let mut client = server.client("app");
    client.send(&Request::get("/")).expect("send");
    // It accepts connections by now.
    until("the server to run", PATIENCE, || {
        processes::all().into_iter().any(|pid| {
            processes::directory_of(pid).is_some_and(|cwd| cwd == server.app_root("app"))
        })
    });
    assert!(pids(&server).is_empty());
    fs::remove_file(server.app_root("app").join("mute")).expect("let it speak");
    assert_eq!(client.response().expect("a response").ok(), "standalone\n");
    until("a ready process", PATIENCE, || pids(&server).len() == 1);
}

#[test]
fn several_processes_have_ports_of_their_own() {
    let site = site().with("PassengerMinInstances 3");
    let server = start(Setup::of(site).with("PassengerMaxPoolSize 3"));
    let load = Load::start(server.port(), "app", "/env", 8);
    until("three processes", PATIENCE, || pids(&server).len() == 3);
    let mut ports = std::collections::HashSet::new();
    until("an answer of each", PATIENCE, || {
        let env = server.get("app", "/env").ok();
        ports.extend(
            env.lines()
                .filter_map(|line| line.strip_prefix("PORT=").map(ToOwned::to_owned)),
        );
        ports.len() == 3
    });
    let tally = load.finish();
    assert_eq!((tally.failures, tally.resent), (Vec::new(), 0));
}

#[test]
fn a_command_that_is_killed_is_replaced_and_a_request_it_never_saw_is_answered() {
    let server = start(Setup::of(site()));
    let first = pid(&server);
    kill(first);
    let second = pid(&server);
    assert_ne!(first, second);
    // What it leaves unfinished is visibly so.
    let broken = server.client("app").exchange(&Request::get("/broken"));
    assert_eq!(
        broken.expect_err("a cut response").kind(),
        std::io::ErrorKind::UnexpectedEof
    );
}

#[test]
fn a_restart_of_a_command_costs_no_request() {
    let site = site().with("PassengerMinInstances 2");
    let server = start(Setup::of(site).with("PassengerMaxPoolSize 3"));
    assert_eq!(server.get("app", "/").status, 200);
    until("two processes", PATIENCE, || pids(&server).len() == 2);
    let before = pids(&server);
    let load = Load::start(server.port(), "app", "/pid", 8);
    until("the load to be under way", PATIENCE, || {
        load.answered() > 200
    });
    let tmp = server.app_root("app").join("tmp");
    fs::create_dir_all(&tmp).expect("create tmp");
    fs::write(tmp.join("restart.txt"), "").expect("touch restart.txt");
    until("two new processes", PATIENCE, || {
        let now = pids(&server);
        now.len() == 2 && before.iter().all(|pid| !now.contains(pid))
    });
    let tally = load.finish();
    assert_eq!((tally.failures, tally.resent), (Vec::new(), 0));
    server.log().expect("finishing 0 requests");
}

#[test]
fn a_command_outlives_the_agent() {
    let server = start(Setup::of(site()));
    let first = pid(&server);
    let agent = server.instance().agent();
    processes::signal(agent, Signal::SIGKILL);
    until("another agent", PATIENCE, || {
        server.instance().agent() != agent
    });
    assert_eq!(pid(&server), first);
    server
        .log()
        .expect(&format!("process {first} goes on under this helper agent"));
    kill(first);
    assert_ne!(pid(&server), first);
}

#[test]
fn stop_lets_a_command_finish_its_requests_and_leaves_nothing() {
    let mut server = start(Setup::of(site()));
    let mut client = server.client("app");
    assert_eq!(server.get("app", "/").status, 200);
    client.send(&Request::get("/wait")).expect("send");
    // The request has reached it when there is a connection that it reads.
    let first = pid(&server);
    server.touch("app", "go-on");
    assert_eq!(client.response().expect("a response").ok(), "waited\n");
    server.stop_within(PATIENCE);
    assert!(!processes::is_alive(first));
    assert!(server.log().text().contains("finishing 0 requests"));
}

#[test]
fn sockets_reach_a_command() {
    // The same app as Node's loader runs, but on its own.
    let listens = "server.listen(process.env.PORT, '127.0.0.1')";
    let source = frames::NODE.replace("server.listen(3000)", listens);
    assert!(source.contains(listens));
    let site = Site::new("ws", App::files().file("sockets.js", &source))
        .with("PassengerAppStartCommand \"/usr/bin/node sockets.js\"");
    let server = Setup::of(site).start();
    let mut stream = frames::open(&server);
    frames::echoes(&mut stream, frames::TEXT, b"hello");
    frames::echoes(&mut stream, frames::BINARY, &[b'x'; 100_000]);
    assert_eq!(server.get("ws", "/").ok(), "plain request");
    assert_eq!(server.get("ws", "/open").ok(), "1");
    drop(stream);
    until("the app to notice", PATIENCE, || {
        server.get("ws", "/open").ok() == "0"
    });
}

#[test]
fn a_shell_reads_the_command() {
    let command =
        "PassengerAppStartCommand \"GREETING='a \\\"b\\\" c' QUOTED=$PORT exec ./server $PORT\"";
    let site = Site::new("app", App::files()).with(command);
    let server = start(Setup::of(site));
    let env = server.get("app", "/env").ok();
    assert!(env.contains("GREETING=a \"b\" c\n"), "{env}");
    // Nothing stands between: the process that is asked to stop is the server itself.
    let pid = pid(&server);
    until("its line in the log", PATIENCE, || pids(&server) == [pid]);
}

#[test]
fn a_server_below_a_shell_finishes_its_requests_too() {
    let site = Site::new("app", App::files())
        .with("PassengerAppStartCommand \"true && ./server $PORT; echo the shell goes on\"");
    let mut server = start(Setup::of(site));
    assert_ne!(
        pids(&server),
        [pid(&server)],
        "the shell is the process that was started"
    );
    server.stop_within(PATIENCE);
    server.log().expect("finishing 0 requests");
    server.log().expect("the shell goes on");
}

#[test]
fn a_command_that_fails_says_why() {
    for (command, timeout, words) in [
        ("echo no database today; exit 3", 30, "no database today"),
        ("./no-such-server $PORT", 30, "no-such-server"),
        ("sleep 3600", 2, "not ready for requests within 2 seconds"),
    ] {
        let site = Site::new("app", App::files())
            .with(&format!("PassengerAppStartCommand \"{command}\""))
            .with(&format!("PassengerStartTimeout {timeout}"))
            .with("PassengerAppEnv development")
            .with("SetEnv DATABASE_PASSWORD gehe1m");
        let server = Setup::of(site).start();
        let page = server.get("app", "/");
        assert_eq!(page.status, 500, "{command}");
        assert!(page.text().contains(words), "{command}: {}", page.text());
        assert!(
            page.text().contains("step answer"),
            "{command}: {}",
            page.text()
        );
        assert!(
            page.text().contains("DATABASE_PASSWORD"),
            "names may be shown"
        );
        assert!(!page.text().contains("gehe1m"), "values may not");
        server.log().expect("step answer");
        assert_eq!(server.log().count("gehe1m"), 0);
    }
}

#[test]
fn an_abandoned_request_does_not_occupy_a_command_for_ever() {
    let site = site().with("PassengerForceMaxConcurrentRequestsPerProcess 1");
    let server = start(Setup::of(site).with("PassengerMaxPoolSize 1"));
    assert_eq!(server.get("app", "/").status, 200);
    let mut client = server.client("app");
    client.send(&Request::get("/wait")).expect("send");
    client.abort();
    assert_eq!(server.get("app", "/").ok(), "standalone\n");
    server.touch("app", "go-on");
}

// --- servers of others, where Debian's packages of them are installed ---

/// Whether the program is there; if not the test has nothing to say, which it prints.
fn is_installed(program: &[&str]) -> bool {
    let found = Command::new(program[0])
        .args(&program[1..])
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !found {
        eprintln!("skipped: {program:?} is not installed (tests/run/deps --frameworks)");
    }
    found
}

/// Four requests at once, a body, a restart.
fn serves(command: &str, file: &str, text: &str) {
    let site = Site::new("app", App::files().file(file, text))
        .with(&format!("PassengerAppStartCommand \"{command}\""));
    let server = Setup::of(site).start();
    assert_eq!(server.get("app", "/a%20b?c=d").ok(), "GET /a%20b c=d 0\n");
    let load = Load::start(server.port(), "app", "/load", 4);
    assert_eq!(
        server.post("app", "/post", &[b'x'; 100_000]).ok(),
        "POST /post  100000\n"
    );
    until("the load to be served", PATIENCE, || load.answered() > 100);
    let tally = load.finish();
    assert_eq!((tally.failures, tally.resent), (Vec::new(), 0));
}

#[test]
fn puma_serves() {
    const RACK: &str = "run ->(env) { length = env['rack.input'].read.bytesize\n\
        [200, {}, [\"#{env['REQUEST_METHOD']} #{env['REQUEST_URI'].split('?').first} #{env['QUERY_STRING']} #{length}\\n\"]] }\n";
    if is_installed(&["/usr/bin/puma"]) {
        serves(
            "/usr/bin/puma --bind tcp://127.0.0.1:$PORT --threads 4:4",
            "config.ru",
            RACK,
        );
    }
}

#[test]
fn uvicorn_serves() {
    const ASGI: &str = r"
async def app(scope, receive, send):
    assert scope['type'] == 'http'
    length, more = 0, True
    while more:
        event = await receive()
        length += len(event.get('body', b''))
        more = event.get('more_body', False)
    words = (scope['method'], scope['raw_path'].decode(), scope['query_string'].decode(), length)
    await send({'type': 'http.response.start', 'status': 200, 'headers': []})
    await send({'type': 'http.response.body', 'body': ('%s %s %s %d\n' % words).encode()})
";
    if is_installed(&["/usr/bin/python3", "-m", "uvicorn"]) {
        serves(
            "/usr/bin/python3 -m uvicorn --port $PORT --lifespan off main:app",
            "main.py",
            ASGI,
        );
    }
}

/// Listens as another user at the port that its argument names, says so, and answers whatever comes.
const THIEF: &str = "import os, socketserver, sys\n\
    os.setgroups([])\nos.setgid(65534)\nos.setuid(65534)\n\
    class Answer(socketserver.StreamRequestHandler):\n    \
    def handle(self):\n        \
    self.wfile.write(b'HTTP/1.1 200 OK\\r\\nContent-Length: 6\\r\\n\\r\\nstolen')\n\
    class Server(socketserver.ThreadingTCPServer):\n    allow_reuse_address = True\n\
    server = Server(('127.0.0.1', int(sys.argv[1])), Answer)\n\
    print('listening', flush=True)\nserver.serve_forever()\n";

/// What the log says where the kernel may not be asked whose a socket is.
const CANNOT_TELL: &str = "the kernel does not tell whose sockets";

/// Gone at the end, whatever happens.
struct Thief(Child);

impl Drop for Thief {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn another_user_at_the_port_of_a_server_that_ended_gets_no_requests() {
    if !nix::unistd::Uid::effective().is_root() {
        return;
    }
    // What the agent watches is the shell, which outlives the server.
    let wrapped = Site::new("app", App::files())
        .with("PassengerAppStartCommand \"./server $PORT; sleep 1000\"");
    let server = start(Setup::of(wrapped));
    let env = server.get("app", "/env").ok();
    let port = env.lines().find_map(|line| line.strip_prefix("PORT="));
    let port = port.expect("a port");
    kill(pid(&server));
    let mut thief = Thief(
        Command::new("python3")
            .args(["-c", THIEF, port])
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the thief"),
    );
    let mut said = String::new();
    let output = thief.0.stdout.take().expect("its output");
    BufReader::new(output)
        .read_line(&mut said)
        .expect("hear the thief");
    assert_eq!(said, "listening\n");
    // The agent finds out, too: what is left of the command ends, and another one gets a port of its own.
    until("another server", PATIENCE, || {
        let response = server.get("app", "/");
        if server.log().text().contains(CANNOT_TELL) {
            return true; // a container may forbid to ask
        }
        assert!(!response.text().contains("stolen"), "{}", response.text());
        response.status == 200 && response.text() == "standalone\n"
    });
    if !server.log().text().contains(CANNOT_TELL) {
        server
            .log()
            .expect("nobody of its user listens at its port");
    }
}
