//! Directives of global context: limits of the pool, user switching, logging.

use passenger_shm::messages::Directive;

use super::value;
use crate::hooks::Hooks;
use crate::spawn::launch::BACKLOG;

/// Values of the directives of global context, defaults applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Global {
    /// `PassengerMaxPoolSize`.
    pub max_pool_size: u32,
    /// `PassengerPoolIdleTime` in seconds; 0 = never.
    pub pool_idle_time: u32,
    /// `PassengerMaxInstancesPerApp`; 0 = no limit.
    pub max_instances_per_app: u32,
    /// `PassengerUserSwitching`.
    pub user_switching: bool,
    /// `PassengerDefaultUser`.
    pub default_user: String,
    /// `PassengerDefaultGroup`; absent: primary group of the default user.
    pub default_group: Option<String>,
    /// `PassengerLogLevel`, 0 (critical) to 7.
    pub log_level: u32,
    /// `PassengerStatThrottleRate` in seconds.
    pub stat_throttle_rate: u32,
    /// `PassengerAnalyticsCollectionRate`: seconds between looks at the processes' memory.
    pub measure_rate: u32,
    /// `PassengerWebSocketDrainTime` in seconds.
    pub websocket_drain_time: u32,
    /// `PassengerDrainTime` in seconds; 0 = for ever.
    pub drain_time: u32,
    /// `PassengerDefaultRuby`.
    pub default_ruby: Option<String>,
    /// `PassengerSocketBacklog`: connections that may wait at a process's socket.
    pub socket_backlog: u32,
    /// `PassengerDisableLogPrefix`.
    pub disable_log_prefix: bool,
    /// `PassengerPreStart`: URLs, in file order.
    pub pre_start: Vec<String>,
    /// `PassengerCtl hook_…`.
    pub hooks: Hooks,
}

impl Default for Global {
    fn default() -> Self {
        Self {
            max_pool_size: 6,
            pool_idle_time: 300,
            max_instances_per_app: 0,
            user_switching: true,
            default_user: "nobody".into(),
            default_group: None,
            log_level: 3,
            stat_throttle_rate: 10,
            measure_rate: 4,
            websocket_drain_time: 10,
            drain_time: 600,
            default_ruby: None,
            socket_backlog: BACKLOG,
            disable_log_prefix: false,
            pre_start: vec![],
            hooks: Hooks::default(),
        }
    }
}

impl Global {
    /// Reads them in file order, the last one winning.
    ///
    /// # Errors
    /// When a directive has an impossible value; the text names file and line.
    pub fn from_directives(directives: &[Directive]) -> Result<Self, String> {
        let mut global = Self {
            hooks: Hooks::from_directives(directives)?,
            ..Self::default()
        };
        for it in directives {
            global.set(it)?;
        }
        Ok(global)
    }

    fn set(&mut self, it: &Directive) -> Result<(), String> {
        match it.name.as_str() {
            "PassengerMaxPoolSize" => self.max_pool_size = value::count(it, 1)?,
            "PassengerPoolIdleTime" => self.pool_idle_time = value::count(it, 0)?,
            "PassengerMaxInstancesPerApp" => self.max_instances_per_app = value::count(it, 0)?,
            "PassengerUserSwitching" => self.user_switching = value::flag(it)?,
            "PassengerDefaultUser" => {
                if let Some(user) = value::optional_text(it)? {
                    self.default_user = user;
                }
            }
            "PassengerDefaultGroup" => self.default_group = value::optional_text(it)?,
            "PassengerLogLevel" => self.log_level = value::count(it, 0)?,
            "PassengerStatThrottleRate" => self.stat_throttle_rate = value::count(it, 0)?,
            "PassengerAnalyticsCollectionRate" => self.measure_rate = value::count(it, 1)?,
            "PassengerWebSocketDrainTime" => self.websocket_drain_time = value::count(it, 0)?,
            "PassengerSocketBacklog" => self.socket_backlog = value::count(it, 0)?,
            "PassengerDrainTime" => self.drain_time = value::count(it, 0)?,
            "PassengerDefaultRuby" => self.default_ruby = value::optional_text(it)?,
            "PassengerPreStart" => self.pre_start.extend(it.args.iter().cloned()),
            "PassengerDisableLogPrefix" => self.disable_log_prefix = value::flag(it)?,
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_one_wins_and_the_rest_are_defaults() {
        let directive = |name: &str, arg: &str| Directive {
            name: name.into(),
            args: vec![arg.into()],
            file: "f".into(),
            line: 1,
        };
        let global = Global::from_directives(&[
            directive("PassengerMaxPoolSize", "9"),
            directive("PassengerMaxPoolSize", "2"),
            directive("PassengerUserSwitching", "off"),
            directive("PassengerRoot", "/opt"),
        ])
        .unwrap();
        assert_eq!(
            global,
            Global {
                max_pool_size: 2,
                user_switching: false,
                ..Global::default()
            }
        );
        assert!(Global::from_directives(&[directive("PassengerMaxPoolSize", "0")]).is_err());
    }
}
