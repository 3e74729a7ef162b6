//! Time in words: `CLOCK_MONOTONIC`, which all processes of a machine share, in units of 1/16 ms so
//! that 32 bits hold three days. Differences wrap; nothing that waits does so for a day.

use std::time::Duration;

/// Units per millisecond.
pub const TICKS_PER_MS: u32 = 16;

/// A moment, modulo 2³² units.
pub type Ticks = u32;

/// Now.
#[must_use]
#[allow(clippy::cast_possible_truncation)] // Modulo 2³² is what it is for.
pub fn now() -> Ticks {
    let time = monotonic();
    (time.as_nanos() / u128::from(1_000_000 / TICKS_PER_MS)) as Ticks
}

/// Milliseconds of `CLOCK_MONOTONIC`.
#[must_use]
pub fn monotonic_ms() -> u64 {
    u64::try_from(monotonic().as_millis()).unwrap_or(u64::MAX)
}

fn monotonic() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: one timespec that outlives the call; CLOCK_MONOTONIC always exists, so it cannot fail.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// Units from `then` to `now`; 0 if `then` lies in the future, which only a hostile word can.
#[must_use]
pub fn age(now: Ticks, then: Ticks) -> Ticks {
    let age = now.wrapping_sub(then);
    if age > u32::MAX / 2 {
        0
    } else {
        age
    }
}

/// A duration as an age, at most the largest that differences can tell.
#[must_use]
pub fn ticks(duration: Duration) -> Ticks {
    let ticks = duration
        .as_micros()
        .saturating_mul(u128::from(TICKS_PER_MS))
        / 1000;
    Ticks::try_from(ticks).unwrap_or(u32::MAX).min(u32::MAX / 2)
}

/// An age as a duration.
#[must_use]
pub fn duration(age: Ticks) -> Duration {
    Duration::from_micros(u64::from(age) * 1000 / u64::from(TICKS_PER_MS))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn ages_wrap_and_never_come_from_the_future() {
        assert_eq!(age(5, 3), 2);
        assert_eq!(age(2, u32::MAX - 1), 4);
        assert_eq!(age(3, 5), 0);
        assert_eq!(duration(16), Duration::from_millis(1));
        assert_eq!(ticks(Duration::from_millis(3)), 48);
        assert_eq!(ticks(Duration::MAX), u32::MAX / 2);
        let before = now();
        assert!(age(now(), before) < 60_000 * TICKS_PER_MS);
    }
}
