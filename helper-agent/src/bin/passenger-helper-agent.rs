//! The helper agent; with `--spawn FD` the shim between its fork and an app's loader, with `--report` the
//! reporter that answers one tool, with `--app-logs` the process that writes logs of single apps.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next()) {
        (Some("--spawn"), Some(order)) => ExitCode::from(helper_agent::spawn::shim::run(&order)),
        (Some("--report"), None) => ExitCode::from(helper_agent::status::reporter::main()),
        (Some("--app-logs"), None) => ExitCode::from(helper_agent::app_log::writer::main()),
        (None, None) => ExitCode::from(helper_agent::agent::main()),
        _ => {
            eprintln!("passenger-helper-agent is started by passenger-watchdog only");
            ExitCode::from(2)
        }
    }
}
