//! What a visitor sees when no app answered. Details only where the administrator (or a development
//! environment) asked for them; otherwise an id that the log repeats.

use crate::error::RequestError;
use crate::ffi::brigade;
use crate::ffi::request::{c_string, Request};
use crate::handler::Outcome;
use passenger_shm::messages::SpawnFailure;
use std::fmt::Write;

/// Seconds a client is asked to wait after a 503.
const RETRY_AFTER: &std::ffi::CStr = c"2";

/// Answers the request: with our own page for an app that does not start, else by httpd's page for the
/// status (and so by the administrator's `ErrorDocument`).
pub(crate) fn answer(r: &mut Request<'_>, error: &RequestError) -> Outcome {
    match error {
        RequestError::ClientGone => {
            r.set_aborted();
            Outcome::Answered
        }
        RequestError::Spawn(failure) => {
            let page = if failure.friendly {
                detailed(failure)
            } else {
                plain(&failure.id)
            };
            send(r, error.status(), &page)
        }
        _ => {
            if error.status() == 503 {
                r.error_headers_out().set(c"Retry-After", RETRY_AFTER);
            }
            Outcome::Status(error.status())
        }
    }
}

fn send(r: &mut Request<'_>, status: u16, page: &str) -> Outcome {
    r.set_status(status, None);
    r.set_content_type(c"text/html; charset=utf-8");
    r.headers_out().set(c"Cache-Control", c"no-store");
    r.headers_out().set(
        c"Content-Length",
        &c_string(page.len().to_string().as_bytes()),
    );
    let data = if r.is_head() {
        &[][..]
    } else {
        page.as_bytes()
    };
    let _ = brigade::write(
        r,
        brigade::Output {
            data,
            end: true,
            ..Default::default()
        },
    );
    Outcome::Answered
}

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:3rem auto;padding:0 1rem;\
color:#222}h1{font-size:1.4rem}pre{background:#f4f4f4;padding:1rem;overflow:auto;white-space:pre-wrap}\
th{text-align:left;padding-right:1rem;vertical-align:top}code{background:#f4f4f4;padding:0 .2rem}";

fn plain(id: &str) -> String {
    format!(
        "<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Something went wrong</title>\
         <style>{STYLE}</style></head><body><h1>We're sorry, but something went wrong.</h1>\
         <p>The application could not be started. If you are its operator: the log has the details under \
         error <code>{}</code>.</p></body></html>\n",
        escape(id)
    )
}

fn detailed(failure: &SpawnFailure) -> String {
    let mut facts = String::new();
    for (name, value) in &failure.facts {
        let _ = write!(
            facts,
            "<tr><th>{}</th><td><code>{}</code></td></tr>",
            escape(name),
            escape(value)
        );
    }
    format!(
        "<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <title>The application does not start</title><style>{STYLE}</style></head><body>\
         <h1>The application does not start</h1><p>{}</p><p>Failed step: <code>{}</code> · error \
         <code>{}</code></p><h2>What to try</h2><p>{}</p><h2>Its output</h2><pre>{}</pre>\
         <h2>How it was started</h2><table>{facts}</table>\
         <p><small>You see this because the application environment is <code>development</code> or \
         <code>PassengerFriendlyErrorPages</code> is on.</small></p></body></html>\n",
        escape(&failure.summary),
        escape(&failure.step),
        escape(&failure.id),
        escape(&failure.advice),
        escape(if failure.output.is_empty() {
            "(nothing)"
        } else {
            &failure.output
        }),
    )
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_of_an_app_cannot_become_markup() {
        let failure = SpawnFailure {
            id: "1".into(),
            summary: "<script>".into(),
            step: "load".into(),
            output: "a & \"b\"".into(),
            advice: String::new(),
            friendly: true,
            facts: vec![("user".into(), "<x>".into())],
        };
        let page = detailed(&failure);
        assert!(
            !page.contains("<script>")
                && page.contains("a &amp; &quot;b&quot;")
                && page.contains("&lt;x&gt;")
        );
    }

    #[test]
    fn the_plain_page_tells_nothing_but_the_id() {
        assert!(plain("deadbeef").contains("deadbeef"));
    }
}
