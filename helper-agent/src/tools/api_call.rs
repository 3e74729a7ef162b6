//! `passenger-config api-call`: the original's HTTP API as far as scripts call it by this command. There is no HTTP
//! server: the tool answers from what `passenger-status` and `passenger-config` ask the instance, with the same rights.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Deserialize;
use serde_json::{json, Value};

use super::registry::Found;
use super::{client, metrics, registry, say, seconds_now, status_text, xml, Failure, Outcome};
use crate::admin::{Answer, Request};

/// Longest body that is read, in bytes: as in the original.
const BODY_BYTES: u64 = 128 * 1_024;

/// `api-call`.
#[derive(Debug, Args)]
pub(super) struct ApiCallArguments {
    /// GET or POST
    #[arg(value_name = "METHOD")]
    method: String,
    /// Such as /pool.json; docs/tools.md lists them
    #[arg(value_name = "PATH")]
    path: String,
    /// The body
    #[arg(short, long, value_name = "TEXT", conflicts_with_all = ["stdin", "data_file"])]
    data: Option<String>,
    /// The body is read from standard input
    #[arg(short = 'i', long, conflicts_with = "data_file")]
    stdin: bool,
    /// The body is in that file
    #[arg(short = 'f', long, value_name = "FILE")]
    data_file: Option<PathBuf>,
    /// Accepted for compatibility: the agent is meant
    #[arg(short, long, value_name = "NAME", hide = true, value_parser = ["core_api", "core"])]
    agent_name: Option<String>,
    /// Also status and type of the answer
    #[arg(long)]
    show_headers: bool,
    /// Exit with 0 also when the answer is an error
    #[arg(long)]
    ignore_response_code: bool,
    /// Name of the instance, or how it begins
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
struct Response {
    status: u16,
    kind: &'static str,
    body: String,
}

impl Response {
    fn json(status: u16, value: &Value) -> Self {
        Self {
            status,
            kind: "application/json",
            body: format!("{value:#}\n"),
        }
    }

    fn text(kind: &'static str, body: String) -> Self {
        Self {
            status: 200,
            kind,
            body,
        }
    }

    fn error(status: u16, message: impl Into<String>) -> Self {
        let message: String = message.into();
        Self::json(status, &json!({ "status": "error", "message": message }))
    }
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
enum Call {
    Ping,
    Version,
    PoolJson,
    PoolText {
        has_colors: bool,
        is_verbose: bool,
    },
    PoolXml,
    Metrics,
    /// Body: which app, and how.
    Restart,
    /// Body: which process.
    Detach,
}

/// Body of `restart_app_group.json`.
#[derive(Debug, Deserialize)]
struct RestartBody {
    name: String,
    #[serde(default)]
    restart_method: Option<String>,
}

/// Body of `detach_process.json`.
#[derive(Debug, Deserialize)]
struct DetachBody {
    pid: i32,
}

/// The command.
pub(super) fn api_call(arguments: &ApiCallArguments) -> Outcome {
    let response = match understand(&arguments.method, &arguments.path) {
        Ok(call) => {
            let body = body(arguments)?;
            let instance = registry::choose(arguments.instance.as_deref())?;
            match body {
                Some(body) => execute(&call, &body, &instance)?,
                None => Response::error(413, "the body is too long"),
            }
        }
        Err(error) => error,
    };
    let mut text = String::new();
    if arguments.show_headers {
        text = format!(
            "Status: {}\nContent-Type: {}\n\n",
            response.status, response.kind
        );
    }
    say(&(text + &response.body))?;
    let is_good = (200..300).contains(&response.status) || arguments.ignore_response_code;
    Ok(u8::from(!is_good))
}

/// What was meant, or the answer to what cannot be.
fn understand(method: &str, target: &str) -> Result<Call, Response> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let is_on = |name: &str| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.any(|(key, value)| key == name && ["1", "true", "yes", "on"].contains(&value))
    };
    let (expected, call) = match path {
        "/ping.json" => ("GET", Call::Ping),
        "/version.json" | "/info.json" => ("GET", Call::Version),
        "/pool.json" => ("GET", Call::PoolJson),
        "/pool.xml" => ("GET", Call::PoolXml),
        "/pool.txt" => {
            let call = Call::PoolText {
                has_colors: is_on("colorize"),
                is_verbose: is_on("verbose"),
            };
            ("GET", call)
        }
        "/metrics" => ("GET", Call::Metrics),
        "/pool/restart_app_group.json" => ("POST", Call::Restart),
        "/pool/detach_process.json" => ("POST", Call::Detach),
        _ => return Err(Response::error(404, format!("there is no {path} here"))),
    };
    if method.eq_ignore_ascii_case(expected) {
        Ok(call)
    } else {
        Err(Response::error(405, format!("{path} takes {expected}")))
    }
}

/// The body, `None` when it is too long.
fn body(arguments: &ApiCallArguments) -> Result<Option<String>, Failure> {
    let read = |from: &mut dyn Read| {
        let mut text = String::new();
        from.take(BODY_BYTES + 1)
            .read_to_string(&mut text)
            .map(|_| text)
    };
    let opened = |path: &Path| std::fs::File::open(path).and_then(|mut file| read(&mut file));
    let text = match (&arguments.data, &arguments.data_file) {
        (Some(text), _) => Ok(text.clone()),
        (None, Some(path)) => opened(path),
        (None, None) if arguments.stdin => read(&mut io::stdin().lock()),
        (None, None) => Ok(String::new()),
    };
    let text = text.map_err(|e| Failure::unable(format!("cannot read the body: {e}")))?;
    Ok(Some(text).filter(|text| text.len() as u64 <= BODY_BYTES))
}

fn execute(call: &Call, body: &str, instance: &Found) -> Result<Response, Failure> {
    Ok(match call {
        Call::Ping => {
            client::status(instance)?;
            Response::json(200, &json!({ "status": "ok" }))
        }
        Call::Version => {
            let version = client::status(instance)?.instance.passenger_version;
            let about = json!({
                "program_name": "mod_passenger",
                "program_version": version,
                "passenger_version": version,
            });
            Response::json(200, &about)
        }
        Call::PoolJson => Response::json(200, &client::status_value(instance)?),
        Call::PoolText {
            has_colors,
            is_verbose,
        } => {
            let look = status_text::Look {
                has_header: false,
                is_verbose: *is_verbose,
                has_colors: *has_colors,
                now: seconds_now(),
            };
            let text = status_text::render(&client::status(instance)?, look);
            Response::text("text/plain", text)
        }
        Call::PoolXml => {
            let report = client::status(instance)?;
            Response::text("text/xml", xml::render(&report, &xml::Around::now()))
        }
        Call::Metrics => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            Response::text(kind, metrics::render(&client::status(instance)?))
        }
        Call::Restart => match restart(body) {
            Ok(request) => done("restarted", client::ask(instance, &request)?),
            Err(response) => response,
        },
        Call::Detach => match parsed::<DetachBody>(body) {
            Ok(DetachBody { pid }) => {
                let request = Request::DetachProcess { pid };
                done("detached", client::ask(instance, &request)?)
            }
            Err(response) => response,
        },
    })
}

fn restart(body: &str) -> Result<Request, Response> {
    let RestartBody {
        name,
        restart_method,
    } = parsed(body)?;
    let rolling = match restart_method.as_deref() {
        None | Some("default" | "blocking") => false,
        Some("rolling") => true,
        Some(_) => {
            let text = "restart_method is one of default, blocking and rolling";
            return Err(Response::error(422, text));
        }
    };
    Ok(Request::RestartApp { name, rolling })
}

fn parsed<T: for<'a> Deserialize<'a>>(body: &str) -> Result<T, Response> {
    serde_json::from_str(body)
        .map_err(|e| Response::error(422, format!("the body is not understood: {e}")))
}

/// Nothing that is there for whoever asks is no error of his.
fn done(what: &str, answer: Answer) -> Response {
    match answer {
        Answer::Done | Answer::Configured { .. } => Response::json(200, &json!({ what: true })),
        Answer::Unknown => Response::json(200, &json!({ what: false })),
        Answer::Refused(why) => Response::error(422, why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_their_methods() {
        assert_eq!(understand("get", "/ping.json"), Ok(Call::Ping));
        let text = Call::PoolText {
            has_colors: false,
            is_verbose: true,
        };
        assert_eq!(
            understand("GET", "/pool.txt?colorize=false&verbose=true"),
            Ok(text)
        );
        assert_eq!(
            understand("GET", "/pool/detach_process.json")
                .unwrap_err()
                .status,
            405
        );
        assert_eq!(
            understand("POST", "/shutdown.json").unwrap_err().status,
            404
        );
        assert_eq!(understand("GET", "/pool.json/").unwrap_err().status, 404);
    }

    #[test]
    fn bodies_say_what_is_wrong_with_them() {
        let rolling = restart(r#"{"name":"a","restart_method":"rolling"}"#).unwrap();
        let expected = Request::RestartApp {
            name: "a".into(),
            rolling: true,
        };
        assert_eq!(rolling, expected);
        for bad in [
            "",
            "[]",
            "{}",
            r#"{"name":1}"#,
            r#"{"name":"a","restart_method":"now"}"#,
        ] {
            assert_eq!(restart(bad).unwrap_err().status, 422, "{bad}");
        }
    }

    #[test]
    fn what_is_not_there_is_not_done_and_no_error() {
        let gone = done("detached", Answer::Unknown);
        assert_eq!(
            (gone.status, gone.body.as_str()),
            (200, "{\n  \"detached\": false\n}\n")
        );
        assert_eq!(done("detached", Answer::Refused("no".into())).status, 422);
    }
}
