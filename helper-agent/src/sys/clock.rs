//! The local wall clock in the form httpd's error log shows it.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// A moment of local time; displays like `Fri Nov 21 09:02:03.004711 2025`.
pub struct LocalTime {
    fields: libc::tm,
    micros: u32,
}

impl LocalTime {
    /// Now, in the time zone of this process.
    #[must_use]
    pub fn now() -> Self {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let seconds = libc::time_t::try_from(since.as_secs()).unwrap_or(0);
        // SAFETY: `tm` is plain integers and one pointer; all-zero is a valid value of each (libc).
        let mut fields: libc::tm = unsafe { std::mem::zeroed() };
        // SAFETY: both pointers are to live locals of the right type; localtime_r keeps neither.
        unsafe { libc::localtime_r(&raw const seconds, &raw mut fields) };
        Self {
            fields,
            micros: since.subsec_micros(),
        }
    }
}

impl fmt::Display for LocalTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let t = &self.fields;
        let name = |table: &[&'static str], index: libc::c_int| {
            usize::try_from(index)
                .ok()
                .and_then(|i| table.get(i).copied())
                .unwrap_or("???")
        };
        write!(
            f,
            "{} {} {:02} {:02}:{:02}:{:02}.{:06} {}",
            name(&DAYS, t.tm_wday),
            name(&MONTHS, t.tm_mon),
            t.tm_mday,
            t.tm_hour,
            t.tm_min,
            t.tm_sec,
            self.micros,
            i64::from(t.tm_year) + 1900
        )
    }
}
