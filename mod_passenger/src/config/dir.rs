//! The values a request needs, per configuration section, and how sections inherit.
//!
//! One rule: what a section sets wins over what surrounds it; sets are replaced, not united.
//! Defaults are not stored, the getters apply them.

use super::directive::Setter;
use super::parse::Value;
use crate::ffi::pool::Pool;

/// Declares the stored values once: the struct and its merge come from the same list.
macro_rules! settings {
    ($($(#[$doc:meta])* $field:ident: $type:ty,)*) => {
        /// What one section sets, or what several merged sections set together.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub(crate) struct DirConfig<'p> {
            /// Number of this section's own record, 0 if it has none (yet).
            pub(super) record: u32,
            pub(super) chain: &'p [u32],
            $($(#[$doc])* pub(super) $field: Option<$type>,)*
        }

        impl<'p> DirConfig<'p> {
            /// Takes what `self` does not set from `base`.
            fn inherit(&mut self, base: &DirConfig<'p>) {
                $(self.$field = self.$field.or(base.$field);)*
            }

            /// Whether the section sets nothing a request would look at.
            fn sets_nothing(&self) -> bool {
                true $(&& self.$field.is_none())*
            }
        }
    };
}

settings! {
    enabled: bool,
    app_root: &'p str,
    app_type: &'p str,
    app_start_command: &'p str,
    startup_file: &'p str,
    restart_dir: &'p str,
    base_uris: &'p [&'p str],
    sendfile_paths: &'p [&'p str],
    app_env: &'p str,
    friendly_error_pages: bool,
    error_override: bool,
    high_performance: bool,
    buffer_upload: bool,
    buffer_response: bool,
    allow_encoded_slashes: bool,
    sticky_sessions: bool,
    sticky_cookie_name: &'p str,
    sticky_cookie_attributes: &'p str,
    custom_error_page: &'p str,
    max_request_queue_size: u32,
    max_request_time: u32,
    max_request_queue_time: u32,
    queue_overflow_status: u32,
    app_group_name: &'p str,
}

impl<'p> DirConfig<'p> {
    /// Puts a section's value in its place.
    pub(crate) fn set(&mut self, pool: Pool<'p>, setter: Setter, value: Value<'p>) {
        setter(self, pool, value);
    }

    /// Number of the section's own record, 0 if it has none.
    pub(crate) fn record(&self) -> u32 {
        self.record
    }

    /// Gives the section its record.
    pub(crate) fn set_record(&mut self, pool: Pool<'p>, record: u32) {
        self.record = record;
        self.chain = pool.copy_slice(&[record]);
    }

    /// Adds a base URI to those the section set before.
    pub(super) fn add_base_uri(&mut self, pool: Pool<'p>, uri: &'p str) {
        let before = self.base_uris.unwrap_or_default();
        self.base_uris = Some(pool.concat(before, &[uri]));
    }

    /// Adds a directory to those the section set before.
    pub(super) fn add_sendfile_path(&mut self, pool: Pool<'p>, path: &'p str) {
        let before = self.sendfile_paths.unwrap_or_default();
        self.sendfile_paths = Some(pool.concat(before, &[path]));
    }

    /// The configuration of a section inside (or after) another.
    ///
    /// Returns one of its arguments when the other adds nothing, so that most merges of a request
    /// allocate nothing.
    pub(crate) fn merge(pool: Pool<'p>, base: &'p Self, add: &'p Self) -> &'p Self {
        if add.is_empty() {
            return base;
        }
        if base.is_empty() {
            return add;
        }
        let merged = pool.place(*add);
        merged.record = 0;
        merged.chain = match (base.chain, add.chain) {
            (chain, []) | ([], chain) => chain,
            (outer, inner) => pool.concat(outer, inner),
        };
        merged.inherit(base);
        merged
    }

    fn is_empty(&self) -> bool {
        self.chain.is_empty() && self.sets_nothing()
    }
}

/// What a request asks. Directives that the table calls `NotYet` have their getter already, so that
/// whoever builds them finds value and default in one place.
#[allow(dead_code)]
impl<'p> DirConfig<'p> {
    /// Numbers of the records this was merged from, outermost first: later ones win.
    pub(crate) fn chain(&self) -> &'p [u32] {
        self.chain
    }

    /// `PassengerEnabled`; on by default.
    pub(crate) fn enabled(&self) -> bool {
        self.enabled.unwrap_or(true)
    }

    /// `PassengerAppRoot`; by default the parent of the public directory.
    pub(crate) fn app_root(&self) -> Option<&'p str> {
        self.app_root
    }

    /// `PassengerAppType`; by default what the app's files say.
    pub(crate) fn app_type(&self) -> Option<&'p str> {
        self.app_type
    }

    /// `PassengerAppStartCommand`: the shell command of a generic app.
    pub(crate) fn app_start_command(&self) -> Option<&'p str> {
        self.app_start_command
    }

    /// `PassengerStartupFile`, relative to the app root unless absolute.
    pub(crate) fn startup_file(&self) -> Option<&'p str> {
        self.startup_file
    }

    /// `PassengerRestartDir`, relative to the app root unless absolute.
    pub(crate) fn restart_dir(&self) -> &'p str {
        self.restart_dir.unwrap_or("tmp")
    }

    /// `PassengerBaseURI`: each begins with a slash and does not end with one.
    pub(crate) fn base_uris(&self) -> &'p [&'p str] {
        self.base_uris.unwrap_or_default()
    }

    /// `PassengerXSendfilePath`: directories beside the app's own that `X-Sendfile` may name.
    pub(crate) fn sendfile_paths(&self) -> &'p [&'p str] {
        self.sendfile_paths.unwrap_or_default()
    }

    /// `PassengerAppEnv`.
    pub(crate) fn app_env(&self) -> &'p str {
        self.app_env.unwrap_or("production")
    }

    /// `PassengerFriendlyErrorPages`; by default only in development.
    pub(crate) fn friendly_error_pages(&self) -> bool {
        self.friendly_error_pages
            .unwrap_or(self.app_env() == "development")
    }

    /// `PassengerErrorOverride`: the app's 4xx and 5xx become httpd's error documents.
    pub(crate) fn error_override(&self) -> bool {
        self.error_override.unwrap_or(false)
    }

    /// `PassengerHighPerformance`: skip the directory walk for requests of an app.
    pub(crate) fn high_performance(&self) -> bool {
        self.high_performance.unwrap_or(false)
    }

    /// `PassengerBufferUpload`: read the whole request body before an app process is taken.
    pub(crate) fn buffer_upload(&self) -> bool {
        self.buffer_upload.unwrap_or(true)
    }

    /// `PassengerBufferResponse`: the client gets nothing before the app has finished.
    pub(crate) fn buffer_response(&self) -> bool {
        self.buffer_response.unwrap_or(false)
    }

    /// `PassengerAllowEncodedSlashes`: the app sees the URI as the client wrote it.
    pub(crate) fn allow_encoded_slashes(&self) -> bool {
        self.allow_encoded_slashes.unwrap_or(false)
    }

    /// `PassengerStickySessions`.
    pub(crate) fn sticky_sessions(&self) -> bool {
        self.sticky_sessions.unwrap_or(false)
    }

    /// `PassengerStickySessionsCookieName`.
    pub(crate) fn sticky_cookie_name(&self) -> &'p str {
        self.sticky_cookie_name.unwrap_or("_passenger_route")
    }

    /// `PassengerStickySessionsCookieAttributes`.
    pub(crate) fn sticky_cookie_attributes(&self) -> &'p str {
        self.sticky_cookie_attributes
            .unwrap_or("SameSite=Lax; Secure;")
    }

    /// `PassengerCustomErrorPage`, relative to the app root unless absolute.
    pub(crate) fn custom_error_page(&self) -> Option<&'p str> {
        self.custom_error_page
    }

    /// `PassengerMaxRequestQueueSize`; 0 means unlimited.
    pub(crate) fn max_request_queue_size(&self) -> u32 {
        self.max_request_queue_size.unwrap_or(100)
    }

    /// `PassengerMaxRequestTime` in seconds, 0 means unlimited; `None` if nobody wrote it.
    pub(crate) fn max_request_time(&self) -> Option<u32> {
        self.max_request_time
    }

    /// `PassengerRequestQueueOverflowStatusCode`.
    pub(crate) fn queue_overflow_status(&self) -> u16 {
        let status = self.queue_overflow_status.unwrap_or(503);
        u16::try_from(status).unwrap_or(503)
    }

    /// `PassengerAppGroupName`; by default made from app root and environment.
    pub(crate) fn app_group_name(&self) -> Option<&'p str> {
        self.app_group_name
    }

    /// `PassengerMaxRequestQueueTime` in seconds; `None` means unlimited.
    pub(crate) fn max_request_queue_time(&self) -> Option<u32> {
        self.max_request_queue_time.filter(|seconds| *seconds > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(chain: &'static [u32]) -> DirConfig<'static> {
        DirConfig {
            chain,
            ..DirConfig::default()
        }
    }

    #[test]
    fn defaults_of_an_empty_section() {
        let empty = DirConfig::default();
        assert!(empty.is_empty() && empty.enabled() && empty.buffer_upload());
        assert!(!empty.friendly_error_pages() && !empty.error_override());
        assert_eq!(
            (empty.app_env(), empty.restart_dir()),
            ("production", "tmp")
        );
        assert_eq!(empty.max_request_queue_size(), 100);
    }

    #[test]
    fn inner_wins_and_outer_fills() {
        let outer = DirConfig {
            enabled: Some(true),
            app_env: Some("staging"),
            ..config(&[1])
        };
        let mut inner = DirConfig {
            enabled: Some(false),
            ..config(&[2])
        };
        inner.inherit(&outer);
        assert!(!inner.enabled());
        assert_eq!(inner.app_env(), "staging");
    }

    #[test]
    fn off_inside_on_is_not_lost() {
        let outer = DirConfig {
            buffer_upload: Some(true),
            ..config(&[])
        };
        let mut inner = DirConfig {
            buffer_upload: Some(false),
            ..config(&[])
        };
        inner.inherit(&outer);
        assert!(!inner.buffer_upload());
    }

    #[test]
    fn sets_are_replaced() {
        let outer = DirConfig {
            base_uris: Some(&["/a"]),
            ..config(&[1])
        };
        let mut inner = DirConfig {
            base_uris: Some(&["/b"]),
            ..config(&[2])
        };
        inner.inherit(&outer);
        assert_eq!(inner.base_uris(), ["/b"]);
    }

    #[test]
    fn error_pages_follow_the_environment_unless_set() {
        let development = DirConfig {
            app_env: Some("development"),
            ..config(&[])
        };
        assert!(development.friendly_error_pages());
        let off = DirConfig {
            friendly_error_pages: Some(false),
            ..development
        };
        assert!(!off.friendly_error_pages());
    }

    #[test]
    fn merging_with_nothing_is_the_other_side_itself() {
        let (pool, empty) = (Pool::for_test(), config(&[]));
        let full = DirConfig {
            enabled: Some(false),
            ..config(&[1])
        };
        assert!(std::ptr::eq(DirConfig::merge(pool, &full, &empty), &full));
        assert!(std::ptr::eq(DirConfig::merge(pool, &empty, &full), &full));
    }

    #[test]
    fn chains_are_joined_outermost_first() {
        let pool = Pool::for_test();
        let (a, b, c) = (config(&[1]), config(&[7, 8]), config(&[3]));
        let merged = DirConfig::merge(pool, DirConfig::merge(pool, &a, &b), &c);
        assert_eq!(merged.chain(), [1, 7, 8, 3]);
    }

    #[test]
    fn what_htaccess_sets_adds_no_record() {
        let (pool, section) = (Pool::for_test(), config(&[4]));
        let htaccess = DirConfig {
            enabled: Some(false),
            ..config(&[])
        };
        let merged = DirConfig::merge(pool, &section, &htaccess);
        assert!(!merged.enabled());
        assert_eq!(merged.chain(), [4]);
    }

    #[test]
    fn base_uris_of_one_section_add_up() {
        let (pool, mut section) = (Pool::for_test(), config(&[]));
        section.add_base_uri(pool, "/a");
        section.add_base_uri(pool, "/b");
        assert_eq!(section.base_uris(), ["/a", "/b"]);
    }

    #[test]
    fn a_record_alone_makes_a_section_count() {
        assert!(!config(&[3]).is_empty());
    }

    #[test]
    fn zero_seconds_mean_no_limit() {
        let zero = DirConfig {
            max_request_queue_time: Some(0),
            max_request_time: Some(0),
            ..config(&[])
        };
        assert_eq!(zero.max_request_queue_time(), None);
        assert_eq!(zero.max_request_time(), Some(0), "wins over the app's");
    }
}
