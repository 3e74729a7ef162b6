//! Out-of-band work: who is away, for how long, and that no request notices.

use harness::wait::PATIENCE;
use harness::{processes, until, App, Language, Load, Server, Setup, Site};
use nix::sys::signal::Signal;
use std::fs;
use std::time::Duration;

const RUBY: &str = r"
NOTE = ->(word) { File.open('notes', 'a') { |f| f.write(%(#{word} #{Process.pid}\n)) } }
# What came in spite of everything waits in a socket: a request, or a connection for one.
REQUEST = [0x50535201].pack('N')
def arrived?
  ObjectSpace.each_object(UNIXSocket).any? do |socket|
    next false if socket.closed?
    next !IO.select([socket], nil, nil, 0).nil? if socket.is_a?(UNIXServer)
    socket.recv_nonblock(4, Socket::MSG_PEEK, exception: false) == REQUEST
  rescue SystemCallError
    false
  end
end
PhusionPassenger.on_event(:oob_work) do
  NOTE.call('begin')
  sleep 0.05
  sleep 0.005 while File.exist?('hold')
  NOTE.call('reached') if arrived?
  NOTE.call('end')
end
count = 0
run(lambda do |env|
  count += 1
  asks = env['PATH_INFO'] == '/ask' || (env['PATH_INFO'] == '/load' && (count % 25).zero?)
  [200, asks ? { '!~Request-OOB-Work' => 'true' } : {}, [Process.pid.to_s]]
end)
";

const PYTHON: &str = r"
import os, time
import phusion_passenger

count = 0

def note(word):
    with open('notes', 'a') as file:
        file.write('%s %d\n' % (word, os.getpid()))

@phusion_passenger.on_event('oob_work')
def work():
    note('begin')
    time.sleep(0.05)
    while os.path.exists('hold'):
        time.sleep(0.005)
    note('end')

def application(environ, start_response):
    global count
    count += 1
    path = environ['PATH_INFO']
    asks = path == '/ask' or (path == '/load' and count % 25 == 0)
    start_response('200 OK', [('X-Passenger-Request-OOB-Work', 'true')] if asks else [])
    return [b'%d' % os.getpid()]
";

const NODE: &str = r"
const fs = require('fs');
const note = (word) => fs.appendFileSync('notes', `${word} ${process.pid}\n`);
const pause = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });
let works = false;
let count = 0;
PhusionPassenger.on('oob_work', async () => {
  works = true;
  note('begin');
  await pause(50);
  while (fs.existsSync('hold')) await pause(5);
  note('end');
  works = false;
});
require('http').createServer((request, response) => {
  count += 1;
  if (works) note('reached');
  if (request.url === '/ask' || (request.url === '/load' && count % 25 === 0)) {
    response.setHeader('X-Passenger-Request-OOB-Work', 'true');
  }
  response.end(String(process.pid));
}).listen();
";

/// Each app asks at `/ask`, and at every 25th of its requests at `/load`. At its work it notes `begin` and `end` with
/// its PID in the file `notes`, works 50 ms, and on while there is a file `hold`. A request that comes meanwhile
/// would be noted as well.
fn app(language: Language) -> App {
    let source = match language {
        Language::Ruby => RUBY,
        Language::Python => PYTHON,
        Language::Node => NODE,
    };
    App::inline(language, source)
}

fn site(language: Language, processes: usize) -> Site {
    Site::new("app", app(language)).with(&format!("PassengerMinInstances {processes}"))
}

/// A server with so many warm processes, and no room for more.
fn warm(language: Language, count: usize) -> Server {
    let setup = Setup::of(site(language, count));
    let server = setup.with(&format!("PassengerMaxPoolSize {count}")).start();
    assert_eq!(server.get("app", "/").status, 200);
    server.await_processes("app", count);
    server
}

/// What the processes noted: a word and a PID each.
fn notes(server: &Server) -> Vec<(String, String)> {
    let text = fs::read_to_string(server.app_root("app").join("notes")).unwrap_or_default();
    let pair = |line: &str| {
        let (word, pid) = line.split_once(' ')?;
        Some((word.to_owned(), pid.to_owned()))
    };
    text.lines().filter_map(pair).collect()
}

fn count(server: &Server, word: &str) -> usize {
    notes(server).iter().filter(|(w, _)| w == word).count()
}

fn await_notes(server: &Server, word: &str, times: usize) {
    until(&format!("{times} notes of {word:?}"), PATIENCE, || {
        count(server, word) >= times
    });
}

fn hold(server: &Server) {
    server.touch("app", "hold");
}

fn let_go(server: &Server) {
    fs::remove_file(server.app_root("app").join("hold")).expect("remove a file of the app");
}

/// Begins and ends take turns, each pair of one process: nobody worked while another did.
fn expect_one_at_a_time(server: &Server) {
    let all = notes(server);
    for pair in all.chunks_exact(2) {
        assert_eq!(
            (pair[0].0.as_str(), pair[1].0.as_str()),
            ("begin", "end"),
            "{all:?}"
        );
        assert_eq!(pair[0].1, pair[1].1, "{all:?}");
    }
}

#[test]
fn no_request_reaches_a_process_at_its_work() {
    for language in Language::ALL {
        let server = warm(language, 3);
        let load = Load::start(server.port(), "app", "/load", 12);
        await_notes(&server, "end", 6);
        let tally = load.finish();
        assert_eq!(
            (tally.failures, tally.resent),
            (Vec::new(), 0),
            "{language:?}, with {} answered",
            tally.ok
        );
        until("the last work to end", PATIENCE, || {
            count(&server, "begin") == count(&server, "end")
        });
        assert_eq!(count(&server, "reached"), 0, "{language:?}");
        expect_one_at_a_time(&server);
        assert_eq!(
            server
                .get("app", "/")
                .header("x-passenger-request-oob-work"),
            None
        );
    }
}

#[test]
fn others_serve_while_one_is_at_work() {
    for language in Language::ALL {
        let server = warm(language, 2);
        hold(&server);
        let worker = server.get("app", "/ask");
        assert_eq!(
            worker.header("x-passenger-request-oob-work"),
            None,
            "{language:?}"
        );
        assert_eq!(worker.header("!~request-oob-work"), None, "{language:?}");
        let worker = worker.ok();
        await_notes(&server, "begin", 1);
        for _ in 0..20 {
            assert_ne!(server.get("app", "/").ok(), worker, "{language:?}");
        }
        // The other one wants to work, too, and has to wait.
        assert_ne!(server.get("app", "/ask").ok(), worker);
        for _ in 0..20 {
            assert_ne!(server.get("app", "/").ok(), worker, "{language:?}");
        }
        assert_eq!(count(&server, "begin"), 1);
        let_go(&server);
        await_notes(&server, "end", 2);
        expect_one_at_a_time(&server);
    }
}

#[test]
fn the_only_process_gets_company_before_it_goes() {
    let server = Setup::of(site(Language::Ruby, 1)).start();
    hold(&server);
    let worker = server.get("app", "/ask").ok();
    await_notes(&server, "begin", 1);
    let pids = server.app_pids("app");
    assert_eq!(pids.len(), 2);
    assert_ne!(server.get("app", "/").ok(), worker);
    let_go(&server);
    await_notes(&server, "end", 1);
    assert_eq!(server.app_pids("app"), pids);
}

#[test]
fn a_process_that_may_have_no_company_stays_in_service() {
    let server = warm(Language::Ruby, 1);
    let pid = server.get("app", "/ask").ok();
    server
        .log()
        .expect("its only process is never taken out of service");
    assert_eq!(server.get("app", "/").ok(), pid);
    assert_eq!(count(&server, "begin"), 0);
}

#[test]
fn a_process_that_dies_at_its_work_is_replaced() {
    let server = warm(Language::Node, 2);
    hold(&server);
    let worker = server.get("app", "/ask").ok();
    await_notes(&server, "begin", 1);
    let load = Load::start(server.port(), "app", "/", 4);
    processes::signal(worker.parse().expect("a pid"), Signal::SIGKILL);
    let now = until_two_without(&server, &worker);
    let_go(&server);
    // Work goes on with those who are there.
    assert!(now.contains(&server.get("app", "/ask").ok()));
    await_notes(&server, "end", 1);
    let tally = load.finish();
    assert_eq!((tally.failures, tally.resent), (Vec::new(), 0));
}

fn until_two_without(server: &Server, gone: &str) -> Vec<String> {
    let mut pids = Vec::new();
    until("another process in its place", PATIENCE, || {
        let now = server.app_pids("app");
        pids = now.iter().map(ToString::to_string).collect();
        pids.len() == 2 && !pids.iter().any(|pid| pid == gone)
    });
    pids
}

#[test]
fn a_process_at_its_work_outlives_the_agent_and_comes_back() {
    for language in [Language::Ruby, Language::Node] {
        let server = warm(language, 2);
        let pids = server.app_pids("app");
        hold(&server);
        let worker = server.get("app", "/ask").ok();
        await_notes(&server, "begin", 1);
        let agent = server.instance().agent();
        processes::signal(agent, Signal::SIGKILL);
        until("another agent", PATIENCE, || {
            server.instance().agent() != agent
        });
        assert_ne!(server.get("app", "/").ok(), worker, "{language:?}");
        let_go(&server);
        await_notes(&server, "end", 1);
        // One request at a time would go to the other, which was used last.
        let load = Load::start(server.port(), "app", "/", 4);
        until("the process to serve again", PATIENCE, || {
            server.get("app", "/").ok() == worker
        });
        assert_eq!(load.finish().failures, Vec::<String>::new());
        assert_eq!(server.app_pids("app"), pids, "{language:?}");
        assert_eq!(
            count(&server, "begin"),
            1,
            "{language:?}: not a second time"
        );
    }
}

#[test]
fn a_restart_does_not_wait_for_work() {
    let server = warm(Language::Node, 2);
    hold(&server);
    let worker = server.get("app", "/ask").ok();
    await_notes(&server, "begin", 1);
    let before = server.app_pids("app");
    let load = Load::start(server.port(), "app", "/", 4);
    let tmp = server.app_root("app").join("tmp");
    fs::create_dir_all(&tmp).expect("create tmp");
    fs::write(tmp.join("restart.txt"), "").expect("touch restart.txt");
    until("the other process to be replaced", PATIENCE, || {
        let now = server.app_pids("app");
        before.iter().any(|pid| !now.contains(pid))
    });
    let_go(&server);
    until("all processes to be new", PATIENCE, || {
        let now = server.app_pids("app");
        now.len() == 2 && before.iter().all(|pid| !now.contains(pid))
    });
    let tally = load.finish();
    assert_eq!((tally.failures, tally.resent), (Vec::new(), 0));
    assert_ne!(server.get("app", "/").ok(), worker);
}

#[test]
fn stop_does_not_wait_for_work_without_end() {
    // At its end the server checks that nothing is left.
    let server = warm(Language::Node, 2);
    hold(&server);
    assert_eq!(server.get("app", "/ask").status, 200);
    await_notes(&server, "begin", 1);
}

/// The one test of the real deadline.
#[test]
fn a_process_whose_work_takes_longer_than_a_minute_is_replaced() {
    let setup = Setup::of(site(Language::Ruby, 2)).with("PassengerMaxPoolSize 3");
    let server = setup.start();
    assert_eq!(server.get("app", "/").status, 200);
    server.await_processes("app", 2);
    let before = server.app_pids("app");
    hold(&server);
    let worker: i32 = server.get("app", "/ask").ok().parse().expect("a pid");
    await_notes(&server, "begin", 1);
    let complaint = "has not come back from its out-of-band work for a minute and is replaced";
    until("the complaint", Duration::from_secs(60) + PATIENCE, || {
        server.log().text().contains(complaint)
    });
    until("another process", PATIENCE, || {
        let now = server.app_pids("app");
        now.iter().any(|pid| !before.contains(pid))
    });
    // It comes back too late, and ends.
    let_go(&server);
    until("the process to end", PATIENCE, || {
        !processes::is_alive(worker)
    });
    assert_ne!(server.get("app", "/").ok(), worker.to_string());
    assert_eq!(server.app_pids("app").len(), 2);
}
