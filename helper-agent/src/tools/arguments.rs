//! What can be typed, and what `--help` says about it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::about::{AboutArguments, Fact};
use super::api_call::ApiCallArguments;
use super::elsewhere::Elsewhere;

const INSTANCES_HELP: &str = "\
An instance is one running Apache httpd. It is found in the directory that
PassengerInstanceRegistryDir names: for root /run/passenger-instreg, for an httpd of your own
$XDG_RUNTIME_DIR/passenger-instreg or /tmp/passenger-instreg-UID. For any other set the variable
PASSENGER_INSTANCE_REGISTRY_DIR. With several running, name one; the beginning of its name is enough.

Root sees and steers everything. Everybody else sees and steers the apps that run as him.";

const STATUS_EXAMPLES: &str = "\
EXAMPLES
  passenger-status                          all apps and their processes
  passenger-status --json | jq '.groups[] | {name, get_wait_list_size}'
  watch -n 1 passenger-status --no-header
  passenger-status --show=metrics           for Prometheus; docs/tools.md has an example

It reads shared memory and asks nobody: also while the helper agent is dead or being replaced.

EXIT STATUS
  0 shown    1 no instance, or several and none was named    2 the instance does not answer";

const MEMORY_HELP: &str = "\
Private is what a process has written and shares with nobody; PSS adds its share of what it shares,
so that it may be summed. Root sees all of it, everybody else that of the own processes.

EXIT STATUS
  0 shown    1 no instance    2 the instance does not answer";

const CONFIG_EXAMPLES: &str = "\
EXAMPLES
  passenger-config restart-app /var/www/shop      every app in or below that directory
  passenger-config restart-app .                  the app I am in
  passenger-config detach-process 12345           drain one process; it is replaced
  passenger-config validate --app /var/www/shop   is everything in order, and would this app start?

EXIT STATUS
  0 done    1 not found, or an error was found    2 wrong usage, no answer, or warnings only";

/// The program under its own name.
#[derive(Debug, Parser)]
#[command(
    name = "passenger",
    version,
    about = "Look at and steer app servers inside Apache httpd",
    after_help = INSTANCES_HELP
)]
struct Passenger {
    #[command(subcommand)]
    command: Command,
}

/// Under which name it was called, or its first word.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Apps, processes, queues (also: passenger-status)
    Status(StatusArguments),
    /// Memory of httpd, of mod_passenger and of the apps (also: passenger-memory-stats)
    MemoryStats(MemoryArguments),
    /// Restart an app, detach a process, check the installation (also: passenger-config)
    Config(ConfigArguments),
}

/// `passenger-status`.
#[derive(Debug, Parser)]
#[command(
    name = "passenger-status",
    version,
    about = "Show apps, their processes and queues",
    after_help = STATUS_EXAMPLES,
    after_long_help = format!("{STATUS_EXAMPLES}\n\n{INSTANCES_HELP}")
)]
pub(super) struct StatusArguments {
    /// Name of the instance, or how it begins; needed when several run
    #[arg(value_name = "INSTANCE")]
    pub(super) instance: Option<String>,
    /// What to show
    #[arg(long, value_enum, default_value_t = Show::Pool)]
    pub(super) show: Show,
    /// Short for --show=json
    #[arg(long)]
    pub(super) json: bool,
    /// Leave out version, date and instance
    #[arg(long)]
    pub(super) no_header: bool,
    /// Colors also when the output is not a terminal
    #[arg(long)]
    pub(super) force_colors: bool,
    /// Also sockets, user ids and code generations
    #[arg(short, long)]
    pub(super) verbose: bool,
}

/// Forms of the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Show {
    /// Text for people
    Pool,
    /// Everything, for programs (docs/tools.md lists the fields)
    Json,
    /// Figures for Prometheus and others that read OpenMetrics
    Metrics,
    /// As the original's XML, for programs that read it
    Xml,
    /// There is no such thing here
    #[value(hide = true)]
    Server,
    /// There is no such thing here
    #[value(hide = true)]
    Requests,
    /// There is no such thing here
    #[value(hide = true)]
    Backtraces,
    /// There is no such thing here
    #[value(hide = true, name = "union_station")]
    UnionStation,
}

/// `passenger-memory-stats`.
#[derive(Debug, Parser)]
#[command(
    name = "passenger-memory-stats",
    version,
    about = "Show what httpd, mod_passenger and the apps need of memory",
    after_help = MEMORY_HELP,
    after_long_help = format!("{MEMORY_HELP}\n\n{INSTANCES_HELP}")
)]
pub(super) struct MemoryArguments {
    /// Name of the instance, or how it begins; without it all are shown
    #[arg(value_name = "INSTANCE")]
    pub(super) instance: Option<String>,
    /// For programs
    #[arg(long)]
    pub(super) json: bool,
    /// Leave out the processes of httpd
    #[arg(long)]
    pub(super) no_apache: bool,
    /// Accepted for compatibility: there is no nginx
    #[arg(long, hide = true)]
    pub(super) no_nginx: bool,
}

/// `passenger-config`.
#[derive(Debug, Parser)]
#[command(
    name = "passenger-config",
    version,
    about = "Restart an app, detach a process, list instances, check the installation",
    after_help = CONFIG_EXAMPLES,
    after_long_help = format!("{CONFIG_EXAMPLES}\n\n{INSTANCES_HELP}")
)]
pub(super) struct ConfigArguments {
    #[command(subcommand)]
    pub(super) command: ConfigCommand,
}

/// Commands of `passenger-config`.
#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Replace an app's processes by new ones, without losing a request
    RestartApp(RestartArguments),
    /// Take one process out of service; it finishes what it has and is replaced
    DetachProcess(DetachArguments),
    /// Running instances
    ListInstances(ListArguments),
    /// Check httpd, module, installation, interpreters, and on request one app
    #[command(alias = "validate-install")]
    Validate(ValidateArguments),
    /// One fact of the installation
    About(AboutArguments),
    /// What the original's HTTP API answers, for scripts
    ApiCall(ApiCallArguments),
    #[command(flatten)]
    Elsewhere(Elsewhere),
}

/// `restart-app`.
#[derive(Debug, Args)]
pub(super) struct RestartArguments {
    /// Directory of the app, or one above it: every app below is restarted. "." is the current one
    #[arg(value_name = "DIRECTORY", required_unless_present = "name")]
    pub(super) directory: Option<PathBuf>,
    /// The app with exactly this name, as passenger-status shows it
    #[arg(long, value_name = "GROUP", conflicts_with = "directory")]
    pub(super) name: Option<String>,
    /// Nobody waits for the new code, whatever PassengerRollingRestarts says
    #[arg(long)]
    pub(super) rolling_restart: bool,
    /// Exit with 0 also when no such app runs
    #[arg(long)]
    pub(super) ignore_app_not_running: bool,
    /// Exit with 0 also when no instance runs
    #[arg(long)]
    pub(super) ignore_passenger_not_running: bool,
    /// Name of the instance, or how it begins
    #[arg(long, value_name = "NAME")]
    pub(super) instance: Option<String>,
}

/// `detach-process`.
#[derive(Debug, Args)]
pub(super) struct DetachArguments {
    /// The process, as passenger-status shows it
    #[arg(value_name = "PID")]
    pub(super) pid: i32,
    /// Exit with 0 also when it is no process of an app
    #[arg(long, alias = "ignore-nonexistant-pid")]
    pub(super) ignore_nonexistent_pid: bool,
    /// Name of the instance, or how it begins
    #[arg(long, value_name = "NAME")]
    pub(super) instance: Option<String>,
}

/// `list-instances`.
#[derive(Debug, Args)]
pub(super) struct ListArguments {
    /// For programs
    #[arg(long)]
    pub(super) json: bool,
    /// Print nothing when there is none
    #[arg(short, long)]
    pub(super) quiet: bool,
}

/// `validate`.
#[derive(Debug, Args)]
pub(super) struct ValidateArguments {
    /// Also start the app in this directory for a trial, as the user it would run as
    #[arg(long, value_name = "DIRECTORY")]
    pub(super) app: Option<PathBuf>,
    /// The httpd program; default: apache2 or httpd in PATH and the sbin directories
    #[arg(long, value_name = "FILE")]
    pub(super) httpd: Option<PathBuf>,
    /// httpd's configuration file; default: the one httpd was built with
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// For programs
    #[arg(long)]
    pub(super) json: bool,
    /// Only problems
    #[arg(short, long)]
    pub(super) quiet: bool,
    /// Accepted for compatibility: nothing is ever asked
    #[arg(long, hide = true)]
    pub(super) auto: bool,
    /// Accepted for compatibility: httpd is always checked
    #[arg(long, hide = true)]
    pub(super) validate_apache2: bool,
    /// Accepted for compatibility: the installation is always checked
    #[arg(long, hide = true)]
    pub(super) no_validate_passenger: bool,
    /// Accepted for compatibility: there are no colors
    #[arg(long, hide = true)]
    pub(super) no_colors: bool,
    /// Accepted for compatibility: the summary is a line
    #[arg(long, hide = true)]
    pub(super) no_summary: bool,
    /// Accepted for compatibility: httpd's own configuration is asked for what is built in
    #[arg(long, value_name = "FILE", hide = true)]
    pub(super) apxs2_path: Option<PathBuf>,
    /// Where the installation is; default: where this program is
    #[arg(long, value_name = "DIRECTORY")]
    pub(super) root: Option<PathBuf>,
}

/// Reads a command line, the program's name first.
pub(super) fn parse(line: impl IntoIterator<Item = OsString>) -> Result<Command, clap::Error> {
    let line: Vec<OsString> = line.into_iter().collect();
    let name = line.first().map(PathBuf::from).unwrap_or_default();
    let name = name.file_name().map(Path::new).unwrap_or(Path::new(""));
    match name.to_str() {
        Some("passenger-status") => StatusArguments::try_parse_from(line).map(Command::Status),
        Some("passenger-memory-stats") => {
            MemoryArguments::try_parse_from(line).map(Command::MemoryStats)
        }
        Some("passenger-config") => {
            ConfigArguments::try_parse_from(with_about(line)).map(Command::Config)
        }
        _ => Passenger::try_parse_from(line).map(|passenger| passenger.command),
    }
}

/// Old scripts say `passenger-config --root` for `passenger-config about root`.
fn with_about(mut line: Vec<OsString>) -> Vec<OsString> {
    let word = line.get(1).and_then(|word| word.to_str());
    let fact = word.and_then(|word| word.strip_prefix("--"));
    // clap has its own `--version`.
    let fact = fact.filter(|fact| *fact != "version" && Fact::from_str(fact, false).is_ok());
    if let Some(fact) = fact.map(OsString::from) {
        line.splice(1..2, ["about".into(), fact]);
    }
    line
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parsed(line: &[&str]) -> Result<Command, clap::Error> {
        parse(line.iter().map(OsString::from))
    }

    #[test]
    fn the_tables_of_arguments_are_sound() {
        Passenger::command().debug_assert();
        StatusArguments::command().debug_assert();
        MemoryArguments::command().debug_assert();
        ConfigArguments::command().debug_assert();
    }

    #[test]
    fn the_programs_name_is_its_first_word() {
        let status = parsed(&["/opt/p/bin/passenger-status", "--json"]);
        assert!(matches!(status, Ok(Command::Status(a)) if a.json));
        let status = parsed(&["passenger", "status", "abc"]);
        assert!(matches!(status, Ok(Command::Status(a)) if a.instance.as_deref() == Some("abc")));
        let memory = parsed(&["passenger-memory-stats", "--no-nginx"]);
        assert!(matches!(memory, Ok(Command::MemoryStats(a)) if a.instance.is_none()));
        let memory = parsed(&["passenger", "memory-stats", "--json"]);
        assert!(matches!(memory, Ok(Command::MemoryStats(a)) if a.json));
        let old = parsed(&["passenger-config", "--ruby-command"]);
        let is_about = |c: &ConfigArguments| matches!(&c.command, ConfigCommand::About(a) if a.what == Fact::RubyCommand);
        assert!(matches!(old, Ok(Command::Config(c)) if is_about(&c)));
        let install = parsed(&["passenger-config", "compile-agent", "--auto", "--optimize"]);
        assert!(install.is_ok(), "{install:?}");
        let alias = parsed(&[
            "passenger-config",
            "validate-install",
            "--auto",
            "--no-colors",
        ]);
        let is_validate = |c: &ConfigArguments| matches!(c.command, ConfigCommand::Validate(_));
        assert!(matches!(alias, Ok(Command::Config(c)) if is_validate(&c)));
    }

    #[test]
    fn a_restart_needs_a_directory_or_a_name_and_not_both() {
        assert!(parsed(&["passenger-config", "restart-app"]).is_err());
        assert!(parsed(&["passenger-config", "restart-app", "/a", "--name", "b"]).is_err());
        assert!(parsed(&["passenger-config", "restart-app", "--name", "b"]).is_ok());
    }

    #[test]
    fn help_fits_a_terminal_and_is_no_error() {
        for line in [
            &["passenger", "--help"][..],
            &["passenger-status", "-h"],
            &["passenger-memory-stats", "--help"],
            &["passenger-config", "--help"],
            &["passenger-config", "restart-app", "-h"],
            &["passenger-config", "validate", "-h"],
        ] {
            let help = parsed(line).expect_err("help is not a command");
            assert_eq!(help.exit_code(), 0);
            let text = help.to_string();
            let widest = text.lines().map(str::len).max().unwrap_or(0);
            assert!(widest <= 110, "{widest} columns: {text}");
        }
        assert_eq!(
            parsed(&["passenger-status", "--nonsense"])
                .unwrap_err()
                .exit_code(),
            2
        );
    }
}
