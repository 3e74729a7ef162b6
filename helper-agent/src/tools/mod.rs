//! The command-line tools: one program, `passenger`, that also answers to `passenger-status`, `passenger-config` and
//! `passenger-memory-stats`. They find instances in the registry directories and talk to an instance's two sockets;
//! who they are the kernel tells.
//!
//! | exit status | meaning |
//! |---|---|
//! | 0 | done, or nothing wrong |
//! | 1 | no such instance, app or process; a check found an error |
//! | 2 | wrong usage; the instance does not answer; a check found warnings only |
//!
//! * `arguments.rs` – what can be typed, and `--help`;
//! * `registry.rs` – which instances there are, and choosing one;
//! * `client.rs` – asking an instance;
//! * `status_text.rs` – a report as text; `metrics.rs`, `openmetrics.rs` – as metrics; `xml.rs` – as XML; `steer.rs` – restart, detach, list;
//! * `memory_stats.rs`, `process_table.rs` – who needs how much memory;
//! * `api_call.rs`, `about.rs`, `elsewhere.rs` – what scripts for the original call;
//! * `validate.rs`, `checks.rs`, `trial.rs` – looking whether everything is in order.

mod about;
mod api_call;
mod arguments;
mod checks;
mod client;
mod elsewhere;
mod memory_stats;
mod metrics;
mod openmetrics;
mod process_table;
mod registry;
mod status_text;
mod steer;
mod trial;
mod validate;
mod xml;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use arguments::{Command, ConfigCommand, Show, StatusArguments};

/// What ends a tool early: an exit status and a sentence for standard error.
#[derive(Debug)]
struct Failure {
    status: u8,
    message: String,
}

impl Failure {
    /// There is no such thing.
    fn absent(message: impl Into<String>) -> Self {
        Self {
            status: 1,
            message: message.into(),
        }
    }

    /// It cannot be asked, or not like that.
    fn unable(message: impl Into<String>) -> Self {
        Self {
            status: 2,
            message: message.into(),
        }
    }
}

/// How a tool ended: an exit status that is not a failure of the tool itself.
type Outcome = Result<u8, Failure>;

/// The program.
#[must_use]
pub fn main() -> ExitCode {
    let outcome = match arguments::parse(std::env::args_os()) {
        Ok(command) => run(&command),
        Err(e) => {
            // Also `--help` and `--version`, which go to standard output and are no errors.
            let _ = e.print();
            return ExitCode::from(u8::try_from(e.exit_code()).unwrap_or(2));
        }
    };
    match outcome {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            let _ = writeln!(io::stderr(), "{}", failure.message);
            ExitCode::from(failure.status)
        }
    }
}

fn run(command: &Command) -> Outcome {
    match command {
        Command::Status(arguments) => status(arguments),
        Command::MemoryStats(arguments) => memory_stats::memory_stats(arguments),
        Command::Config(config) => match &config.command {
            ConfigCommand::RestartApp(arguments) => steer::restart_app(arguments),
            ConfigCommand::DetachProcess(arguments) => steer::detach_process(arguments),
            ConfigCommand::ListInstances(arguments) => steer::list_instances(arguments),
            ConfigCommand::Validate(arguments) => validate::validate(arguments),
            ConfigCommand::About(arguments) => about::about(arguments),
            ConfigCommand::ApiCall(arguments) => api_call::api_call(arguments),
            ConfigCommand::Elsewhere(command) => elsewhere::answer(command),
        },
    }
}

fn status(arguments: &StatusArguments) -> Outcome {
    let instance = registry::choose(arguments.instance.as_deref())?;
    let show = if arguments.json {
        Show::Json
    } else {
        arguments.show
    };
    if show == Show::Json {
        let value = client::status_value(&instance)?;
        say(&format!("{value:#}\n"))?;
        return Ok(0);
    }
    let report = client::status(&instance)?;
    match show {
        Show::Pool | Show::Json => {}
        Show::Metrics => return say(&metrics::render(&report)).map(|()| 0),
        Show::Xml => return say(&xml::render(&report, &xml::Around::now())).map(|()| 0),
        Show::Server | Show::Requests | Show::Backtraces | Show::UnionStation => {
            return Err(Failure::unable(without(show)));
        }
    }
    let look = status_text::Look {
        has_header: !arguments.no_header,
        is_verbose: arguments.verbose,
        has_colors: arguments.force_colors || is_terminal(),
        now: seconds_now(),
    };
    say(&status_text::render(&report, look))?;
    Ok(0)
}

/// Why something of the original's is not shown, and what is instead.
fn without(show: Show) -> &'static str {
    match show {
        Show::Server | Show::Requests => {
            "there is no server beside httpd whose requests could be shown; httpd's own mod_status shows them \
             (ExtendedStatus On), and passenger-status how many each process has"
        }
        Show::Backtraces => {
            "there are no backtraces to show: the helper agent serves no requests, and is replaced when it hangs"
        }
        _ => "Union Station does not exist any more; passenger-status --show=metrics has figures for monitoring",
    }
}

/// Writes to standard output; a reader that has seen enough (`| head`) is no error.
fn say(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::unable(format!("cannot write the output: {e}")))
        }
        _ => Ok(()),
    }
}

fn is_terminal() -> bool {
    io::IsTerminal::is_terminal(&io::stdout())
}

fn seconds_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}
