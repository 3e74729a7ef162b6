//! How a Ruby process loads its application: Bundler and load paths, what `config.ru` may contain, what the
//! application may say of itself before its first request.

mod support;

use support::apps::{fixture, get, last_line, Scratch};
use support::client::Request;
use support::process::{AppProcess, Launch};
use support::Language;

fn ready(app: &Scratch) -> Option<AppProcess> {
    Launch::new(Language::Ruby, app.path()).start_ready()
}

// --- Bundler ---

#[test]
fn a_gemfile_that_cannot_be_satisfied_is_reported() {
    let launch = Launch::new(Language::Ruby, &fixture("rack-bundler"));
    let Some(process) = launch.start() else {
        return;
    };
    let line = last_line(process);
    assert!(line.starts_with("error load Bundler::"), "{line}");
    assert!(line.contains("a-gem-that-nobody-has"), "{line}");
}

/// A Rack application whose `config.ru` answers with that Ruby expression, and these files beside it.
fn rack_with(expression: &str, files: &[(&str, &str)]) -> Scratch {
    let config = format!("run ->(_) {{ [200, {{}}, [({expression}).to_s]] }}\n");
    let app = Scratch::app(files);
    app.write("config.ru", &config);
    app
}

#[test]
fn bundler_is_set_up_once_and_may_be_again() {
    let app = rack_with(
        "require 'bundler/setup'; Bundler.setup; Bundler.require; defined?(Sinatra).inspect + defined?(Rack)",
        &[("Gemfile", "gem 'rack'\n")],
    );
    let Some(process) = Launch::new(Language::Ruby, app.path()).start_ready() else {
        return;
    };
    assert_eq!(get(&process, "/").text(), "nilconstant");
}

#[test]
fn an_applications_own_load_path_comes_before_bundler() {
    let says = "$said = \"#{$said} path\"";
    let bundle = "raise 'this comes second and must not be read'";
    for (name, files, expected) in [
        (
            "setup",
            vec![
                ("config/setup_load_paths.rb", says),
                (".bundle/environment.rb", bundle),
                ("Gemfile", bundle),
            ],
            " path",
        ),
        (
            "environment",
            vec![(".bundle/environment.rb", says), ("Gemfile", bundle)],
            " path",
        ),
    ] {
        let app = rack_with("$said", &files);
        let Some(process) = Launch::new(Language::Ruby, app.path()).start_ready() else {
            return;
        };
        assert_eq!(get(&process, "/").text(), expected, "{name}");
    }
}

/// A gem that Ruby itself brings in another version: whoever loads that one too early makes it impossible to have the
/// other. `socket` needs io-wait.
#[test]
fn the_loader_leaves_the_choice_of_default_gems_to_bundler() {
    let app = rack_with(
        "IO_WAIT",
        &[
            ("Gemfile", "gem 'rack'\ngem 'io-wait', path: 'vendor'\n"),
            (
                "vendor/io-wait.gemspec",
                "Gem::Specification.new('io-wait', '9.9.9') { |s| s.summary = s.author = 'x' }\n",
            ),
            ("vendor/lib/io/wait.rb", "IO_WAIT = 'the vendored one'\n"),
        ],
    );
    if let Some(process) = ready(&app) {
        assert_eq!(get(&process, "/").text(), "the vendored one");
    }
}

#[test]
fn gemfiles_may_have_other_names() {
    let named = ("config/Gems", "gem 'rack'\n$said = 'named'\n");
    let app = rack_with(
        "$said",
        &[("gems.rb", "gem 'rack'\n$said = 'gems.rb'\n"), named],
    );
    let Some(process) = ready(&app) else { return };
    assert_eq!(get(&process, "/").text(), "gems.rb");
    let path = app.path().join("config/Gems");
    let launch = Launch::new(Language::Ruby, app.path());
    let launch = launch.variable("BUNDLE_GEMFILE", &path.to_string_lossy());
    let process = launch.start_ready().expect("it started before");
    assert_eq!(get(&process, "/").text(), "named");
}

/// Neither is ours needed in a Gemfile, nor does the original in one hurt.
#[test]
fn the_original_in_a_gemfile_is_not_what_applications_get() {
    for gemfile in ["", "gem 'passenger', path: 'vendor'\n"] {
        let app = rack_with(
            "require 'phusion_passenger'; PhusionPassenger.respond_to?(:call_event)",
            &[
                ("Gemfile", &format!("gem 'rack'\n{gemfile}")),
                (
                    "vendor/passenger.gemspec",
                    "Gem::Specification.new('passenger', '6.0.0') { |s| s.summary = s.author = 'x' }\n",
                ),
                ("vendor/lib/phusion_passenger.rb", "raise 'the original'\n"),
            ],
        );
        let Some(process) = ready(&app) else { return };
        assert_eq!(get(&process, "/").text(), "true", "{gemfile}");
    }
}

// --- config.ru ---

#[test]
fn config_ru_may_have_what_rackup_knows() {
    let app = Scratch::app(&[(
        "config.ru",
        "\u{feff}# frozen_string_literal: true\n\
         mark = Struct.new(:app, :word) do\n  \
           def call(env) = app.call(env.merge('marks' => [*env['marks'], word]))\n\
         end\n\
         use mark, 'grün'\n\
         warmup { |app| $warm = app.respond_to?(:call) }\n\
         map '/mapped' do\n  \
           use mark, 'mapped'\n  \
           run ->(env) { [200, {}, [env.values_at('SCRIPT_NAME', 'PATH_INFO', 'marks').join(' ')]] }\n\
         end\n\
         run ->(env) { [200, {}, [[env['marks'], $warm, __FILE__ == ENV['RU'], __dir__ == Dir.pwd].join(' ')]] }\n\
         __END__\nthis is no Ruby\n",
    )]);
    let file = app.path().join("config.ru");
    let file = std::fs::canonicalize(file).expect("it is there");
    let launch = Launch::new(Language::Ruby, app.path()).variable("RU", &file.to_string_lossy());
    let Some(process) = launch.start_ready() else {
        return;
    };
    assert_eq!(get(&process, "/").text(), "grün true true true");
    let mapped = get(&process, "/mapped/below").text();
    assert_eq!(mapped, "/mapped /below grün mapped");
}

/// Options for `rackup` in the first line; Rack 3 has given them up and says so.
#[test]
fn options_in_config_ru_disturb_nobody() {
    let app = Scratch::app(&[(
        "config.ru",
        "#\\ -w -p 8765 --host 0.0.0.0 -E development\n\
         run ->(_) { [200, {}, [[Rack.release, ENV['RACK_ENV']].join(' ')]] }\n",
    )]);
    let Some(mut process) = Launch::new(Language::Ruby, app.path()).start() else {
        return;
    };
    let mut last = String::new();
    while let Some(line) = process.next_line() {
        let is_ready = line.starts_with("ready ");
        last = line;
        if is_ready {
            break;
        }
    }
    if last.starts_with("ready ") {
        let text = get(&process, "/").text();
        assert!(
            text.starts_with("2.") && text.ends_with(" production"),
            "{text}"
        );
    } else {
        assert!(last.contains("no longer supported"), "{last}");
    }
}

#[test]
fn startup_files_may_have_other_names() {
    let text = "run ->(_) { [200, {}, [File.basename(__FILE__)]] }\n";
    let app = Scratch::app(&[("other.ru", text), ("app.rb", text)]);
    for file in ["other.ru", "app.rb"] {
        let launch = Launch::new(Language::Ruby, app.path()).startup_file(file);
        let Some(process) = launch.start_ready() else {
            return;
        };
        assert_eq!(get(&process, "/").text(), file);
    }
}

// --- what it may say of itself ---

#[test]
fn the_advertised_concurrency_is_what_the_agent_hears() {
    let text = "PhusionPassenger.advertised_concurrency_level = 7\nrun ->(_) { [200, {}, []] }\n";
    let app = Scratch::app(&[("config.ru", text)]);
    let Some(mut process) = Launch::new(Language::Ruby, app.path()).start() else {
        return;
    };
    let lines: Vec<_> = (0..3).filter_map(|_| process.next_line()).collect();
    assert_eq!(lines[2], "ready concurrency=7 protocol=binary");
}

#[test]
fn old_applications_may_call_what_they_know() {
    let text = "PhusionPassenger.install_framework_extensions!\n\
                said = []\n\
                PhusionPassenger.on_event(:credentials) { |*given| said << given }\n\
                PhusionPassenger.on_event(:after_installing_signal_handlers) { said << :signals }\n\
                PhusionPassenger.on_event(:starting_worker_process) { |forked| said << forked }\n\
                PhusionPassenger.call_event(:credentials, 1, 2)\n\
                run ->(_) { [200, {}, [said.inspect]] }\n";
    let app = Scratch::app(&[("config.ru", text)]);
    if let Some(process) = ready(&app) {
        assert_eq!(get(&process, "/").text(), "[[1, 2], false, :signals]");
    }
}

/// Directories for large uploads under Rack 2 come from `TMPDIR`, which may say anything.
#[test]
fn uploads_find_a_place_whatever_tmpdir_says() {
    let text = "run ->(env) { i = env['rack.input']; n = i.read.bytesize\n\
                i.rewind if i.respond_to?(:rewind)\n\
                [200, {}, [[n, i.respond_to?(:rewind) ? i.read(3) : 'xxx'].join(' ')]] }\n";
    let app = Scratch::app(&[("config.ru", text), ("file", "")]);
    let file = app.path().join("file").to_string_lossy().into_owned();
    for place in ["", "/nonexistent", "relative", &file] {
        let launch = Launch::new(Language::Ruby, app.path()).variable("TMPDIR", place);
        let Some(process) = launch.start_ready() else {
            return;
        };
        let body = support::client::Body::Pieces(vec![vec![b'x'; 1 << 20]; 2]);
        let response = process.connect().call(&Request::post("/", body));
        assert_eq!(response.text(), "2097152 xxx", "TMPDIR={place}");
    }
}
