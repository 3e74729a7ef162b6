//! Models of one seat: its users, a worker that dies anywhere, the sweep, the agent that retires the
//! process. Run with `RUSTFLAGS="--cfg loom"`.
#![cfg(loom)]

use loom::sync::Arc;
use loom::thread;
use passenger_shm::protocol::process::{self, ProcessWord};
use passenger_shm::protocol::seat::{self, SeatState, Swept};
use passenger_shm::sync::AtomicU64;
use passenger_shm::{ClientId, ProcessState};

const A: ClientId = ClientId::new(1, 1);
const B: ClientId = ClientId::new(2, 1);

/// What a worker does with a seat; it stops (dies) before step `dies_at`.
fn use_seat(seat: &AtomicU64, client: ClientId, orphans: bool, dies_at: u32) {
    if dies_at == 0 {
        return;
    }
    let Ok(mine) = seat::take(seat, seat::look(seat), client) else {
        return;
    };
    if dies_at == 1 {
        return;
    }
    let done = if orphans {
        seat::orphan(seat, mine)
    } else {
        seat::free(seat, mine)
    };
    assert!(done, "nobody takes a seat from the living");
}

#[test]
fn take_release_orphan_and_sweep_lose_no_seat() {
    for (orphans, dies_at) in [(false, 1), (false, 9), (true, 1), (true, 9)] {
        loom::model(move || {
            let seat = Arc::new(AtomicU64::new(0));
            let worker = {
                let seat = Arc::clone(&seat);
                thread::spawn(move || use_seat(&seat, A, orphans, dies_at))
            };
            let other = {
                let seat = Arc::clone(&seat);
                thread::spawn(move || use_seat(&seat, B, false, 9))
            };
            worker.join().unwrap();
            // Dead: its pidfd says so. The other one lives on.
            let swept = seat::sweep(&seat, A);
            other.join().unwrap();
            let word = seat::look(&seat);
            assert_eq!(
                swept == Swept::Orphaned,
                word.state() == SeatState::Orphan && dies_at == 1
            );
            match word.state() {
                SeatState::Free => {}
                SeatState::Orphan => assert_eq!(word.owner(), A),
                other => panic!("left behind: {other:?}"),
            }
        });
    }
}

#[test]
fn one_seat_has_one_holder() {
    loom::model(|| {
        let shared = Arc::new((AtomicU64::new(0), AtomicU64::new(0)));
        let threads: Vec<_> = [A, B]
            .into_iter()
            .map(|client| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    let (seat, inside) = &*shared;
                    if let Ok(mine) = seat::take(seat, seat::look(seat), client) {
                        // Relaxed: the seat's own ordering must be enough.
                        let before = inside.load(std::sync::atomic::Ordering::Relaxed);
                        assert_eq!(before % 2, 0);
                        inside.store(before + 1, std::sync::atomic::Ordering::Relaxed);
                        inside.store(before + 2, std::sync::atomic::Ordering::Relaxed);
                        assert!(seat::free(seat, mine));
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(seat::look(&shared.0).state(), SeatState::Free);
    });
}

#[test]
fn a_process_seen_idle_after_draining_gets_no_request() {
    loom::model(|| {
        let live = ProcessWord::new(1, 0, ProcessState::Live);
        let shared = Arc::new((AtomicU64::new(live.0), AtomicU64::new(0)));
        let worker = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let (word, seat) = &*shared;
                let chosen = process::look(word);
                if !chosen.serves(0) {
                    return false;
                }
                let Ok(mine) = seat::take(seat, seat::look(seat), A) else {
                    return false;
                };
                let used = process::still(word, chosen);
                if !used {
                    assert!(seat::free(seat, mine));
                }
                used
            })
        };
        let (word, seat) = &*shared;
        process::set(word, live.with_state(ProcessState::Draining));
        let idle = seat::look(seat).state() == SeatState::Free;
        let used = worker.join().unwrap();
        assert!(
            !(used && idle),
            "a request went to a process that was found idle and ended"
        );
    });
}

#[test]
fn a_freed_slot_is_not_disturbed_by_late_takers_and_releasers() {
    loom::model(|| {
        let live = ProcessWord::new(1, 0, ProcessState::Live);
        let shared = Arc::new((AtomicU64::new(live.0), AtomicU64::new(0)));
        let worker = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let (word, seat) = &*shared;
                let chosen = process::look(word);
                let Ok(mine) = seat::take(seat, seat::look(seat), A) else {
                    return;
                };
                if chosen.serves(0) && process::still(word, chosen) {
                    // The exchange with the app.
                }
                let _ = seat::free(seat, mine);
            })
        };
        let (word, seat) = &*shared;
        process::set(word, ProcessWord::unused(1));
        seat::clear(seat);
        process::set(word, ProcessWord::new(2, 0, ProcessState::Live));
        let next = seat::take(seat, seat::look(seat), B);
        worker.join().unwrap();
        match next {
            Ok(mine) => assert!(
                seat::free(seat, mine),
                "its seat was freed by a stale owner"
            ),
            Err(_) => assert_eq!(seat::look(seat).state(), SeatState::Free),
        }
    });
}
