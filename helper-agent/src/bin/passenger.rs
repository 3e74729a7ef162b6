//! The command-line tools; see `helper_agent::tools`.

fn main() -> std::process::ExitCode {
    helper_agent::tools::main()
}
