//! The helper agent; with `--spawn FD` the shim between its fork and an app's loader, with `--report` the
//! reporter that answers one tool, with `--app-logs` the process that writes logs of single apps, with
//! `--hook NAME …` the runner of a hook's programs.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next()) {
        (Some("--spawn"), Some(order)) => ExitCode::from(helper_agent::spawn::shim::run(&order)),
        (Some("--report"), None) => ExitCode::from(helper_agent::status::reporter::main()),
        (Some("--app-logs"), None) => ExitCode::from(helper_agent::app_log::writer::main()),
        (Some("--hook"), Some(name)) => {
            ExitCode::from(helper_agent::hooks::runner::main(&name, arguments))
        }
        (None, None) => ExitCode::from(helper_agent::agent::main()),
        _ => {
            eprintln!("passenger-helper-agent is started by passenger-watchdog only");
            ExitCode::from(2)
        }
    }
}
