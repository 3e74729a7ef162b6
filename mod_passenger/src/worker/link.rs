//! A worker's connection to the agent: hello to the watchdog, which gives it, and one question after the other.
//!
//! Whoever reads a question may die before it answers, and whoever should read it may hang: each wait has its end, and
//! a question that may be lost is asked again.

use passenger_shm::channel::Channel;
use passenger_shm::messages::{FromWorker, Hello, Question, Reply, ToWorker};
use passenger_shm::ClientId;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// How long the watchdog may take to welcome a worker.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the agent may take to answer; it may have to be restarted first.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// After so long without an answer the question may have died with the agent that read it.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Between two looks whether the hello channel has room.
const HELLO_PAUSE: Duration = Duration::from_millis(10);

/// The connection.
pub(super) struct Link {
    channel: Channel,
    /// Number of the last question.
    asked: u64,
    is_broken: bool,
}

/// Why there is no answer; a sentence.
pub(super) enum NoAnswer {
    /// Nobody has answered in time.
    Late(String),
    /// The connection cannot be used any more; nobody has read the question, or nobody can answer it.
    Broken(String),
}

impl Link {
    /// Makes one; also says who this worker is.
    ///
    /// # Errors
    /// A sentence: the watchdog is gone, or does not want another worker. Blocks at most five seconds.
    pub(super) fn open(hello: &Channel) -> Result<(Self, ClientId), String> {
        let (channel, id) = introduce(hello)?;
        let link = Self {
            channel,
            asked: 0,
            is_broken: false,
        };
        Ok((link, id))
    }

    /// Whether it is of no use any more: broken, or nobody answers. The next question needs another.
    pub(super) fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Asks the agent something.
    ///
    /// # Errors
    /// See [`NoAnswer`]; the connection is broken then. Blocks at most ten seconds.
    pub(super) fn ask(&mut self, question: &FromWorker) -> Result<ToWorker, NoAnswer> {
        self.asked += 1;
        let answer = ask(&self.channel, self.asked, question);
        self.is_broken = answer.is_err();
        answer
    }
}

/// Says hello to the watchdog; returns this worker's own connection and identity.
fn introduce(hello: &Channel) -> Result<(Channel, ClientId), String> {
    let (ours, theirs) = Channel::pair().map_err(|e| format!("cannot create a channel: {e}"))?;
    // An agent that does not read must not hold whoever asks it beyond the time that asking may take.
    ours.set_nonblocking(true)
        .map_err(|e| format!("cannot set up a channel: {e}"))?;
    let deadline = Instant::now() + WELCOME_TIMEOUT;
    // The channel is shared with all other workers and never blocks: it may be full of them.
    loop {
        match hello.send(&Hello::Worker {}, &[theirs.as_fd()]) {
            Ok(()) => break,
            Err(why)
                if why.kind() == std::io::ErrorKind::WouldBlock && Instant::now() < deadline =>
            {
                std::thread::sleep(HELLO_PAUSE);
            }
            Err(why) => return Err(format!("cannot say hello to the watchdog: {why}")),
        }
    }
    drop(theirs);
    let left = deadline.saturating_duration_since(Instant::now());
    match receive(&ours, left)? {
        ToWorker::Welcome { slot, generation } => Ok((ours, ClientId::new(slot, generation))),
        ToWorker::Unwelcome { message } => Err(message),
        other => Err(format!("the watchdog answered a hello with {other:?}")),
    }
}

/// Asks, and asks again after a while: an agent that was killed may have read the question, and its successor
/// does not know of it. Answers to questions before are skipped.
fn ask(channel: &Channel, number: u64, question: &FromWorker) -> Result<ToWorker, NoAnswer> {
    let question = Question {
        number,
        question: question.clone(),
    };
    let deadline = Instant::now() + CALL_TIMEOUT;
    let (mut asked, mut ask_at) = (0, Instant::now());
    loop {
        let now = Instant::now();
        if now >= deadline {
            let seconds = CALL_TIMEOUT.as_secs();
            return Err(NoAnswer::Late(format!(
                "no answer after {seconds} seconds, asked {asked} times"
            )));
        }
        if now >= ask_at {
            match channel.send(&question, &[]) {
                Ok(()) => asked += 1,
                // It has not even read what it was asked before.
                Err(why) if why.kind() == ErrorKind::WouldBlock => {}
                Err(why) => return Err(NoAnswer::Broken(format!("cannot ask the agent: {why}"))),
            }
            ask_at = now + ASK_AGAIN;
        }
        match channel.wait_readable(ask_at.min(deadline).saturating_duration_since(now)) {
            Ok(false) => continue,
            Ok(true) => {}
            Err(why) => {
                return Err(NoAnswer::Broken(format!(
                    "cannot wait for the answer: {why}"
                )))
            }
        }
        match channel.recv::<Reply>() {
            Ok(Some(received)) if received.message.number == number => {
                return Ok(received.message.answer)
            }
            Ok(Some(_late)) => {}
            Ok(None) => return Err(NoAnswer::Broken("the connection has ended".to_owned())),
            Err(why) if why.kind() == ErrorKind::WouldBlock => {}
            Err(why) => return Err(NoAnswer::Broken(format!("cannot read the answer: {why}"))),
        }
    }
}

/// The next message, or a sentence why there is none.
fn receive(channel: &Channel, timeout: Duration) -> Result<ToWorker, String> {
    match channel.wait_readable(timeout) {
        Ok(true) => {}
        Ok(false) => {
            return Err(format!(
                "no answer after {} seconds",
                timeout.as_secs_f32().ceil()
            ))
        }
        Err(why) => return Err(format!("cannot wait for the answer: {why}")),
    }
    match channel.recv() {
        Ok(Some(received)) => Ok(received.message),
        Ok(None) => Err("the instance has ended".to_owned()),
        Err(why) => Err(format!("cannot read the answer: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    /// Plays the watchdog for one hello.
    fn watchdog(far: Channel, answer: ToWorker) -> thread::JoinHandle<()> {
        thread::spawn(move || {
            let hello = far.recv::<Hello>().expect("recv").expect("a hello");
            let own = Channel::from(hello.fds.into_iter().next().expect("a descriptor"));
            own.send(&answer, &[]).expect("answer");
        })
    }

    fn why() -> FromWorker {
        FromWorker::WhySpawnFailed {
            group: 3,
            generation: 1,
        }
    }

    fn reply(number: u64, group: u32) -> Reply {
        let generation = 1;
        let answer = ToWorker::Registered { group, generation };
        Reply { number, answer }
    }

    #[test]
    fn a_welcome_gives_the_identity() {
        let (hello, far) = Channel::pair().expect("pair");
        let watchdog = watchdog(
            far,
            ToWorker::Welcome {
                slot: 5,
                generation: 9,
            },
        );
        let (_channel, id) = introduce(&hello).expect("welcome");
        assert_eq!((id.slot(), id.generation()), (5, 9));
        watchdog.join().expect("watchdog");
    }

    #[test]
    fn a_question_that_died_with_its_reader_is_asked_again() {
        let (ours, theirs) = Channel::pair().expect("pair");
        let agents = thread::spawn(move || {
            // The first one reads it and dies.
            let first = theirs.recv::<Question>().expect("recv").expect("asked");
            let again = theirs.recv::<Question>().expect("recv").expect("again");
            assert_eq!(first.message, again.message);
            theirs.send(&reply(9, 3), &[]).expect("answer");
            theirs
        });
        let answer = ask(&ours, 9, &why());
        assert!(matches!(answer, Ok(ToWorker::Registered { group: 3, .. })));
        agents.join().expect("the agents");
    }

    #[test]
    fn an_answer_that_comes_late_is_not_taken_for_the_next_questions() {
        let (ours, theirs) = Channel::pair().expect("pair");
        theirs.send(&reply(4, 1), &[]).expect("a late answer");
        theirs.send(&reply(4, 1), &[]).expect("and again");
        theirs.send(&reply(5, 2), &[]).expect("the answer");
        let answer = ask(&ours, 5, &why());
        assert!(matches!(answer, Ok(ToWorker::Registered { group: 2, .. })));
        drop(theirs);
        assert!(matches!(ask(&ours, 6, &why()), Err(NoAnswer::Broken(_))));
    }

    #[test]
    fn the_reason_of_an_unwelcome_is_passed_on() {
        let (hello, far) = Channel::pair().expect("pair");
        let answer = ToWorker::Unwelcome {
            message: "all 96 slots are taken".to_owned(),
        };
        let watchdog = watchdog(far, answer);
        assert_eq!(
            introduce(&hello).expect_err("unwelcome"),
            "all 96 slots are taken"
        );
        watchdog.join().expect("watchdog");
    }

    #[test]
    fn a_dead_watchdog_is_an_error() {
        let (hello, far) = Channel::pair().expect("pair");
        drop(far);
        assert!(introduce(&hello)
            .expect_err("dead")
            .contains("cannot say hello"));
    }
}
