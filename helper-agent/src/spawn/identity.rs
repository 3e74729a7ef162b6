//! As whom an app runs: the reference's rules (`passenger-behaviour.md`, 11.1), and never as root.
//!
//! | step | rule |
//! |---|---|
//! | user | switching off: the default user. Else `PassengerUser`, else the owner of the startup file |
//! | guard | unknown to the system, or root: the default user. That is root or unknown too: an error |
//! | group | `PassengerGroup` (`!STARTUP_FILE!`: that file's group), else the user's primary group |
//! | guard | unknown or root's: the default group. That is root's or unknown too: an error |
//! | others | all groups the user is a member of |

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::accounts::{Account, Accounts};
use crate::config::OwnerRule;

/// A user with everything the shim needs to become it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Never 0.
    pub uid: u32,
    /// Never 0.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Name of the user.
    pub user: String,
    /// Name of the group.
    pub group: String,
    /// Home directory.
    pub home: PathBuf,
    /// Login shell.
    pub shell: PathBuf,
}

/// What the configuration says about it.
#[derive(Debug, Clone)]
pub struct Rules<'a> {
    /// `PassengerUserSwitching`.
    pub switching: bool,
    /// `PassengerUser`.
    pub user: Option<&'a str>,
    /// `PassengerGroup`.
    pub group: Option<&'a str>,
    /// `PassengerDefaultUser`.
    pub default_user: &'a str,
    /// `PassengerDefaultGroup`.
    pub default_group: Option<&'a str>,
    /// Whether only one user is possible at all.
    pub owner: OwnerRule,
}

impl Rules<'_> {
    /// Whether user or group follow from the startup file.
    #[must_use]
    pub fn ask_the_file(&self) -> bool {
        self.switching && (self.user.is_none() || self.group == Some(OF_STARTUP_FILE))
    }
}

/// Value of `PassengerGroup` that means the startup file's.
const OF_STARTUP_FILE: &str = "!STARTUP_FILE!";

/// Owner of the startup file itself, links not followed.
#[derive(Debug, Clone, Copy)]
pub struct FileOwner {
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// Applies the rules of the table above.
///
/// # Errors
/// When nobody but root is left to run it, or not the one user the trust rule allows.
pub fn choose(
    rules: &Rules<'_>,
    file: FileOwner,
    accounts: &dyn Accounts,
) -> Result<Identity, String> {
    let account = choose_account(rules, file, accounts)?;
    if let OwnerRule::Only { uid } = rules.owner {
        if account.uid != uid {
            return Err(format!(
                "the app belongs to uid {uid} and may run as nobody else, because its document root is not \
                 in the configuration; by PassengerUser, PassengerUserSwitching or PassengerDefaultUser it \
                 would run as {}",
                account.name
            ));
        }
    }
    let (gid, group) = choose_group(rules, file, &account, accounts)?;
    Ok(Identity {
        uid: account.uid,
        gid,
        groups: accounts.memberships(&account.name, gid),
        user: account.name,
        group,
        home: account.home,
        shell: account.shell,
    })
}

fn choose_account(
    rules: &Rules<'_>,
    file: FileOwner,
    accounts: &dyn Accounts,
) -> Result<Account, String> {
    let wanted = match (rules.switching, rules.user) {
        (false, _) => None,
        (true, Some(user)) => named_user(user, accounts),
        (true, None) => accounts.user_of(file.uid),
    };
    if let Some(account) = wanted.filter(|account| account.uid != 0) {
        return Ok(account);
    }
    let name = rules.default_user;
    match named_user(name, accounts) {
        None => Err(format!("PassengerDefaultUser {name:?} is not a user of this system")),
        Some(account) if account.uid == 0 => Err(format!(
            "PassengerDefaultUser {name:?} is root, and apps are never run as root: name another user"
        )),
        Some(account) => Ok(account),
    }
}

fn choose_group(
    rules: &Rules<'_>,
    file: FileOwner,
    account: &Account,
    accounts: &dyn Accounts,
) -> Result<(u32, String), String> {
    let usable = |gid: u32| match accounts.group_name(gid) {
        Some(name) if gid != 0 => Some((gid, name)),
        _ => None,
    };
    let wanted = match (rules.switching, rules.group) {
        (true, Some(OF_STARTUP_FILE)) => usable(file.gid),
        (true, Some(name)) => named_group(name, accounts).and_then(usable),
        (true, None) => usable(account.gid),
        (false, _) => None,
    };
    if let Some(group) = wanted {
        return Ok(group);
    }
    let (fallback, what) = match rules.default_group {
        Some(name) => (
            named_group(name, accounts),
            format!("PassengerDefaultGroup {name:?}"),
        ),
        None => (
            named_user(rules.default_user, accounts).map(|user| user.gid),
            format!(
                "the primary group of PassengerDefaultUser {:?}",
                rules.default_user
            ),
        ),
    };
    fallback.and_then(usable).ok_or_else(|| {
        format!("{what} does not exist or is root's group, and apps never run with root's group")
    })
}

/// By name, or by number as chown takes it.
fn named_user(name: &str, accounts: &dyn Accounts) -> Option<Account> {
    accounts
        .user(name)
        .or_else(|| name.parse().ok().and_then(|uid| accounts.user_of(uid)))
}

fn named_group(name: &str, accounts: &dyn Accounts) -> Option<u32> {
    accounts.group(name).or_else(|| name.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// root 0:0, nobody 65534:65534, alice 1000:1000, bob 1001:100, wheel 1002:0.
    struct Fake;

    impl Fake {
        const USERS: [(&'static str, u32, u32); 5] = [
            ("root", 0, 0),
            ("nobody", 65534, 65534),
            ("alice", 1000, 1000),
            ("bob", 1001, 100),
            ("wheel", 1002, 0),
        ];
        const GROUPS: [(&'static str, u32); 6] = [
            ("root", 0),
            ("nogroup", 65534),
            ("alice", 1000),
            ("users", 100),
            ("web", 33),
            ("staff", 50),
        ];

        fn account((name, uid, gid): (&str, u32, u32)) -> Account {
            let home = PathBuf::from(format!("/home/{name}"));
            Account {
                name: name.into(),
                uid,
                gid,
                home,
                shell: "/bin/sh".into(),
            }
        }
    }

    impl Accounts for Fake {
        fn user(&self, name: &str) -> Option<Account> {
            Self::USERS
                .into_iter()
                .find(|u| u.0 == name)
                .map(Self::account)
        }
        fn user_of(&self, uid: u32) -> Option<Account> {
            Self::USERS
                .into_iter()
                .find(|u| u.1 == uid)
                .map(Self::account)
        }
        fn group(&self, name: &str) -> Option<u32> {
            Self::GROUPS.into_iter().find(|g| g.0 == name).map(|g| g.1)
        }
        fn group_name(&self, gid: u32) -> Option<String> {
            Self::GROUPS
                .into_iter()
                .find(|g| g.1 == gid)
                .map(|g| g.0.into())
        }
        fn memberships(&self, _user: &str, gid: u32) -> Vec<u32> {
            vec![gid]
        }
    }

    fn rules() -> Rules<'static> {
        Rules {
            switching: true,
            user: None,
            group: None,
            default_user: "nobody",
            default_group: None,
            owner: OwnerRule::Configured,
        }
    }

    fn chosen(rules: &Rules<'_>, uid: u32, gid: u32) -> (u32, u32) {
        let identity = choose(rules, FileOwner { uid, gid }, &Fake).unwrap();
        (identity.uid, identity.gid)
    }

    fn with(change: impl Fn(&mut Rules<'static>)) -> Rules<'static> {
        let mut rules = rules();
        change(&mut rules);
        rules
    }

    #[test]
    fn the_user_is_the_configured_one_or_the_owner_of_the_file_or_the_default() {
        let plain = rules();
        let off = with(|r| r.switching = false);
        let off_with_user = with(|r| (r.switching, r.user) = (false, Some("bob")));
        let user = |name| with(move |r| r.user = Some(name));
        let nobody = (65534, 65534);
        assert_eq!(chosen(&plain, 1000, 33), (1000, 1000), "owner of the file");
        assert_eq!(chosen(&plain, 0, 0), nobody, "root's file");
        assert_eq!(chosen(&plain, 4711, 33), nobody, "unknown owner");
        assert_eq!(chosen(&off, 1000, 33), nobody, "switching off");
        assert_eq!(
            chosen(&off_with_user, 1000, 33),
            nobody,
            "off beats the user"
        );
        assert_eq!(chosen(&user("bob"), 1000, 33), (1001, 100));
        assert_eq!(chosen(&user("1001"), 1000, 33), (1001, 100), "by number");
        assert_eq!(chosen(&user("root"), 1000, 33), nobody);
        assert_eq!(chosen(&user("eve"), 1000, 33), nobody, "no such user");
    }

    #[test]
    fn the_group_is_the_configured_one_or_the_users_or_the_default() {
        let group = |name| with(move |r| r.group = Some(name));
        let web = with(|r| (r.group, r.default_group) = (Some("root"), Some("web")));
        let default_gid = 65534;
        assert_eq!(chosen(&group("staff"), 1000, 33), (1000, 50));
        assert_eq!(chosen(&group("!STARTUP_FILE!"), 1000, 33), (1000, 33));
        assert_eq!(
            chosen(&group("!STARTUP_FILE!"), 1000, 0),
            (1000, default_gid),
            "root's"
        );
        assert_eq!(
            chosen(&group("none"), 1000, 33),
            (1000, default_gid),
            "no such group"
        );
        assert_eq!(chosen(&group("root"), 1000, 33), (1000, default_gid));
        assert_eq!(
            chosen(&rules(), 1002, 33),
            (1002, default_gid),
            "primary group is root's"
        );
        assert_eq!(chosen(&web, 1000, 33), (1000, 33), "default group");
    }

    #[test]
    fn never_as_root_whatever_is_configured() {
        let file = FileOwner { uid: 0, gid: 0 };
        for default_user in ["root", "0", "eve"] {
            let rules = Rules {
                default_user,
                ..rules()
            };
            assert!(choose(&rules, file, &Fake).is_err(), "{default_user}");
        }
        for default_group in ["root", "0", "none"] {
            let rules = Rules {
                default_group: Some(default_group),
                group: Some("root"),
                ..rules()
            };
            let error = choose(&rules, file, &Fake).unwrap_err();
            assert!(error.contains("never run with root's group"), "{error}");
        }
        for user in ["root", "alice", "eve", "wheel", "0"] {
            for group in ["root", "0", "!STARTUP_FILE!", "none", "web"] {
                let rules = Rules {
                    user: Some(user),
                    group: Some(group),
                    ..rules()
                };
                let identity = choose(&rules, file, &Fake).unwrap();
                assert!(
                    identity.uid != 0 && identity.gid != 0,
                    "{user} {group}: {identity:?}"
                );
            }
        }
    }

    #[test]
    fn an_app_outside_the_configuration_runs_as_its_owner_or_not_at_all() {
        let file = FileOwner { uid: 1000, gid: 33 };
        let owner = OwnerRule::Only { uid: 1000 };
        assert_eq!(
            choose(&Rules { owner, ..rules() }, file, &Fake)
                .unwrap()
                .uid,
            1000
        );
        for user in [Some("bob"), Some("root")] {
            let error = choose(
                &Rules {
                    owner,
                    user,
                    ..rules()
                },
                file,
                &Fake,
            )
            .unwrap_err();
            assert!(error.contains("may run as nobody else"), "{error}");
        }
        let alice = Rules {
            owner,
            user: Some("alice"),
            ..rules()
        };
        assert_eq!(choose(&alice, file, &Fake).unwrap().uid, 1000);
        assert!(choose(
            &Rules {
                owner,
                switching: false,
                ..rules()
            },
            file,
            &Fake
        )
        .is_err());
    }
}
