//! The helper agent, and with `--spawn FD` the shim between its fork and an app's loader.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next()) {
        (Some("--spawn"), Some(order)) => ExitCode::from(helper_agent::spawn::shim::run(&order)),
        (None, None) => ExitCode::from(helper_agent::agent::main()),
        _ => {
            eprintln!("passenger-helper-agent is started by passenger-watchdog only");
            ExitCode::from(2)
        }
    }
}
