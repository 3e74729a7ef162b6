//! Finds the installed Apache httpd and APR through `apxs`, generates the bindings of
//! `mod_passenger/src/ffi/wrapper.h` with bindgen and compiles the C shim.
//!
//! This is `mod_passenger`'s build script; it lives at the root because it is the one file that a
//! packager reads. Its working directory is `mod_passenger/`. Two variables steer it: `APXS` (the
//! `apxs` program to ask) and bindgen's `LIBCLANG_PATH`.

use std::env;
use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::process::{self, Command};

const WRAPPER: &str = "src/ffi/wrapper.h";
const SHIM: &str = "src/ffi/shim.c";

/// Functions that Rust may call: httpd's and APR's public API, and our shim's.
const FUNCTIONS: &[&str] = &["ap_.*", "apr_.*", "psgr_.*", "unixd_.*"];

/// Types that no allowed function mentions but that we read.
const TYPES: &[&str] = &[
    "request_rec",
    "conn_rec",
    "conn_state_t",
    "server_rec",
    "process_rec",
    "module",
    "command_rec",
    "cmd_parms",
    "core_dir_config",
    "core_server_config",
    "unixd_config_rec",
    "apr_bucket.*",
    "apr_table_entry_t",
    "apr_.*_t",
    "ap_.*_e",
];

/// Constants and global variables.
const VARIABLES: &[&str] = &[
    "ap_.*",
    "AP_.*",
    "APR_.*",
    "APLOG_.*",
    "HTTP_.*",
    "M_.*",
    "MODULE_MAGIC_.*",
    "OR_.*",
    "ACCESS_CONF",
    "RSRC_CONF",
    "EXEC_ON_READ",
    "NOT_IN_.*",
    "GLOBAL_ONLY",
    "OK",
    "DECLINED",
    "DONE",
    "SUSPENDED",
    "SERVER_.*",
    "PROXYREQ_.*",
    "core_module",
    "apr_bucket_type_.*",
    "psgr_.*",
];

/// Where the headers are and how httpd itself was compiled.
struct Httpd {
    includes: Vec<PathBuf>,
    defines: Vec<String>,
}

fn main() {
    println!("cargo::rerun-if-changed=../build.rs");
    println!("cargo::rerun-if-changed={WRAPPER}");
    println!("cargo::rerun-if-changed={SHIM}");
    println!("cargo::rerun-if-env-changed=APXS");
    if let Err(sentence) = build() {
        println!("cargo::error={sentence}");
        process::exit(1);
    }
}

fn build() -> Result<(), String> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo did not set OUT_DIR")?);
    let httpd = find_httpd()?;
    generate_bindings(&httpd, &out)?;
    compile_shim(&httpd);
    compile_stubs(&out)?;
    Ok(())
}

/// Asks `apxs` for httpd's headers and the programs it names for APR's.
fn find_httpd() -> Result<Httpd, String> {
    let apxs = env::var("APXS").unwrap_or_else(|_| "apxs".to_owned());
    let include = apxs_query(&apxs, "INCLUDEDIR")?;
    if !Path::new(&include).join("httpd.h").is_file() {
        return Err(format!(
            "`{apxs} -q INCLUDEDIR` says {include}, but there is no httpd.h in it: \
             install the Debian package apache2-dev"
        ));
    }
    let mut includes = vec![PathBuf::from(include)];
    let mut defines = Vec::new();
    for (name, fallback) in [
        ("APR_CONFIG", "apr-1-config"),
        ("APU_CONFIG", "apu-1-config"),
    ] {
        let program = apxs_query(&apxs, name)
            .ok()
            .filter(|answer| !answer.is_empty())
            .unwrap_or_else(|| fallback.to_owned());
        let flags = run(&program, &["--includes", "--cppflags"]).map_err(|why| {
            format!(
                "cannot ask {program} for APR's headers ({why}): install the Debian packages \
                 apache2-dev and libapr1-dev, or set APXS to the apxs of your httpd"
            )
        });
        // apu-1-config knows no --cppflags: its headers are beside APR's.
        let flags = match (name, flags) {
            ("APU_CONFIG", Err(_)) => run(&program, &["--includes"]).unwrap_or_default(),
            (_, flags) => flags?,
        };
        for flag in flags.split_whitespace() {
            match flag.split_at_checked(2) {
                Some(("-I", path)) => includes.push(PathBuf::from(path)),
                Some(("-D", _)) => defines.push(flag.to_owned()),
                _ => {}
            }
        }
    }
    Ok(Httpd { includes, defines })
}

fn apxs_query(apxs: &str, name: &str) -> Result<String, String> {
    run(apxs, &["-q", name]).map_err(|why| {
        format!(
            "cannot run `{apxs} -q {name}` to find Apache httpd's headers ({why}): install the \
             Debian package apache2-dev, or set APXS to the apxs of your httpd"
        )
    })
}

fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|e| e.to_string())?;
    if !output.status.success() {
        return Err(format!("{}", output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn clang_arguments(httpd: &Httpd) -> Vec<String> {
    let includes = httpd
        .includes
        .iter()
        .map(|path| format!("-I{}", path.display()));
    includes.chain(httpd.defines.iter().cloned()).collect()
}

fn generate_bindings(httpd: &Httpd, out: &Path) -> Result<(), String> {
    let mut builder = bindgen::Builder::default()
        .header(WRAPPER)
        .clang_args(clang_arguments(httpd))
        .allowlist_recursively(true)
        .derive_debug(false)
        .generate_comments(false)
        .layout_tests(true)
        .merge_extern_blocks(true)
        .prepend_enum_name(false)
        .wrap_unsafe_ops(true);
    for name in FUNCTIONS {
        builder = builder.allowlist_function(*name);
    }
    for name in TYPES {
        builder = builder.allowlist_type(*name);
    }
    for name in VARIABLES {
        builder = builder.allowlist_var(*name);
    }
    // bindgen panics when it cannot load libclang; the reader should see a sentence instead.
    panic::set_hook(Box::new(|_| {}));
    let generated = panic::catch_unwind(AssertUnwindSafe(move || builder.generate()));
    let _ = panic::take_hook();
    let bindings = match generated {
        Ok(Ok(bindings)) => bindings,
        Ok(Err(why)) => {
            return Err(format!(
                "bindgen cannot read httpd's headers through {WRAPPER}: {why}; \
                 the Debian packages apache2-dev and libclang-dev have what it needs"
            ))
        }
        Err(_) => {
            return Err(
                "bindgen finds no libclang: install the Debian package libclang-dev, \
                        or set LIBCLANG_PATH to the directory of libclang.so"
                    .to_owned(),
            )
        }
    };
    let file = out.join("bindings.rs");
    bindings
        .write_to_file(&file)
        .map_err(|e| format!("cannot write {}: {e}", file.display()))
}

fn compile_shim(httpd: &Httpd) {
    let mut shim = cc::Build::new();
    shim.file(SHIM)
        .std("c11")
        .warnings(true)
        .extra_warnings(true)
        .warnings_into_errors(true);
    for path in &httpd.includes {
        shim.flag("-isystem").flag(path.as_os_str());
    }
    for define in &httpd.defines {
        shim.flag(define.as_str());
    }
    shim.compile("passenger_shim");
}

/// Makes the library that stands in for httpd in unit tests (`ffi/mod.rs` links it there only).
///
/// httpd's and APR's symbols are in the program that loads the module. A unit test has no such
/// program: it gets one function per declaration that says which one was reached, and aborts.
fn compile_stubs(out: &Path) -> Result<(), String> {
    let read = |path: &Path| {
        fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))
    };
    let bindings = read(&out.join("bindings.rs"))?;
    let mut source = String::from(
        "#include <stdio.h>\n#include <stdlib.h>\n\
         static void reached(const char *name)\n\
         { fprintf(stderr, \"a unit test reached httpd's %s\\n\", name); abort(); }\n",
    );
    for line in bindings.lines() {
        let line = line.trim_start();
        let function = line
            .strip_prefix("pub fn ")
            .and_then(|rest| rest.split_once('('));
        let variable = line
            .strip_prefix("pub static ")
            .and_then(|rest| rest.split_once(':'));
        match (function, variable) {
            (Some((name, _)), _) if is_of_httpd(name) => {
                source += &format!("void {name}(void) {{ reached(\"{name}\"); }}\n");
            }
            (_, Some((name, _))) if is_of_httpd(name.trim_start_matches("mut ")) => {
                let name = name.trim_start_matches("mut ");
                source += &format!("char {name}[4096] __attribute__((aligned(16)));\n");
            }
            _ => {}
        }
    }
    let file = out.join("httpd_stubs.c");
    fs::write(&file, source).map_err(|e| format!("cannot write {}: {e}", file.display()))?;
    // Without cargo's metadata: the module itself must never be linked with these.
    cc::Build::new()
        .file(&file)
        .cargo_metadata(false)
        .warnings(false)
        .compile("httpd_stubs");
    println!("cargo::rustc-link-search=native={}", out.display());
    Ok(())
}

fn is_of_httpd(name: &str) -> bool {
    ["ap_", "apr_", "core_module"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}
