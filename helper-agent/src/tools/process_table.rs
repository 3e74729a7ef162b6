//! The processes of this machine, as far as `/proc` shows them to whoever looks: who is whose child, how large, and
//! how it was called.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

/// One process.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Entry {
    /// Its parent.
    pub(super) parent: i32,
    /// Its virtual memory, in kilobytes.
    pub(super) virtual_size: u64,
    /// The kernel's short name of it.
    pub(super) short_name: String,
    /// How it was called, or the short name where nobody called it.
    pub(super) name: String,
    /// Whose `/proc` says it is.
    pub(super) uid: u32,
}

/// All of them, by PID.
#[derive(Debug, Default)]
pub(super) struct ProcessTable {
    entries: BTreeMap<i32, Entry>,
}

impl ProcessTable {
    /// As it is now. A process that ends meanwhile is left out.
    pub(super) fn read() -> Self {
        let directories = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = directories.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter_map(|pid| Some((pid, look(pid)?))).collect()
    }

    pub(super) fn get(&self, pid: i32) -> Option<&Entry> {
        self.entries.get(&pid)
    }

    /// Those whose parent is one of these.
    pub(super) fn children_of<'a>(
        &'a self,
        parents: &'a [i32],
    ) -> impl Iterator<Item = (i32, &'a Entry)> {
        self.entries
            .iter()
            .filter(|(_, entry)| parents.contains(&entry.parent))
            .map(|(pid, entry)| (*pid, entry))
    }

    /// These processes, and those that came out of them, without any that `is_other`'s or came out of it.
    pub(super) fn with_descendants(
        &self,
        roots: &[i32],
        is_other: impl Fn(i32) -> bool,
    ) -> Vec<i32> {
        let mut all: Vec<i32> = roots.iter().copied().filter(|pid| *pid > 0).collect();
        let mut next = 0;
        while let Some(parent) = all.get(next).copied() {
            next += 1;
            for (pid, _) in self.children_of(&[parent]) {
                if !is_other(pid) && !all.contains(&pid) {
                    all.push(pid);
                }
            }
        }
        all.retain(|pid| self.entries.contains_key(pid));
        all
    }
}

impl FromIterator<(i32, Entry)> for ProcessTable {
    fn from_iter<T: IntoIterator<Item = (i32, Entry)>>(entries: T) -> Self {
        Self {
            entries: entries.into_iter().collect(),
        }
    }
}

fn look(pid: i32) -> Option<Entry> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let mut entry = parse(&String::from_utf8_lossy(&stat))?;
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = String::from_utf8_lossy(&line).replace('\0', " ");
    entry.name = match words.trim() {
        "" => entry.short_name.clone(),
        words => words.to_owned(),
    };
    entry.uid = fs::metadata(format!("/proc/{pid}")).ok()?.uid();
    Some(entry)
}

/// Fields 2, 4 and 23 of `/proc/PID/stat` (proc(5)). None: it has ended and only waits to be reaped.
fn parse(stat: &str) -> Option<Entry> {
    let (before, after) = stat.rsplit_once(')')?;
    let (_, short_name) = before.split_once('(')?;
    let fields: Vec<&str> = after.split_ascii_whitespace().collect();
    if ["Z", "X"].contains(fields.first()?) {
        return None;
    }
    Some(Entry {
        parent: fields.get(4 - 3)?.parse().ok()?,
        virtual_size: fields.get(23 - 3)?.parse::<u64>().ok()? / 1_024,
        short_name: short_name.to_owned(),
        ..Entry::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn child(pid: i32, parent: i32) -> (i32, Entry) {
        let entry = Entry {
            parent,
            ..Entry::default()
        };
        (pid, entry)
    }

    #[test]
    fn descendants_stop_at_what_belongs_to_another() {
        let entries = [(1, 0), (10, 1), (11, 10), (12, 11), (13, 10), (14, 13)];
        let table: ProcessTable = entries
            .map(|(pid, parent)| child(pid, parent))
            .into_iter()
            .collect();
        assert_eq!(
            table.with_descendants(&[10], |_| false),
            [10, 11, 13, 12, 14]
        );
        assert_eq!(table.with_descendants(&[10], |pid| pid == 13), [10, 11, 12]);
        assert_eq!(
            table.with_descendants(&[99, 0], |_| false),
            Vec::<i32>::new()
        );
    }

    #[test]
    fn the_name_in_the_kernels_line_may_be_anything() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 30 20 0 0 20 0 1 0 900 2048000 1";
        let entry = parse(stat).unwrap();
        assert_eq!((entry.parent, entry.virtual_size), (1, 2_000));
        assert_eq!(entry.short_name, "a) b (c");
        assert_eq!(parse(&stat.replace(") S 1", ") Z 1")), None, "a zombie");
        assert_eq!(parse("nonsense"), None);
    }

    #[test]
    fn this_process_is_in_the_table() {
        let own = i32::try_from(std::process::id()).unwrap();
        let table = ProcessTable::read();
        let entry = table.get(own).expect("this process");
        assert!(entry.virtual_size > 100, "{entry:?}");
        assert!(!entry.name.is_empty() && entry.parent > 0, "{entry:?}");
    }
}
