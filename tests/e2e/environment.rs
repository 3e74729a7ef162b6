//! An app that answers with what it was told about the request, for tests of what an app sees.

use harness::{App, Language, Response, Site};

/// Answers with one line `NAME=value` for each variable (Node: for each header, and `url`).
fn source(language: Language) -> &'static str {
    match language {
        Language::Ruby => {
            "run ->(env) { [200, {'content-type' => 'text/plain'}, \
             [env.select { |_, v| v.is_a?(String) }.sort.map { |k, v| \"#{k}=#{v}\\n\" }.join]] }\n"
        }
        Language::Python => {
            "def application(environ, start_response):\n    \
             start_response('200 OK', [('Content-Type', 'text/plain')])\n    \
             return [''.join(f'{k}={v}\\n' for k, v in sorted(environ.items()) if isinstance(v, str)).encode('latin-1')]\n"
        }
        Language::Node => {
            "require('http').createServer((q, s) => {\n  \
             const all = {url: q.url, method: q.method, ...q.headers};\n  \
             const block = all['!~passenger-envvars'];\n  \
             if (block) {\n    \
             const parts = Buffer.from(block, 'base64').toString('latin1').split('\\0');\n    \
             for (let i = 0; i + 1 < parts.length; i += 2) all['var ' + parts[i]] = parts[i + 1];\n  }\n  \
             s.end(Object.entries(all).map(([k, v]) => `${k}=${v}\\n`).join(''));\n}).listen(3000);\n"
        }
    }
}

/// The app.
pub(crate) fn app(language: Language) -> App {
    App::inline(language, source(language))
}

/// The app, on a site `app`.
pub(crate) fn site(language: Language) -> Site {
    Site::new("app", app(language))
}

/// What the app was told, by name.
pub(crate) trait Told {
    /// The value of a variable; `None` if the app has none of that name.
    fn told(&self, name: &str) -> Option<String>;

    /// `SCRIPT_NAME|PATH_INFO|REQUEST_URI|QUERY_STRING`.
    fn paths(&self) -> String;
}

impl Told for Response {
    fn told(&self, name: &str) -> Option<String> {
        self.ok().lines().find_map(|line| {
            let value = line.strip_prefix(name)?.strip_prefix('=')?;
            Some(value.to_owned())
        })
    }

    fn paths(&self) -> String {
        let names = ["SCRIPT_NAME", "PATH_INFO", "REQUEST_URI", "QUERY_STRING"];
        let values = names.map(|name| self.told(name).unwrap_or_else(|| "(none)".to_owned()));
        values.join("|")
    }
}
