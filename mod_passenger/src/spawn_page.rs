//! The pages for an app that does not start, as text: one for whoever develops it, one for everybody else.
//! Self-contained: no script, no image, nothing from elsewhere. What an app printed is text there, never markup.

use passenger_shm::messages::SpawnFailure;
use std::fmt::Write;

/// The steps of a start, and what happens in each.
const STEPS: [(&str, &str); 6] = [
    ("prepare", "find the app, its user and its interpreter"),
    ("user", "become the app's user"),
    ("directory", "enter the app's directory"),
    ("exec", "run the interpreter"),
    ("load", "load the app's code"),
    ("listen", "open the socket for requests"),
];

/// Colours that people with any eyesight can tell apart, on light and on dark.
const STYLE: &str = "\
:root{color-scheme:light dark;--page:#f6f7f9;--card:#fff;--text:#1c2430;--dim:#5c6675;--line:#dfe3e8;\
--bad:#b3261e;--bad-soft:#fdecea;--good:#1a7f4b;--tip:#0b57a4;--tip-soft:#e8f1fb;--code:#14181f;--code-text:#e6e9ee}\
@media(prefers-color-scheme:dark){:root{--page:#12151a;--card:#1b2027;--text:#e4e8ee;--dim:#9aa5b4;--line:#2d343e;\
--bad:#ff8a80;--bad-soft:#3a1d1b;--good:#6fd49b;--tip:#8fc1ff;--tip-soft:#182a40;--code:#0c0f13}}\
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--text);\
font:16px/1.55 system-ui,-apple-system,\"Segoe UI\",Roboto,\"Noto Sans\",sans-serif}\
main{max-width:60rem;margin:0 auto;padding:2.5rem 1.25rem 4rem}\
header{border-left:.4rem solid var(--bad);background:var(--bad-soft);border-radius:.5rem;padding:1.25rem 1.5rem}\
h1{font-size:1.5rem;line-height:1.25;margin:0 0 .5rem;color:var(--bad)}header p{margin:0;overflow-wrap:anywhere}\
header.calm{border-color:var(--tip);background:var(--tip-soft)}.calm h1{color:var(--tip)}\
section{background:var(--card);border:1px solid var(--line);border-radius:.5rem;margin-top:1.25rem;padding:1.1rem 1.5rem}\
h2{font-size:1.05rem;margin:0 0 .6rem}section p{margin:.3rem 0}\
.tip{border-color:var(--tip);background:var(--tip-soft)}.tip h2{color:var(--tip)}\
ol{list-style:none;margin:0;padding:0}li{display:flex;gap:.8rem;align-items:baseline;padding:.28rem 0;color:var(--dim)}\
li b{min-width:5.5rem;font:600 .95rem/1.4 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}\
li b,li .mark,li .time{flex-shrink:0}li .mark{width:1.2rem;text-align:center;font-weight:700}li .time{margin-left:auto;white-space:nowrap;font-size:.85rem}\
li.done .mark{color:var(--good)}li.failed{color:var(--bad)}li.failed span{font-weight:600}\
pre{background:var(--code);color:var(--code-text);border-radius:.4rem;margin:0;padding:1rem;max-height:32rem;overflow:auto;\
white-space:pre-wrap;overflow-wrap:anywhere;font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}\
table{border-collapse:collapse;width:100%}th,td{text-align:left;vertical-align:top;padding:.3rem 0;border-top:1px solid var(--line)}\
tr:first-child th,tr:first-child td{border-top:0}th{font-weight:500;color:var(--dim);padding-right:1.5rem;white-space:nowrap}\
td{overflow-wrap:anywhere;width:100%}td,code{font:14px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}\
.hidden{color:var(--dim);font-style:italic}summary{cursor:pointer;font-weight:600}details[open] summary{margin-bottom:.6rem}\
footer{color:var(--dim);font-size:.875rem;margin-top:1.5rem}";

/// For visitors: nothing but that it is not their fault, and an id that the log repeats.
pub(crate) fn plain(id: &str) -> String {
    page(
        "Something went wrong",
        &format!(
            "<header class=\"calm\"><h1>We're sorry, but something went wrong.</h1><p>This page could not be shown. It is not \
             your fault; please try again in a while.</p></header>\
             <footer>If you run this site: the log has the reason under error <code>{}</code>.</footer>",
            escape(id)
        ),
    )
}

/// For developers: everything that is known, secrets excepted.
pub(crate) fn detailed(failure: &SpawnFailure) -> String {
    let output = match failure.output.trim() {
        "" => "<p class=\"hidden\">It printed nothing.</p>".to_owned(),
        _ => format!("<pre>{}</pre>", escape(&failure.output)),
    };
    let facts: String = failure
        .facts
        .iter()
        .map(|(name, value)| row(name, Some(value)))
        .collect();
    let variables: String = failure
        .environment
        .iter()
        .map(|(name, value)| row(name, value.as_deref()))
        .collect();
    let mut body = format!(
        "<header><h1>The application does not start</h1><p>{}</p></header>\
         <section class=\"tip\"><h2>What to try</h2><p>{}</p></section>\
         <section><h2>How far it came</h2><ol>{}</ol></section>\
         <section><h2>What it printed</h2>{output}</section>\
         <section><h2>How it was started</h2><table>{facts}</table></section>",
        escape(&failure.summary),
        escape(&failure.advice),
        steps(failure),
    );
    if !failure.environment.is_empty() {
        let _ = write!(
            body,
            "<section><details><summary>Its environment variables</summary><table>{variables}</table></details>\
             </section>"
        );
    }
    let _ = write!(
        body,
        "<footer><p>Error <code>{}</code>, which the log has, too. You see this page because the application's \
         environment is <code>development</code> or <code>PassengerFriendlyErrorPages</code> is on; visitors of a \
         production site see the id only. Once it is mended, reload: the next request starts the application \
         anew.</p></footer>",
        escape(&failure.id)
    );
    page("The application does not start", &body)
}

fn page(title: &str, body: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width,initial-scale=1\"><meta name=\"robots\" content=\"noindex\"><title>{title}\
         </title><style>{STYLE}</style></head><body><main>{body}</main></body></html>\n"
    )
}

/// Those before the failed one are done, those after it were not reached.
fn steps(failure: &SpawnFailure) -> String {
    let known = STEPS.iter().position(|(name, _)| *name == failure.step);
    let mut list = String::new();
    for (at, (name, meaning)) in STEPS.iter().enumerate() {
        let (class, mark) = match known {
            Some(failed) if at < failed => ("done", "✓"),
            Some(failed) if at == failed => ("failed", "✗"),
            _ => ("open", "·"),
        };
        let taken = failure.steps.iter().find(|step| step.name == *name);
        let time = taken.map_or_else(String::new, |step| {
            format!(
                "<span class=\"time\">{}</span>",
                duration(step.milliseconds)
            )
        });
        let _ = write!(
            list,
            "<li class=\"{class}\"><span class=\"mark\">{mark}</span><b>{name}</b><span>{meaning}</span>{time}</li>"
        );
    }
    if known.is_none() {
        let _ = write!(
            list,
            "<li class=\"failed\"><span class=\"mark\">✗</span><b>{}</b></li>",
            escape(&failure.step)
        );
    }
    list
}

fn duration(milliseconds: u64) -> String {
    match milliseconds {
        ms @ 0..=999 => format!("{ms} ms"),
        ms => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
    }
}

fn row(name: &str, value: Option<&str>) -> String {
    let value = match value {
        Some(value) => escape(value),
        None => "<span class=\"hidden\">set, not shown</span>".to_owned(),
    };
    format!("<tr><th>{}</th><td>{value}</td></tr>", escape(name))
}

/// Text as HTML. Colours of terminals are taken out; what could hide or reorder text is made visible.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\u{1b}' if characters.peek() == Some(&'[') => {
                characters.next();
                // ECMA-48: parameters, then one final character.
                while characters.next_if(|c| matches!(c, ' '..='?')).is_some() {}
                characters.next_if(|c| matches!(c, '@'..='~'));
            }
            '\n' | '\t' => out.push(c),
            '\r' => {}
            c if c.is_control() || is_reordering(c) => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

fn is_reordering(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use passenger_shm::messages::StepTaken;
    use proptest::prelude::*;

    fn failure() -> SpawnFailure {
        SpawnFailure {
            id: "deadbeef".into(),
            summary: "The app /srv/app could not be started".into(),
            step: "load".into(),
            output: String::new(),
            advice: "Read what it printed.".into(),
            friendly: true,
            facts: vec![],
            steps: vec![],
            environment: vec![],
        }
    }

    #[test]
    fn nothing_that_comes_from_an_app_becomes_markup() {
        let evil = "<script>alert('1')</script>\" & \u{1b}[31mred\u{1b}[0m \u{202e}\0";
        let page = detailed(&SpawnFailure {
            id: evil.into(),
            summary: evil.into(),
            step: evil.into(),
            output: evil.into(),
            advice: evil.into(),
            facts: vec![(evil.into(), evil.into())],
            environment: vec![(evil.into(), Some(evil.into()))],
            ..failure()
        });
        assert_eq!(page.matches("<script").count(), 0);
        let shown =
            "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&quot; &amp; red \u{fffd}\u{fffd}";
        assert_eq!(page.matches(shown).count(), 9, "{page}");
    }

    #[test]
    fn the_page_says_how_far_the_start_came_and_how_long_it_took() {
        let took = |name: &str, milliseconds| StepTaken {
            name: name.into(),
            milliseconds,
        };
        let page = detailed(&SpawnFailure {
            steps: vec![took("exec", 12), took("load", 3456)],
            ..failure()
        });
        assert_eq!(page.matches("<li class=\"done\">").count(), 4);
        assert_eq!(page.matches("<li class=\"failed\">").count(), 1);
        assert_eq!(page.matches("<li class=\"open\">").count(), 1);
        assert!(page.contains(">12 ms<") && page.contains(">3.4 s<"));
    }

    #[test]
    fn a_secret_is_named_and_not_shown() {
        let page = detailed(&SpawnFailure {
            environment: vec![
                ("HOME".into(), Some("/home/a".into())),
                ("SECRET_KEY".into(), None),
            ],
            ..failure()
        });
        assert!(page.contains("/home/a") && page.contains("SECRET_KEY"));
        assert_eq!(page.matches("set, not shown").count(), 1);
    }

    #[test]
    fn the_plain_page_tells_nothing_but_the_id() {
        let page = plain("deadbeef");
        assert!(page.contains("deadbeef"));
        for word in ["assenger", "Apache", "/srv"] {
            assert!(!page.contains(word), "{word}");
        }
    }

    #[test]
    fn the_pages_need_nothing_from_elsewhere() {
        for page in [plain("x"), detailed(&failure())] {
            for reference in ["http:", "https:", "src=", "href=", "url(", "@import"] {
                assert!(!page.contains(reference), "{reference}");
            }
        }
    }

    proptest! {
        #[test]
        fn escaped_text_has_no_special_characters(text in any::<String>()) {
            let escaped = escape(&text);
            let special = ['<', '>', '"', '\'', '\u{1b}'];
            prop_assert!(!escaped.contains(special));
            let known = ["&amp;", "&lt;", "&gt;", "&quot;", "&#39;"];
            for (at, _) in escaped.match_indices('&') {
                prop_assert!(known.iter().any(|entity| escaped[at..].starts_with(entity)));
            }
        }
    }
}
