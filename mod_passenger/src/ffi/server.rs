//! httpd's servers, its state and its environment, as the parent sees them while it configures
//! itself.

use std::collections::{HashMap, VecDeque};
use std::ffi::{c_char, c_int, CStr, CString, OsStr};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::ptr;
use std::sync::OnceLock;

use passenger_shm::messages as wire;

use super::bindings::{
    ap_conftree, ap_coredump_dir, ap_coredumpdir_configured, ap_directive_t, ap_get_server_banner,
    ap_get_server_revision, ap_getword_conf, ap_mpm_query, ap_server_root_relative, ap_show_mpm,
    ap_state_query, ap_unixd_config, ap_version_t, apr_os_file_get, core_module,
    core_server_config, psgr_module_config, server_rec, AP_MPMQ_HARD_LIMIT_DAEMONS,
    AP_MPMQ_IS_ASYNC, AP_MPMQ_MAX_DAEMONS, AP_MPMQ_MAX_THREADS, AP_SERVER_PATCHLEVEL_NUMBER,
    AP_SQ_CONFIG_GEN, AP_SQ_MAIN_STATE, AP_SQ_MS_EXITING,
};
use super::commands::text;
use super::pool::Pool;
use crate::config::ServerMark;

/// The arguments of a configuration hook.
#[derive(Clone, Copy)]
pub(crate) struct Configuring<'p> {
    /// Lives until the next restart.
    pub(crate) pconf: Pool<'p>,
    /// Lives until the configuration is complete.
    pub(crate) ptemp: Pool<'p>,
    main: *mut server_rec,
}

impl<'p> Configuring<'p> {
    /// # Safety
    /// 1. `main` is NULL or httpd's main server, alive as long as `pconf`. 2. The caller is the
    ///    hook httpd gave all three to.
    pub(crate) unsafe fn new(pconf: Pool<'p>, ptemp: Pool<'p>, main: *mut server_rec) -> Self {
        Configuring { pconf, ptemp, main }
    }

    /// All servers, the main one first.
    pub(crate) fn servers(self) -> Vec<wire::Server> {
        let mut servers = Vec::new();
        let sections = sections();
        let mut next = self.main;
        // SAFETY: NULL or a server of the list that begins with the main server (new).
        while let Some(server) = unsafe { next.as_ref() } {
            let is_main = ptr::eq(next, self.main);
            // SAFETY: a live server; the tree lives until the next configuration, and only the parent changes it.
            servers.push(unsafe {
                let section = match is_main {
                    true => ap_conftree,
                    false => section_of(server, &sections),
                };
                self.describe(server, section)
            });
            next = server.next;
        }
        servers
    }

    /// Their marks, in the same order.
    pub(crate) fn server_marks(self) -> Vec<ServerMark> {
        let mut marks = Vec::new();
        let mut next = self.main;
        // SAFETY: as in `servers`.
        while let Some(server) = unsafe { next.as_ref() } {
            marks.push(ServerMark::of(next));
            next = server.next;
        }
        marks
    }

    /// # Safety
    /// `server` is one of httpd's live servers, `section` NULL or the first node of what stands in its section.
    unsafe fn describe(self, server: &server_rec, section: *const ap_directive_t) -> wire::Server {
        // SAFETY: every server has the core's configuration; `core_module` is httpd's own record.
        let core = unsafe { psgr_module_config(server.module_config, &raw const core_module) };
        // SAFETY: NULL or the core's structure for this server.
        let core = unsafe { core.cast::<core_server_config>().as_ref() };
        // SAFETY: NULL or C strings of the configuration.
        unsafe {
            wire::Server {
                name: text(server.server_hostname),
                document_root: core.map_or_else(String::new, |core| text(core.ap_document_root)),
                env: self.environment(section),
            }
        }
    }

    /// What mod_env's directives set at exactly this level of the configuration.
    ///
    /// # Safety
    /// `first` is NULL or a node of httpd's configuration tree.
    unsafe fn environment(self, first: *const ap_directive_t) -> Vec<(String, String)> {
        let mut variables: Vec<(String, String)> = Vec::new();
        let mut next = first;
        // SAFETY: NULL or a node (caller; siblings are nodes, too).
        while let Some(node) = unsafe { next.as_ref() } {
            // SAFETY: C strings of the tree.
            let mut words = unsafe { self.words(node.args) };
            // SAFETY: as above.
            match unsafe { text(node.directive) }
                .to_ascii_lowercase()
                .as_str()
            {
                "setenv" => {
                    if let Some(name) = words.pop_front() {
                        set(
                            &mut variables,
                            name,
                            Some(words.pop_front().unwrap_or_default()),
                        );
                    }
                }
                "passenv" => {
                    for name in words {
                        let value = std::env::var(&name).ok();
                        set(&mut variables, name, value);
                    }
                }
                "unsetenv" => words
                    .into_iter()
                    .for_each(|name| set(&mut variables, name, None)),
                _ => {}
            }
            next = node.next;
        }
        variables
    }

    /// Cuts a line as httpd cuts it for its own directives.
    ///
    /// # Safety
    /// `line` is NULL or a C string.
    unsafe fn words(self, line: *const c_char) -> VecDeque<String> {
        let mut words = VecDeque::new();
        let mut rest = line;
        // SAFETY: `rest` stays within the C string; a byte of it can be read.
        while !rest.is_null() && unsafe { *rest } != 0 {
            // SAFETY: a valid pool and a C string, which the call advances.
            let word = unsafe { ap_getword_conf(self.ptemp.as_ptr(), &raw mut rest) };
            // SAFETY: a C string in `ptemp`.
            words.push_back(unsafe { text(word) });
        }
        words
    }

    /// A path as httpd understands it: relative ones are below `ServerRoot`.
    pub(crate) fn absolute(self, path: &str) -> PathBuf {
        let Ok(c_path) = CString::new(path) else {
            return PathBuf::from(path);
        };
        // SAFETY: a valid pool and a C string; the answer is NULL or in that pool.
        let absolute = unsafe { ap_server_root_relative(self.ptemp.as_ptr(), c_path.as_ptr()) };
        if absolute.is_null() {
            return PathBuf::from(path);
        }
        // SAFETY: not NULL, so a C string.
        PathBuf::from(OsStr::from_bytes(
            unsafe { CStr::from_ptr(absolute) }.to_bytes(),
        ))
    }

    /// The main server's error log; `None` if it goes to syslog or is not open yet.
    pub(crate) fn error_log(self) -> Option<BorrowedFd<'p>> {
        // SAFETY: NULL or the main server (new).
        let file = unsafe { self.main.as_ref() }?.error_log;
        let mut fd: c_int = -1;
        // SAFETY: an open file of httpd's, and room for the answer.
        if file.is_null() || unsafe { apr_os_file_get(&raw mut fd, file) } != 0 || fd < 0 {
            return None;
        }
        // SAFETY: httpd keeps its log open until the next configuration, like `pconf`.
        Some(unsafe { BorrowedFd::borrow_raw(fd) })
    }
}

fn set(variables: &mut Vec<(String, String)>, name: String, value: Option<String>) {
    variables.retain(|(known, _)| *known != name);
    variables.extend(value.map(|value| (name, value)));
}

/// Where virtual hosts begin: file and line, and the first node of what stands in each.
type Sections = HashMap<(String, u32), *const ap_directive_t>;

/// All virtual hosts of the configuration tree. Looking each server up in the tree would take seconds where there
/// are ten thousand.
fn sections() -> Sections {
    let mut sections = Sections::new();
    // SAFETY: the tree lives until the next configuration; only the parent changes it.
    let mut next: *const ap_directive_t = unsafe { ap_conftree };
    // SAFETY: NULL or a node; virtual hosts stand at the top level only.
    while let Some(node) = unsafe { next.as_ref() } {
        // SAFETY: NULL or C strings of the tree.
        let is_host = unsafe { text(node.directive) }.eq_ignore_ascii_case("<VirtualHost");
        if let (true, Ok(line)) = (is_host, u32::try_from(node.line_num)) {
            // SAFETY: as above.
            let file = unsafe { text(node.filename) };
            // Two can begin on one line, by a macro: the first.
            sections.entry((file, line)).or_insert(node.first_child);
        }
        next = node.next;
    }
    sections
}

/// The first node of what stands in a virtual host's section.
///
/// # Safety
/// `server` is one of httpd's live servers.
unsafe fn section_of(server: &server_rec, sections: &Sections) -> *const ap_directive_t {
    // SAFETY: NULL or a C string of the configuration.
    let file = unsafe { text(server.defn_name) };
    let found = sections.get(&(file, server.defn_line_number));
    found.copied().unwrap_or(ptr::null())
}

/// Number of this configuration: 0 is checked and thrown away, 1 is the first real one.
pub(crate) fn generation() -> u64 {
    u64::try_from(state(AP_SQ_CONFIG_GEN)).unwrap_or(0)
}

/// Whether httpd is about to exit (and not to restart).
pub(crate) fn is_exiting() -> bool {
    u32::try_from(state(AP_SQ_MAIN_STATE)) == Ok(AP_SQ_MS_EXITING)
}

#[allow(clippy::cast_possible_wrap)] // small codes
fn state(code: u32) -> c_int {
    // SAFETY: a plain query.
    unsafe { ap_state_query(code as c_int) }
}

/// Whether a connection gives its thread back between two requests (event). As the MPM was started, which no process
/// outlives.
pub(crate) fn shares_threads() -> bool {
    static SHARES: OnceLock<bool> = OnceLock::new();
    *SHARES.get_or_init(|| mpm(AP_MPMQ_IS_ASYNC) == Some(1))
}

/// Threads that serve requests in each worker process; one where processes have no others (prefork).
pub(crate) fn threads() -> u32 {
    static THREADS: OnceLock<u32> = OnceLock::new();
    *THREADS.get_or_init(|| mpm(AP_MPMQ_MAX_THREADS).unwrap_or(1).max(1))
}

/// Facts of the running httpd. After the MPM checked its own configuration.
pub(crate) fn apache() -> wire::Apache {
    // SAFETY: a system call without arguments.
    let (is_root, uid, gid) = unsafe { (libc::geteuid() == 0, libc::geteuid(), libc::getegid()) };
    // SAFETY: httpd's own structure, complete once the directives were read.
    let workers = unsafe { (ap_unixd_config.user_id, ap_unixd_config.group_id) };
    let (uid, gid) = if is_root { workers } else { (uid, gid) };
    let daemons = mpm(AP_MPMQ_MAX_DAEMONS).unwrap_or(1).max(1);
    let threads = mpm(AP_MPMQ_MAX_THREADS).unwrap_or(1).max(1);
    wire::Apache {
        uid,
        gid,
        software: banner(),
        // SAFETY: NULL or a C string of the MPM's.
        mpm: unsafe { text(ap_show_mpm()) },
        server_limit: mpm(AP_MPMQ_HARD_LIMIT_DAEMONS)
            .unwrap_or(daemons)
            .max(daemons),
        max_threads: daemons.saturating_mul(threads),
    }
}

/// Where a part of ours that crashes leaves its core file, as httpd's own processes do: `CoreDumpDirectory`, or the
/// root directory where nobody wrote that.
pub(crate) fn core_directory() -> CString {
    // SAFETY: plain variables of httpd's, written while it reads its configuration in this very thread.
    let (is_configured, directory) = unsafe {
        (
            ap_coredumpdir_configured != 0,
            ptr::addr_of!(ap_coredump_dir),
        )
    };
    if is_configured {
        // SAFETY: httpd fills the array by `apr_cpystrn`, which always ends it with a zero.
        let directory = unsafe { CStr::from_ptr(directory.cast()) };
        return directory.to_owned();
    }
    c"/".to_owned()
}

/// What `SERVER_SOFTWARE` says.
pub(crate) fn banner() -> String {
    // SAFETY: NULL or a C string in pconf.
    unsafe { text(ap_get_server_banner()) }
}

#[allow(clippy::cast_possible_wrap)] // small codes
fn mpm(query: u32) -> Option<u32> {
    // Queries an MPM does not know leave the result untouched.
    let mut result: c_int = -1;
    // SAFETY: room for one int.
    let status = unsafe { ap_mpm_query(query as c_int, &raw mut result) };
    u32::try_from(result).ok().filter(|_| status == 0)
}

/// Oldest httpd whose API the module uses, as patch level of 2.4.
const OLDEST_PATCH: c_int = 58;

/// # Errors
/// When the running httpd is older than the module can work with.
pub(crate) fn check_version() -> Result<(), String> {
    let mut version = ap_version_t {
        major: 0,
        minor: 0,
        patch: 0,
        add_string: ptr::null(),
    };
    // SAFETY: room for the answer.
    unsafe { ap_get_server_revision(&raw mut version) };
    let found = (version.major, version.minor, version.patch);
    if found >= (2, 4, OLDEST_PATCH) {
        return Ok(());
    }
    Err(format!(
        "this httpd is version {}.{}.{}, but mod_passenger (built with the headers of \
         2.4.{AP_SERVER_PATCHLEVEL_NUMBER}) needs 2.4.{OLDEST_PATCH} or newer",
        found.0, found.1, found.2
    ))
}
