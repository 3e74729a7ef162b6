"""Out-of-band work: what an application does while no requests come (docs/protocols.md, section 4). A response asks
for it by a header, or the application by a call; the agent says when.

Applications see this as the module `phusion_passenger`:

    import phusion_passenger

    @phusion_passenger.on_event("oob_work")
    def collect():
        gc.collect()

    phusion_passenger.request_oob_work()   # or a response header X-Passenger-Request-OOB-Work: true

Another event is there for what a preloaded application must not share with other processes:

    @phusion_passenger.on_event("starting_worker_process")
    def connect(forked):
        global redis
        redis = Redis()
"""

import sys
import time

HEADERS = ("!~request-oob-work", "x-passenger-request-oob-work")
# A wish that the agent may have forgotten, because another took its place, is repeated after this.
REPEAT_AFTER = 10


class OutOfBandWork:
    """The wishes and callbacks of this process."""

    def __init__(self, control):
        self.callbacks = []
        self.starting = []
        self.is_wanted = False
        self.control = control
        self._said = 0

    def install(self):
        """Makes the module that applications import."""
        # As types.ModuleType, whose own module takes longer to import.
        module = type(sys)("phusion_passenger", __doc__)
        module.on_event = self.on_event
        module.request_oob_work = self.request
        sys.modules["phusion_passenger"] = module

    def on_event(self, name, callback=None):
        """Registers a callback; without one it is a decorator. There are `oob_work` and
        `starting_worker_process`, which gets whether the process was forked."""
        if callback is None:
            return lambda decorated: self.on_event(name, decorated)
        if name == "oob_work":
            self.callbacks.append(callback)
        elif name == "starting_worker_process":
            self.starting.append(callback)
        return callback

    def starting_worker_process(self, forked):
        for callback in self.starting:
            callback(forked)

    def request(self):
        """Says that the callbacks want to be called."""
        now = time.monotonic()
        if self.is_wanted and now - self._said < REPEAT_AFTER:
            return
        self.is_wanted = True
        self._said = now
        self.control.say("work-wanted")

    def take(self):
        """The callbacks that are to be called now; none if nobody wants anything any more."""
        wanted, self.is_wanted = self.is_wanted, False
        return list(self.callbacks) if wanted else []

    def run(self, token):
        """Calls them, one after the other."""
        for callback in self.take():
            try:
                callback()
            except Exception:
                self.log_exception()
        self.done(token)

    def done(self, token):
        self.control.say("work-done", token)

    def log_exception(self):
        import traceback
        sys.stderr.write("out-of-band work: " + traceback.format_exc())
