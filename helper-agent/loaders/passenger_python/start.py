"""The start of a Python process: the control socket, what the agent wants, loading the startup file. Which kind of
server the application gets is for the loaders to say (wsgi-loader.py, asgi-loader.py).

What only a failure needs is imported there: `traceback` alone takes as long as half of the interpreter's start. For
the same reason the modules `signal` and `socket` are used without what Python puts around them (enum, selectors, …).
"""

import _signal as signal
import _socket as socket
import atexit
import faulthandler
import os
import sys
# Before the application, which may remove or replace them in their modules (gevent does); for wsgi_server.py.
from _thread import start_new_thread  # noqa: F401
from select import epoll  # noqa: F401

from .out_of_band import OutOfBandWork

# In the flags of a function's code, if it was defined by `async def`; the module inspect is slow to import.
CO_COROUTINE = 0x80


class Control:
    """Lines to and from the agent."""

    def __init__(self, descriptor):
        os.set_inheritable(descriptor, False)
        self.socket = socket.socket(fileno=descriptor)
        self._input = b""

    def say(self, *words):
        """Sends one line. That the agent is gone is noticed by reading, not here."""
        try:
            self.socket.sendall(" ".join(words).encode("utf-8", "replace") + b"\n")
        except OSError:
            pass

    def error(self, step, text):
        if len(text) > 1500:
            text = text[:1500] + "…"
        self.say("error", step, text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r"))

    def lines(self):
        """The lines that have arrived; a final None means that it is time to go."""
        lines = []
        while True:
            try:
                piece = self.socket.recv(4096, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return lines
            except OSError:
                piece = b""
            if not piece:
                return lines + [None]
            *complete, self._input = (self._input + piece).split(b"\n")
            lines += [line.decode("utf-8", "replace") for line in complete]

    def hears_go(self):
        """Waits for the agent's first word to a forked worker; False: there is none."""
        try:
            return self.socket.recv(3, socket.MSG_WAITALL) == b"go\n"
        except OSError:
            return False

    def end_of_input(self, *_signal):
        """SIGTERM's way to the loop: this end sees "end of file", which wakes `epoll`."""
        try:
            self.socket.shutdown(socket.SHUT_RD)
        except OSError:
            pass


class Settings:
    """What the agent wants, from the environment, which is then cleaned: the application's children have no
    use for it."""

    def __init__(self, environ, startup_file):
        self.app_root = environ.pop("PASSENGER_APP_ROOT", os.getcwd())
        self.startup_file = environ.pop("PASSENGER_STARTUP_FILE", os.path.join(self.app_root, startup_file))
        self.peer_uid = int(environ.pop("PASSENGER_PEER_UID", "0"))
        self.threads = max(1, int(environ.pop("PASSENGER_THREADS", "1")))
        self.preload = environ.pop("PASSENGER_PRELOAD", "") == "1"
        environ.pop("PASSENGER_APP_GROUP_NAME", None)


class Start:
    """One start of a process, from its first line to `ready`."""

    def __init__(self, module_name):
        sys.stdout.reconfigure(line_buffering=True)
        sys.stderr.reconfigure(line_buffering=True)
        self._module_name = module_name
        self.settings = Settings(os.environ, module_name + ".py")
        self.control = Control(3)
        self.out_of_band = OutOfBandWork(self.control)
        self.out_of_band.install()
        self.listener = None if self.settings.preload else listen(4)
        # The output that the agent gave us, before the application replaces it.
        self.output = os.fstat(2).st_ino
        sys.path[0] = self.settings.app_root
        sys.argv[:] = [self.settings.startup_file]

    def load(self, *names):
        """The application: the first of these names in the startup file. Reports a failure and ends."""
        self.control.say("step", "load")
        try:
            return load(self._module_name, self.settings.startup_file, names)
        except BaseException as error:  # whatever it was, the administrator must read it
            import traceback
            traceback.print_exc()
            self.fail(explain(error, self.settings.startup_file))

    def preload(self):
        """A preloader goes on in the workers that it forks, any other process at once."""
        forked = self.settings.preload
        if forked:
            from . import preloader
            preloader.run(self)
        try:
            self.out_of_band.starting_worker_process(forked)
        except BaseException as error:  # whatever it was, the administrator must read it
            import traceback
            traceback.print_exc()
            self.fail(explain(error, self.settings.startup_file), "fork" if forked else "load")

    def become_worker(self, control, listener):
        """In a worker: from here on these descriptors are its sockets."""
        self.control.socket.close()
        self.control = self.out_of_band.control = Control(control)
        self.listener = listen(listener)

    def fail(self, sentence, step="load"):
        self.control.error(step, sentence)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)

    def ready(self, server, concurrency):
        """Says that `server` takes requests from now on."""
        signal.signal(signal.SIGTERM, self.control.end_of_input)
        signal.signal(signal.SIGUSR1, lambda *_signal: self.control.say("leave"))
        atexit.register(self._end, server)
        faulthandler.register(signal.SIGQUIT, all_threads=True)
        # Close-on-exec does nothing for a plain fork: a child that kept our sockets would make a dead process look
        # alive, and its SIGTERM would shut down the parent's control socket.
        os.register_at_fork(after_in_child=lambda: forget_in_child(server))
        self.control.say("ready", "concurrency={}".format(concurrency), "protocol=binary")

    def _end(self, server):
        """Up to Python 3.9 the interpreter crashes if it meets an open socket of ours when it is half dismantled. The
        control socket stays open for the agent, until the process has ended."""
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
        self.control.socket.detach()
        server.forget()


def listen(descriptor):
    os.set_inheritable(descriptor, False)
    listener = socket.socket(fileno=descriptor)
    listener.setblocking(False)
    return listener


def forget_in_child(server):
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    server.forget()


def load(module_name, startup_file, names):
    """Runs the startup file as a module of that name and returns its application."""
    # This module's own loader and specification are of the types that are needed; importlib is slow to import.
    loader = type(__loader__)(module_name, startup_file)
    module = type(sys)(module_name)
    module.__file__ = startup_file
    module.__loader__ = loader
    module.__package__ = ""
    module.__spec__ = type(__spec__)(module_name, loader, origin=startup_file)
    module.__spec__.has_location = True
    sys.modules[module_name] = module
    loader.exec_module(module)
    for name in names:
        application = getattr(module, name, None)
        if callable(application):
            return application
    raise LookupError("the file defines no callable named " + " or ".join(map(repr, names)))


def explain(error, startup_file):
    """One sentence for the administrator."""
    if isinstance(error, SystemExit):
        return "{} called exit (status {}) while it was loaded".format(startup_file, error.code)
    import traceback
    frames = [frame for frame in traceback.extract_tb(error.__traceback__)
              if frame.filename != __file__ and not frame.filename.startswith("<frozen")]
    place = " ({}:{})".format(frames[-1].filename, frames[-1].lineno) if frames else ""
    return "{} while loading {}: {}{}".format(type(error).__name__, startup_file, error, place)


def is_asynchronous(application):
    """Whether the callable is a coroutine function, as ASGI's are and WSGI's never."""
    for candidate in (application, getattr(type(application), "__call__", None)):
        code = getattr(getattr(candidate, "__func__", candidate), "__code__", None)
        if code is not None and code.co_flags & CO_COROUTINE:
            return True
    return False
