//! `restart-app`, `detach-process`, `list-instances`.

use std::path::{Path, PathBuf};

use passenger_shm::messages::{Config, Registration};

use super::arguments::{DetachArguments, ListArguments, RestartArguments};
use super::{client, registry, say, Failure, Outcome};
use crate::admin::{Answer, Request};
use crate::status::report::{GroupReport, Report};

/// Restarts what was named.
pub(super) fn restart_app(arguments: &RestartArguments) -> Outcome {
    let instance = match registry::choose(arguments.instance.as_deref()) {
        Err(_) if arguments.ignore_passenger_not_running && registry::all().is_empty() => {
            say("No instance is running, nothing to restart.\n")?;
            return Ok(0);
        }
        chosen => chosen?,
    };
    let report = client::status(&instance)?;
    let (names, what) = match (&arguments.name, &arguments.directory) {
        (Some(name), _) => (by_name(&report, name), format!("app named {name:?}")),
        (None, Some(directory)) => {
            let directory = absolute(directory)?;
            let names = by_directory(&report, &directory, &|path| resolved(path));
            (names, format!("app in {}", directory.display()))
        }
        (None, None) => return Err(Failure::unable("name a directory or an app")),
    };
    if names.is_empty() {
        let text = format!("no {what} is running{}", whose(&report));
        if arguments.ignore_app_not_running {
            say(&format!("{text}\n"))?;
            return Ok(0);
        }
        return Err(Failure::absent(text));
    }
    for name in names {
        say(&format!("Restarting {name}\n"))?;
        let restart = Request::RestartApp {
            name: name.clone(),
            rolling: arguments.rolling_restart,
        };
        match client::ask(&instance, &restart)? {
            Answer::Done | Answer::Configured { .. } => {}
            // It was forgotten between the two questions.
            Answer::Unknown => return Err(Failure::absent(format!("{name} is gone"))),
            Answer::Refused(why) => return Err(Failure::unable(why)),
        }
    }
    Ok(0)
}

/// Ends with the hint that others' apps are invisible.
fn whose(report: &Report) -> &'static str {
    if report.own_apps_only {
        " as you (root sees the apps of others, too)"
    } else {
        ""
    }
}

fn absolute(directory: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(directory)
        .map(|path| resolved(&path))
        .map_err(|e| Failure::unable(format!("cannot find {}: {e}", directory.display())))
}

/// Without links, as far as we may look.
fn resolved(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

fn by_name(report: &Report, name: &str) -> Vec<String> {
    let groups = report.groups.iter().filter(|group| group.name == name);
    // Groups of one name are restarted by one question.
    groups.take(1).map(|group| group.name.clone()).collect()
}

/// How a running instance has the app in that directory configured, and the instance's name. `None`: none serves it,
/// or none that tells us.
pub(super) fn configured(app: &Path) -> Option<(String, Config, Registration)> {
    let directory = resolved(app);
    registry::all().into_iter().find_map(|instance| {
        let report = client::status(&instance).ok()?;
        let is_it = |group: &&GroupReport| resolved(Path::new(&group.app_root)) == directory;
        let name = report.groups.iter().find(is_it)?.name.clone();
        match client::ask(&instance, &Request::Configuration { name }) {
            Ok(Answer::Configured {
                config,
                registration,
            }) => Some((instance.name.clone(), *config, registration)),
            _ => None,
        }
    })
}

/// Apps in or below the directory; if there are none, the innermost one that the directory is in. Whole
/// components count: `/webapps` is not above `/webapps123`.
fn by_directory(
    report: &Report,
    directory: &Path,
    resolve: &dyn Fn(&Path) -> PathBuf,
) -> Vec<String> {
    let roots: Vec<(PathBuf, &GroupReport)> = report
        .groups
        .iter()
        .map(|group| (resolve(Path::new(&group.app_root)), group))
        .collect();
    let below = roots.iter().filter(|(root, _)| root.starts_with(directory));
    let mut names: Vec<String> = below.map(|(_, group)| group.name.clone()).collect();
    if names.is_empty() {
        let around = roots.iter().filter(|(root, _)| directory.starts_with(root));
        let depth = around
            .clone()
            .map(|(root, _)| root.components().count())
            .max();
        let innermost = around.filter(|(root, _)| Some(root.components().count()) == depth);
        names = innermost.map(|(_, group)| group.name.clone()).collect();
    }
    names.sort();
    names.dedup();
    names
}

/// Drains one process.
pub(super) fn detach_process(arguments: &DetachArguments) -> Outcome {
    let instance = registry::choose(arguments.instance.as_deref())?;
    let pid = arguments.pid;
    match client::ask(&instance, &Request::DetachProcess { pid })? {
        Answer::Done | Answer::Configured { .. } => {
            say(&format!("Process {pid} detached.\n"))?;
            Ok(0)
        }
        Answer::Unknown if arguments.ignore_nonexistent_pid => {
            say(&format!("Process {pid} is no process of an app.\n"))?;
            Ok(0)
        }
        Answer::Unknown => Err(Failure::absent(format!(
            "{pid} is no process of an app that you may steer; passenger-status shows those there are"
        ))),
        Answer::Refused(why) => Err(Failure::absent(why)),
    }
}

/// Lists what runs.
pub(super) fn list_instances(arguments: &ListArguments) -> Outcome {
    let found = registry::all();
    if arguments.json {
        let list: Vec<serde_json::Value> = found.iter().map(as_json).collect();
        say(&format!("{:#}\n", serde_json::Value::from(list)))?;
    } else if !found.is_empty() {
        say(&registry::table(&found))?;
    } else if !arguments.quiet {
        say(&format!("{}\n", registry::nothing()))?;
    }
    Ok(0)
}

/// The original's shape: the properties, with the directory and the PIDs added.
fn as_json(found: &registry::Found) -> serde_json::Value {
    let mut value = serde_json::json!({
        "name": found.name,
        "instance_dir": { "path": found.path },
        "watchdog_pid": found.watchdog_pid,
        "core_pid": found.agent_pid,
    });
    if let (Some(properties), Some(object)) = (&found.properties, value.as_object_mut()) {
        let more = serde_json::json!({
            "passenger_version": properties.version,
            "server_software": properties.server_software,
            "server_pid": properties.parent_pid,
            "created_at": properties.created_at,
        });
        object.extend(more.as_object().cloned().unwrap_or_default());
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(roots: &[&str]) -> Report {
        let group = |root: &&str| GroupReport {
            name: format!("{root} (production)"),
            app_root: (*root).into(),
            ..GroupReport::default()
        };
        Report {
            groups: roots.iter().map(group).collect(),
            ..Report::default()
        }
    }

    fn named(roots: &[&str], directory: &str) -> Vec<String> {
        by_directory(&report(roots), Path::new(directory), &Path::to_path_buf)
    }

    #[test]
    fn whole_components_count() {
        let roots = ["/srv/webapps/a", "/srv/webapps/b", "/srv/webapps123"];
        let both = ["/srv/webapps/a (production)", "/srv/webapps/b (production)"];
        assert_eq!(named(&roots, "/srv/webapps"), both);
        assert_eq!(named(&roots, "/srv/webapps/a"), both[..1]);
        assert_eq!(named(&roots, "/srv/web"), Vec::<String>::new());
    }

    #[test]
    fn inside_an_app_the_innermost_one_is_meant() {
        let roots = ["/srv/a", "/srv/a/sub"];
        assert_eq!(
            named(&roots, "/srv/a/sub/app/models"),
            ["/srv/a/sub (production)"]
        );
        assert_eq!(named(&roots, "/srv/a/app"), ["/srv/a (production)"]);
    }

    #[test]
    fn a_name_must_be_exact() {
        let report = report(&["/srv/a"]);
        assert_eq!(by_name(&report, "/srv/a (production)").len(), 1);
        assert!(by_name(&report, "/srv/a").is_empty());
    }
}
