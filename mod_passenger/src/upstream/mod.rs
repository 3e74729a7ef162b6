//! The worker's side of an app process: connections, the two request protocols, and what a failure
//! allows. Nothing here knows httpd; `exchange.rs` joins the two worlds.
//!
//! ```text
//! connection  connect, keep, reuse          frame   the binary protocol (Ruby, Python)
//! body        where a response body ends    http1   HTTP/1.1 (Node, generic)
//! head        a response head, made clean   retry   may this request be sent again?
//! peer        whose socket a port leads to
//! ```
//! Formats: `docs/protocols.md`, section 4.

pub(crate) mod body;
pub(crate) mod connection;
pub(crate) mod frame;
pub(crate) mod head;
pub(crate) mod http1;
mod peer;
pub(crate) mod retry;
