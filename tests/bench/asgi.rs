//! ASGI has no counterpart in Phusion Passenger: it is compared with uvicorn behind mod_proxy, on a Unix socket with
//! kept-alive connections, with uvloop and httptools, which are uvicorn's own choice where they are installed.

use crate::report::{self, Cell, Report};
use crate::{wrk, CONNECTIONS};
use harness::wait::{until, PATIENCE};
use harness::{App, Server, Setup, Site, UnderTest};
use nix::sys::signal::{killpg, Signal};
use nix::unistd::Pid;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// The name of the site, and of the row.
pub(crate) const SITE: &str = "asgi";
/// Processes of each contestant.
const PROCESSES: u32 = 2;

const APP: &str = "async def application(scope, receive, send):\n\
                   \x20   assert scope['type'] == 'http'\n\
                   \x20   await send({'type': 'http.response.start', 'status': 200,\n\
                   \x20               'headers': [(b'content-type', b'text/plain'), (b'content-length', b'12')]})\n\
                   \x20   await send({'type': 'http.response.body', 'body': b'hello world\\n'})\n";

/// The shortest app.
pub(crate) fn app() -> App {
    App::files().file("passenger_asgi.py", APP)
}

/// A running uvicorn, ended with all its workers.
struct Uvicorn(Child);

impl Drop for Uvicorn {
    fn drop(&mut self) {
        let group = Pid::from_raw(i32::try_from(self.0.id()).expect("a pid fits"));
        // It may have ended by itself.
        let _ = killpg(group, Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

/// Adds the rows of both.
pub(crate) fn measure(rounds: u32, seconds: u32, report: &mut Report) -> Result<(), String> {
    let ours =
        Setup::of(Site::new(SITE, app()).with(&format!("PassengerMinInstances {PROCESSES}")))
            .without_htaccess()
            .with("LogLevel warn")
            // The default. Tests look at restart.txt and at startup files in every request.
            .with("PassengerStatThrottleRate 10")
            .with(&format!("PassengerMaxPoolSize {PROCESSES}"))
            .start();
    let proxy = Site::new(SITE, app())
        .with("ProxyPass / \"unix:{root}/uvicorn|http://localhost/\" enablereuse=on keepalive=on");
    let theirs = Setup::of(proxy)
        .under_test(UnderTest::Nothing)
        .without_htaccess()
        .with("LogLevel warn")
        .with("LoadModule proxy_module /usr/lib/apache2/modules/mod_proxy.so")
        .with("LoadModule proxy_http_module /usr/lib/apache2/modules/mod_proxy_http.so")
        .start();
    let _uvicorn = uvicorn(&theirs)?;
    for round in 0..=rounds {
        let seconds = if round == 0 { 1 } else { seconds };
        for connections in CONNECTIONS {
            for (name, server) in [(report::OURS, &ours), (report::UVICORN, &theirs)] {
                let sample = wrk::run(server.port(), SITE, "/", connections, seconds)
                    .map_err(|e| format!("{name} {SITE}: {e}"))?;
                if round > 0 {
                    report.add(Cell::new(name, SITE, connections), sample);
                }
            }
        }
    }
    Ok(())
}

/// Starts it where that server's proxy looks for it.
fn uvicorn(server: &Server) -> Result<Uvicorn, String> {
    let socket = server.root().join("uvicorn");
    let child = Command::new("/usr/bin/python3")
        .args(["-m", "uvicorn", "--workers", &PROCESSES.to_string()])
        .args([
            "--no-access-log",
            "--log-level",
            "error",
            "--lifespan",
            "off",
        ])
        .args([
            "--uds",
            &socket.to_string_lossy(),
            "passenger_asgi:application",
        ])
        .current_dir(server.app_root(SITE))
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(|e| format!("cannot run uvicorn (Debian package python3-uvicorn): {e}"))?;
    let uvicorn = Uvicorn(child);
    until("uvicorn to answer", PATIENCE, || {
        server.get(SITE, "/").status == 200
    });
    Ok(uvicorn)
}
