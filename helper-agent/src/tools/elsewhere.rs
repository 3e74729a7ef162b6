//! Commands of the original's `passenger-config` that there is nothing to do for, or nothing to do with. Scripts call
//! them: they get an exit status that lets them go on where that is right, and a sentence.

use std::ffi::OsString;

use clap::{Args, Subcommand};

use super::{registry, say, Failure, Outcome};

/// Whatever follows.
#[derive(Debug, Args)]
pub(super) struct Ignored {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    rest: Vec<OsString>,
}

/// `reopen-logs`.
#[derive(Debug, Args)]
pub(super) struct ReopenArguments {
    /// Accepted for compatibility
    #[arg(long, hide = true)]
    ignore_logs_not_available: bool,
    /// Name of the instance, or how it begins
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
}

/// These commands.
#[derive(Debug, Subcommand)]
pub(super) enum Elsewhere {
    /// Nothing to do: rotated logs are opened anew without it
    ReopenLogs(ReopenArguments),
    #[command(hide = true)]
    BuildNativeSupport(Ignored),
    #[command(hide = true, aliases = ["compile-agent", "download-agent"])]
    InstallAgent(Ignored),
    #[command(hide = true, aliases = ["compile-nginx-engine", "download-nginx-engine"])]
    InstallStandaloneRuntime(Ignored),
    #[command(hide = true)]
    SystemMetrics(Ignored),
    #[command(hide = true)]
    SystemProperties(Ignored),
}

/// Answers.
pub(super) fn answer(command: &Elsewhere) -> Outcome {
    let fine = |text: &str| say(&format!("{text}\n")).map(|()| 0);
    match command {
        Elsewhere::ReopenLogs(arguments) => {
            registry::choose(arguments.instance.as_deref())?;
            fine(
                "Nothing to do: logs of apps are opened anew within a second of their rotation, and the main log when \
                 httpd restarts gracefully.\nAll done",
            )
        }
        Elsewhere::BuildNativeSupport(_) => fine("Nothing to do: there is no native extension for Ruby."),
        Elsewhere::InstallAgent(_) => fine("Nothing to do: the helper agent is installed with the module."),
        Elsewhere::InstallStandaloneRuntime(_) => Err(Failure::absent(
            "there is no standalone mode and nothing for nginx: this runs inside Apache httpd",
        )),
        Elsewhere::SystemMetrics(_) | Elsewhere::SystemProperties(_) => Err(Failure::absent(
            "figures of the machine are not shown here; vmstat, free and node_exporter have them, and \
             passenger-status --show=metrics those of the apps",
        )),
    }
}
