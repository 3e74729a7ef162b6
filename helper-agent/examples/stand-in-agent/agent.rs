//! The stand-in for the helper agent: obeys its test over a Unix socket, one command a line in, one event a line
//! out. What it does at its start says a mode file.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use helper_agent::output::{Drained, LineDrain, Scratch};
use helper_agent::store::{StartDescriptors, ToAgent, ToWatchdog};
use helper_agent::sys::pidfd::Pidfd;
use helper_agent::sys::spawn::{spawn, Program};
use helper_agent::sys::{descriptor, process};
use helper_agent::watchdog::takeover::{hand_over, HandOver, HeldProcess, HeldWorker};
use passenger_shm::channel::Channel;
use passenger_shm::{AgentView, ClientId};

use super::environment;

struct App {
    pid: i32,
    pidfd: Pidfd,
    output: OwnedFd,
    control: OwnedFd,
    drain: LineDrain,
    is_closed: bool,
}

struct WorkerHeld {
    pid: i32,
    connection: OwnedFd,
    pidfd: OwnedFd,
}

struct Started {
    instance_dir: String,
    parent_pid: i32,
    watchdog_generation: u32,
    descriptors: StartDescriptors,
    view: AgentView,
}

/// The agent that is none.
pub(super) struct Agent {
    mode: String,
    channel: Channel,
    test: UnixStream,
    commands: BufReader<UnixStream>,
    started: Option<Started>,
    config: Option<(u64, OwnedFd, OwnedFd)>,
    workers: BTreeMap<(u16, u16), WorkerHeld>,
    apps: BTreeMap<(u32, u32), App>,
    may_read_outputs: bool,
    was_ready: bool,
    is_stopping: bool,
    scratch: Scratch,
}

impl Agent {
    pub(super) fn start(channel: Channel) -> Self {
        process::set_name(c"stand-in-agent");
        process::become_subreaper().expect("subreaper");
        helper_agent::log::install();
        channel.set_nonblocking(true).expect("nonblocking");
        let file = std::env::var("STAND_IN_MODE").expect("STAND_IN_MODE");
        let mode = std::fs::read_to_string(file)
            .unwrap_or_default()
            .trim()
            .to_owned();
        let test = UnixStream::connect(std::env::var("STAND_IN_SOCKET").expect("STAND_IN_SOCKET"));
        let test = test.expect("the test listens");
        let commands = BufReader::new(test.try_clone().expect("dup"));
        let scratch = Scratch::new().expect("scratch");
        let mut agent = Self {
            mode,
            channel,
            test,
            commands,
            started: None,
            config: None,
            workers: BTreeMap::new(),
            apps: BTreeMap::new(),
            may_read_outputs: false,
            was_ready: false,
            is_stopping: false,
            scratch,
        };
        agent.event(&format!("hello {}", std::process::id()));
        agent
    }

    fn event(&mut self, text: &str) {
        // The test may be over.
        let _ = writeln!(self.test, "{text}");
    }

    pub(super) fn run(mut self) -> ! {
        loop {
            if let Some(started) = &self.started {
                started.view.beat();
            }
            let _ = self.channel.wait_readable(Duration::from_millis(10));
            self.read_channel();
            self.read_command();
            if self.may_read_outputs {
                self.read_outputs();
            }
            if self.is_stopping {
                self.stop();
            }
        }
    }

    fn read_channel(&mut self) {
        loop {
            match self.channel.recv::<ToAgent>() {
                Ok(Some(received)) => self.on_message(received.message, received.fds),
                Ok(None) => self.become_watchdog(),
                Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => {}
                Err(_) => return,
            }
        }
    }

    fn on_message(&mut self, message: ToAgent, fds: Vec<OwnedFd>) {
        if message != ToAgent::Beat {
            self.event(&format!("{message:?}"));
        }
        match message {
            ToAgent::Start {
                instance_dir,
                parent_pid,
                watchdog_generation,
                ..
            } => {
                let d = StartDescriptors::from_order(fds).expect("all descriptors");
                let doorbell = d.doorbell.try_clone().expect("dup");
                let view = AgentView::attach(d.routes.as_fd(), d.traffic.as_fd(), doorbell);
                let view = view.expect("attach");
                view.adopt();
                self.started = Some(Started {
                    instance_dir,
                    parent_pid,
                    watchdog_generation,
                    descriptors: d,
                    view,
                });
            }
            ToAgent::PastConfig { .. } | ToAgent::Retire => {}
            ToAgent::Config { generation } => self.on_config(generation, fds),
            ToAgent::Worker {
                slot,
                generation,
                pid,
            } => {
                let [connection, pidfd] = <[OwnedFd; 2]>::try_from(fds).expect("two descriptors");
                self.workers.insert(
                    (slot, generation),
                    WorkerHeld {
                        pid,
                        connection,
                        pidfd,
                    },
                );
            }
            ToAgent::WorkerGone { slot, generation } => {
                self.workers.remove(&(slot, generation));
            }
            ToAgent::Process {
                slot,
                generation,
                pid,
            } => {
                let [pidfd, output, control] = <[OwnedFd; 3]>::try_from(fds).expect("three");
                self.insert((slot, generation), pid, pidfd.into(), output, control);
            }
            ToAgent::StoreEnd => {
                self.may_read_outputs = true;
                if let Some((generation, ..)) = self.config {
                    self.say_ready(generation);
                }
            }
            ToAgent::ChildExited { .. } | ToAgent::Beat => {}
            ToAgent::Stop { .. } => self.is_stopping = self.mode != "ignore-stop",
        }
    }

    fn on_config(&mut self, generation: u64, fds: Vec<OwnedFd>) {
        match self.mode.as_str() {
            "die" => std::process::exit(3),
            "silent" => return,
            "refuse" => {
                let message = "the stand-in refuses".to_owned();
                self.tell(
                    &ToWatchdog::ConfigRefused {
                        generation,
                        message,
                    },
                    &[],
                );
                return;
            }
            _ => {}
        }
        let [document, log] = <[OwnedFd; 2]>::try_from(fds).expect("two descriptors");
        helper_agent::log::replace(log.try_clone().expect("dup"));
        self.config = Some((generation, document, log));
        if self.may_read_outputs {
            self.say_ready(generation);
        }
    }

    fn say_ready(&mut self, generation: u64) {
        self.tell(&ToWatchdog::Ready { generation }, &[]);
        self.was_ready = true;
        self.event("ready");
    }

    fn tell(&self, message: &ToWatchdog, fds: &[std::os::fd::BorrowedFd<'_>]) {
        // A watchdog that is gone is noticed when reading.
        let _ = self.channel.send(message, fds);
    }

    fn insert(
        &mut self,
        key: (u32, u32),
        pid: i32,
        pidfd: Pidfd,
        output: OwnedFd,
        control: OwnedFd,
    ) {
        let drain = LineDrain::for_app(pid, "");
        self.apps.insert(
            key,
            App {
                pid,
                pidfd,
                output,
                control,
                drain,
                is_closed: false,
            },
        );
    }

    fn read_command(&mut self) {
        let ready = descriptor::poll_now(self.test.as_fd(), libc::POLLIN).unwrap_or(0);
        if ready == 0 && self.commands.buffer().is_empty() {
            return;
        }
        let mut line = String::new();
        if self.commands.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        match line.trim().split_once(' ').unwrap_or((line.trim(), "")) {
            ("spawn", script) => self.spawn(script),
            ("mode", mode) => mode.clone_into(&mut self.mode),
            (other, _) => panic!("unknown command {other}"),
        }
    }

    fn spawn(&mut self, script: &str) {
        let shell = File::open("/bin/sh").expect("sh");
        let null = File::open("/dev/null").expect("null");
        let (output, output_app) = descriptor::pipe().expect("pipe");
        let (control, control_app) = UnixStream::pair().expect("socketpair");
        let started = spawn(&Program {
            image: shell.as_fd(),
            arguments: vec![
                c"sh".into(),
                c"-c".into(),
                CString::new(script).expect("no NUL"),
            ],
            environment: environment(&[]),
            descriptors: vec![
                (null.as_fd(), 0),
                (output_app.as_fd(), 1),
                (output_app.as_fd(), 2),
                (control_app.as_fd(), 3),
            ],
            new_session: true,
            oom_score_adj: None,
            nofile: None,
        })
        .expect("spawn");
        let slot = u32::try_from(self.apps.len()).expect("few") + 1;
        let message = ToWatchdog::Process {
            slot,
            generation: 1,
            pid: started.pid,
            app: String::new(),
        };
        let fds = [started.pidfd.as_fd(), output.as_fd(), control.as_fd()];
        self.tell(&message, &fds);
        self.event(&format!("spawned {}", started.pid));
        self.insert(
            (slot, 1),
            started.pid,
            started.pidfd,
            output,
            control.into(),
        );
    }

    fn read_outputs(&mut self) {
        for app in self.apps.values_mut().filter(|app| !app.is_closed) {
            let mut sink = |line: &str| {
                let _ = helper_agent::log::app_output(line);
            };
            let drained = app
                .drain
                .drain(app.output.as_fd(), &mut self.scratch, &mut sink);
            app.is_closed = matches!(drained, Ok(Drained::Closed) | Err(_));
        }
    }

    /// Ends the apps; when they have ended, this process.
    fn stop(&mut self) {
        let mut is_done = true;
        for app in self.apps.values() {
            let _ = app.pidfd.signal(libc::SIGTERM);
            let _ = app.pidfd.reap();
            is_done &= app.pidfd.has_exited();
        }
        if is_done {
            self.read_outputs();
            self.tell(&ToWatchdog::Stopped, &[]);
            std::process::exit(0);
        }
    }

    fn become_watchdog(&self) -> ! {
        let started = self.started.as_ref().expect("was started");
        let (generation, document, log) = self.config.as_ref().expect("has a configuration");
        hand_over(&HandOver {
            instance_dir: &started.instance_dir,
            parent_pid: started.parent_pid,
            watchdog_generation: started.watchdog_generation,
            descriptors: &started.descriptors,
            config: (*generation, document.as_fd(), log.as_fd()),
            past: Vec::new(),
            workers: self
                .workers
                .iter()
                .map(|((slot, generation), held)| HeldWorker {
                    client: ClientId::new(*slot, *generation),
                    pid: held.pid,
                    connection: held.connection.as_fd(),
                    pidfd: held.pidfd.as_fd(),
                })
                .collect(),
            processes: self
                .apps
                .iter()
                .map(|((slot, generation), app)| HeldProcess {
                    slot: *slot,
                    generation: *generation,
                    pid: app.pid,
                    app: String::new(),
                    pidfd: app.pidfd.as_fd(),
                    output: app.output.as_fd(),
                    control: app.control.as_fd(),
                })
                .collect(),
            was_ready: self.was_ready,
            nofile: None,
            oom_score_adj: None,
            is_retired: false,
            stop_in_ms: None,
        })
    }
}
