//! `passenger-config about`: single facts of the installation, for scripts. The words are the original's; those that
//! have no meaning here are answered with a sentence.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use clap::{Args, ValueEnum};

use super::{checks, say, validate, Failure, Outcome};

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Fact {
    /// Where the installation is: what PassengerRoot would say
    Root,
    /// The version
    Version,
    /// The first Ruby in PATH, and the directive that names it
    RubyCommand,
    /// The Apache httpd that validate would check
    DetectApache2,
    /// Where agent and watchdog are
    SupportBinariesDir,
    /// Where the loaders of apps are
    Resourcesdir,
    /// Whether it is compiled: yes (exit status 0)
    Compiled,
    #[value(hide = true)]
    CustomPackaged,
    #[value(hide = true)]
    InstalledFromReleasePackage,
    #[value(hide = true)]
    MakeLocationsIni,
    #[value(hide = true)]
    RubyLibdir,
    #[value(hide = true)]
    Includedir,
    #[value(hide = true)]
    RubyextCompatId,
    #[value(hide = true)]
    CxxCompatId,
    #[value(hide = true)]
    NginxAddonDir,
    #[value(hide = true)]
    NginxLibs,
    #[value(hide = true)]
    NginxDynamicLibs,
    #[value(hide = true)]
    NginxDynamicCompiled,
}

/// `about`.
#[derive(Debug, Args)]
pub(super) struct AboutArguments {
    #[arg(value_name = "WHAT", value_enum)]
    pub(super) what: Fact,
}

/// Says it.
pub(super) fn about(arguments: &AboutArguments) -> Outcome {
    let below = |path: &str| Ok(validate::own_prefix()?.join(path));
    let place = |path: Result<PathBuf, Failure>| say(&format!("{}\n", path?.display()));
    match arguments.what {
        Fact::Root => place(validate::own_prefix())?,
        Fact::SupportBinariesDir => place(below("libexec"))?,
        Fact::Resourcesdir => place(below("share/passenger"))?,
        Fact::Version => say(concat!(env!("CARGO_PKG_VERSION"), "\n"))?,
        Fact::RubyCommand => say(&ruby()?)?,
        Fact::DetectApache2 => say(&httpd()?)?,
        Fact::Compiled => {}
        Fact::CustomPackaged | Fact::InstalledFromReleasePackage | Fact::NginxDynamicCompiled => {
            return Ok(1);
        }
        Fact::MakeLocationsIni => {
            return absent(
                "there is no locations.ini: PassengerRoot is a directory, and may be left out",
            );
        }
        Fact::RubyLibdir | Fact::RubyextCompatId => {
            return absent(
                "there is no Ruby library to install: an app finds PhusionPassenger when it runs",
            );
        }
        Fact::Includedir | Fact::CxxCompatId => {
            return absent("there are no C++ sources here to compile against");
        }
        Fact::NginxAddonDir | Fact::NginxLibs | Fact::NginxDynamicLibs => {
            return absent("this runs inside Apache httpd; there is nothing of it for nginx");
        }
    }
    Ok(0)
}

fn absent(text: &str) -> Outcome {
    Err(Failure::absent(text))
}

fn ruby() -> Result<String, Failure> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|directory| directory.join("ruby"))
        .find(|ruby| ruby.is_absolute() && ruby.is_file());
    let Some(ruby) = found else {
        return Err(Failure::absent(
            "there is no ruby in PATH; Debian: apt install ruby",
        ));
    };
    let version = first_line(Command::new(&ruby).arg("-v"));
    let ruby = ruby.display();
    Ok(format!(
        "The first Ruby interpreter in PATH:\n  Command: {ruby}\n  Version: {version}\n  To use in Apache: PassengerRuby {ruby}\n"
    ))
}

fn httpd() -> Result<String, Failure> {
    let any = checks::Httpd {
        program: None,
        config: None,
    };
    let program = checks::find_httpd(&any).map_err(Failure::absent)?;
    let version = first_line(Command::new(&program).arg("-v"));
    Ok(format!(
        "Found Apache httpd: {}\n  {version}\n",
        program.display()
    ))
}

/// What it says, or why it says nothing.
fn first_line(command: &mut Command) -> String {
    match command.stdin(Stdio::null()).output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout);
            text.lines()
                .next()
                .unwrap_or("(it says nothing)")
                .to_owned()
        }
        Err(e) => format!("(it does not run: {e})"),
    }
}
