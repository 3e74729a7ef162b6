//! What travels beside a `Configure`: the configuration as a sealed memory file, and the log.

use std::ffi::CStr;
use std::fs::{File, OpenOptions};
use std::io::{Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};

use nix::fcntl::{fcntl, FcntlArg, SealFlag};
use nix::sys::memfd::{memfd_create, MemFdCreateFlag};
use passenger_shm::messages as wire;

use crate::codes;
use crate::config::globals;
use crate::ffi::server::Configuring;

const NAME: &CStr = c"passenger-config";

/// The configuration as a memory file that nobody can change any more.
///
/// # Errors
/// A sentence: which step failed, and why.
pub(super) fn sealed(config: &wire::Config) -> Result<OwnedFd, String> {
    let bytes = wire::encode_config(config)?;
    let failed = |doing: &str, why: std::io::Error| {
        format!("cannot {doing} the memory file of the configuration: {why}")
    };
    let flags = MemFdCreateFlag::MFD_CLOEXEC | MemFdCreateFlag::MFD_ALLOW_SEALING;
    let fd = memfd_create(NAME, flags).map_err(|e| failed("create", e.into()))?;
    let mut file = File::from(fd);
    // The default is 0777: whoever can see a descriptor of it could open it for writing.
    file.set_permissions(std::fs::Permissions::from_mode(0o600))
        .map_err(|e| failed("protect", e))?;
    file.write_all(&bytes).map_err(|e| failed("write", e))?;
    // The descriptor travels with its offset.
    file.rewind().map_err(|e| failed("rewind", e))?;
    let seals = SealFlag::F_SEAL_WRITE
        | SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_SEAL;
    fcntl(file.as_raw_fd(), FcntlArg::F_ADD_SEALS(seals)).map_err(|e| failed("seal", e.into()))?;
    Ok(OwnedFd::from(file))
}

/// Where the agent and the apps log to: `PassengerLogFile`, or the main server's error log. What
/// cannot be opened is said, and replaced by the error log or `/dev/null`.
///
/// # Errors
/// When not even `/dev/null` can be opened.
pub(super) fn log(configuring: Configuring<'_>) -> Result<OwnedFd, String> {
    if let Some(path) = &globals().log_file {
        let opened = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o640)
            .custom_flags(libc::O_NOCTTY)
            .open(path);
        match opened {
            Ok(file) => return Ok(OwnedFd::from(file)),
            Err(why) => log::error!(
                "{}: PassengerLogFile {} cannot be opened ({why}): apps log to httpd's error log",
                codes::CONFIG_WARNING,
                path.display()
            ),
        }
    }
    if let Some(copy) = configuring
        .error_log()
        .and_then(|log| log.try_clone_to_owned().ok())
    {
        return Ok(copy);
    }
    log::warn!(
        "{}: httpd's error log is no file, so what apps print is lost: set PassengerLogFile",
        codes::CONFIG_WARNING
    );
    let null = OpenOptions::new().write(true).open("/dev/null");
    let null = null.map_err(|e| format!("cannot open /dev/null: {e}"))?;
    null.as_fd()
        .try_clone_to_owned()
        .map_err(|e| format!("cannot duplicate a descriptor: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn config() -> wire::Config {
        wire::Config {
            generation: 1,
            build: "b".to_owned(),
            apache: wire::Apache {
                uid: 33,
                gid: 33,
                software: "Apache".to_owned(),
                mpm: "event".to_owned(),
                server_limit: 16,
                max_threads: 400,
            },
            global: vec![],
            servers: vec![],
            records: vec![],
        }
    }

    #[test]
    fn the_file_holds_the_configuration_and_cannot_be_changed() {
        let mut file = File::from(sealed(&config()).expect("a memory file"));
        assert_eq!(
            file.metadata().expect("metadata").permissions().mode() & 0o777,
            0o600
        );
        let mut text = Vec::new();
        file.read_to_end(&mut text).expect("read");
        let read: wire::Config = wire::decode(&text).expect("JSON");
        assert_eq!(read, config());
        assert!(file.write(b"x").is_err(), "writable");
        assert!(file.set_len(0).is_err(), "resizable");
    }
}
