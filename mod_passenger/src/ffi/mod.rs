//! Every line that speaks C: the bindings, the module record and thin safe views over httpd's types.

pub(crate) mod barrier;
pub(crate) mod bindings;
pub(crate) mod brigade;
pub(crate) mod commands;
mod filters;
pub(crate) mod forked;
pub(crate) mod hooks;
pub(crate) mod launch;
mod layout;
pub(crate) mod log;
pub(crate) mod lookup;
pub(crate) mod module;
pub(crate) mod parking;
mod placement;
pub(crate) mod pool;
pub(crate) mod process;
pub(crate) mod published;
pub(crate) mod relay;
pub(crate) mod relay_epoll;
pub(crate) mod request;
pub(crate) mod retained;
pub(crate) mod scoreboard;
pub(crate) mod sendfile;
pub(crate) mod server;
pub(crate) mod table;

// Stands in for httpd, which unit tests are not loaded into (made by build.rs).
#[cfg(test)]
#[link(name = "httpd_stubs", kind = "static", modifiers = "+whole-archive")]
extern "C" {}
