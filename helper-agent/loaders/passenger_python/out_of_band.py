"""Out-of-band work: what an application does while no requests come (docs/protocols.md, section 4). A response asks
for it by a header, or the application by a call; the agent says when.

Applications see this as the module `phusion_passenger`:

    import phusion_passenger

    @phusion_passenger.on_event("oob_work")
    def collect():
        gc.collect()

    phusion_passenger.request_oob_work()   # or a response header X-Passenger-Request-OOB-Work: true
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
        """Registers a callback; without one it is a decorator. Other events than `oob_work` never happen here."""
        if callback is None:
            return lambda decorated: self.on_event(name, decorated)
        if name == "oob_work":
            self.callbacks.append(callback)
        return callback

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
