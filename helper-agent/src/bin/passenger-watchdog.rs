//! The watchdog's program; see `helper_agent::watchdog`.

fn main() {
    std::process::exit(helper_agent::watchdog::main());
}
