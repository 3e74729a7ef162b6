//! The helper agent: the rim around the pure pool. It reads channels, tables, sockets and clocks, tells the
//! pool what happened, and does what the pool commands. One thread; work that may block on files of apps'
//! users or on the name service is done by a few helper threads.
//!
//! ```text
//!  store channel ─┐                                            ┌─► routes (groups, processes)
//!  workers ───────┤                                            ├─► spawn (shim, loader)
//!  control lines ─┼─► Happening ─► Agent ─► Event ─► pool ─► Command ─► signals, control lines
//!  pidfds, pipes ─┤       ▲                                    └─► store channel
//!  doorbell, 1 s ─┴► look ┘
//! ```
//!
//! | file | owns |
//! |---|---|
//! | `start` | from `exec` to the loop: reading the store |
//! | `core` | the loop, when to look |
//! | `dispatch` | what each happening, message and command leads to |
//! | `look` | the tables as the pool sees them; orphans |
//! | `groups`, `registration`, `reconfigure` | which apps there are |
//! | `processes`, `tasks` | app processes that exist, and what watches them |
//! | `preparing`, `spawning`, `listening` | the beginning of a process: what to start, starting it, what it says |
//! | `failing`, `ending` | its failure, its end |
//! | `preloaders`, `preloading`, `forking` | processes that load an app once and fork the others |
//! | `answering`, `deserted` | when a command is ready; whether it still is |
//! | `adopt`, `sockets` | taking over what an earlier agent left |
//! | `foresight` | apps that run before anybody asks |
//! | `replaced` | what becomes of apps when another build has taken over |
//! | `restarts` | restart files; what workers are told of a restart |
//! | `retiring` | processes that had their share of requests, memory or time |
//! | `app_logs` | logs of single apps |
//! | `hooks` | programs that are run when something happens |
//! | `board` | what is noted for those who look, and for a successor |
//! | `admin` | what tools ask for |
//! | `workers` | connections of httpd's children |
//! | `store_link`, `vigil` | what the watchdog is told, whether it lives; becoming the watchdog |

mod admin;
mod adopt;
mod answering;
mod app_logs;
mod board;
mod core;
mod deserted;
mod dispatch;
mod ending;
mod failing;
mod foresight;
mod forking;
mod groups;
mod hooks;
mod listening;
mod look;
mod preloaders;
mod preloading;
mod preparing;
mod processes;
mod reconfigure;
mod registration;
mod remains;
mod replaced;
mod restarts;
mod retiring;
mod sockets;
mod spawning;
mod start;
mod store_link;
mod tasks;
mod vigil;
mod workers;

pub use start::main;
