//! The system's users and groups, behind a trait so that the rules about them can be tested.

use std::ffi::CString;
use std::path::PathBuf;

use nix::unistd::{getgrouplist, Gid, Group, Uid, User};

/// A user of the system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Home directory.
    pub home: PathBuf,
    /// Login shell.
    pub shell: PathBuf,
}

/// The system's users and groups. Looking up may block (a directory service).
pub trait Accounts {
    /// The user of that name.
    fn user(&self, name: &str) -> Option<Account>;
    /// The user with that id.
    fn user_of(&self, uid: u32) -> Option<Account>;
    /// Id of the group of that name.
    fn group(&self, name: &str) -> Option<u32>;
    /// Name of the group with that id.
    fn group_name(&self, gid: u32) -> Option<String>;
    /// All groups of a user, the given one included.
    fn memberships(&self, user: &str, gid: u32) -> Vec<u32>;
}

/// The name service of this machine.
#[derive(Debug, Clone, Copy)]
pub struct System;

impl Accounts for System {
    fn user(&self, name: &str) -> Option<Account> {
        User::from_name(name).ok().flatten().map(Account::from)
    }

    fn user_of(&self, uid: u32) -> Option<Account> {
        User::from_uid(Uid::from_raw(uid))
            .ok()
            .flatten()
            .map(Account::from)
    }

    fn group(&self, name: &str) -> Option<u32> {
        Group::from_name(name)
            .ok()
            .flatten()
            .map(|group| group.gid.as_raw())
    }

    fn group_name(&self, gid: u32) -> Option<String> {
        Group::from_gid(Gid::from_raw(gid))
            .ok()
            .flatten()
            .map(|group| group.name)
    }

    fn memberships(&self, user: &str, gid: u32) -> Vec<u32> {
        let Ok(name) = CString::new(user) else {
            return vec![gid];
        };
        let groups = getgrouplist(&name, Gid::from_raw(gid)).unwrap_or_default();
        let mut groups: Vec<u32> = groups.into_iter().map(Gid::as_raw).collect();
        if !groups.contains(&gid) {
            groups.push(gid);
        }
        groups
    }
}

impl From<User> for Account {
    fn from(user: User) -> Self {
        Self {
            name: user.name,
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
            home: user.dir,
            shell: user.shell,
        }
    }
}
