"""Loads one WSGI application (PEP 3333) and serves it to Apache's workers.

Started by the helper agent with the control socket on descriptor 3 and a listening Unix socket on
descriptor 4; docs/protocols.md, section 4, is the contract. From top to bottom: the control socket, the loop
over all connections, loading. What happens on one connection is in wsgi_connection.py. Python 3.7 and later.
"""

import errno
import faulthandler
import importlib.machinery
import importlib.util
import os
import queue
import select
import signal
import socket
import struct
import sys
import threading
import time
import traceback

# Python puts this file's directory first, unless PYTHONSAFEPATH forbids it; main() replaces it by the application's.
if sys.path[:1] != [os.path.dirname(os.path.abspath(__file__))]:
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from wsgi_connection import Connection, FileWrapper  # noqa: E402

# Credentials of a Unix socket's peer: pid, uid, gid.
UCRED = struct.Struct("iII")


class Control:
    """Lines to and from the agent."""

    def __init__(self, descriptor):
        self.socket = socket.socket(fileno=descriptor)
        self.socket.set_inheritable(False)
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

    def end_of_input(self, *_signal):
        """SIGTERM's way to the loop: this end sees "end of file", which wakes `epoll`."""
        try:
            self.socket.shutdown(socket.SHUT_RD)
        except OSError:
            pass


class Server:
    """Waits for requests on all connections and runs them: in the loop itself, or in threads if wanted."""

    def __init__(self, application, control, listener, settings):
        self.stopping = False
        # What is the same in every request.
        self.environ = {
            "wsgi.version": (1, 0),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": settings.threads > 1,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
            "wsgi.file_wrapper": FileWrapper,
            "wsgi.input_terminated": True,
        }
        self._application = application
        self._control = control
        self._listener = listener
        self._peer_uid = settings.peer_uid
        self._limit = max(32, 2 * settings.threads)
        self._connections = {}
        self._turn = 0
        self._epoll = select.epoll()
        self._epoll.register(control.socket, select.EPOLLIN)
        self._epoll.register(listener, select.EPOLLIN)
        self._threaded = settings.threads > 1
        # Requests in execution, only with threads: the loop itself never looks while it executes one.
        self._executing = {}
        if self._threaded:
            self._queue = queue.SimpleQueue()
            self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(settings.threads)]
            for thread in self._threads:
                thread.start()

    def run(self):
        while not self.stopping:
            self._one_turn()
        self._drain()

    def log_exception(self, environ):
        where = ""
        if environ:
            where = "{} {}: ".format(environ.get("REQUEST_METHOD"), environ.get("REQUEST_URI"))
        sys.stderr.write(where + traceback.format_exc())

    def forget(self):
        """In a child the application forked: let go of what belongs to the parent, without disturbing it."""
        for number in HANDLED_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        for connection in self._connections.values():
            connection.socket.close()
        self._connections.clear()
        self._epoll.close()
        self._listener.close()
        self._control.socket.close()

    def _one_turn(self):
        events = self._epoll.poll()
        self._turn += 1
        told = False
        for fileno, _event in events:
            connection = self._connections.get(fileno)
            if connection is not None:
                self._serve(connection)
            elif fileno == self._listener.fileno():
                self._accept_all()
            else:
                told = True
        if told:
            self._obey()

    def _serve(self, connection):
        received = connection.receive()
        if received:
            self._execute(connection)
        elif received is False:
            self._drop(connection)
        elif self._threaded:
            self._listen_to(connection)

    def _execute(self, connection):
        connection.last_used = self._turn
        if self._threaded:
            self._executing[connection] = connection.number
            self._queue.put(connection)
        elif not connection.answer(self._application):
            self._drop(connection)

    def _drop(self, connection):
        del self._connections[connection.fileno]
        connection.socket.close()

    def _accept_all(self):
        while True:
            try:
                accepted, _address = self._listener.accept()
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EINVAL):  # EINVAL: after shutdown, none left
                    print("Cannot accept a connection from Apache:", error, file=sys.stderr)
                    self._make_room()
                    time.sleep(0.1)  # the listener stays ready: without this the loop would spin
                return
            self._admit(accepted)

    def _admit(self, accepted):
        peer = accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size)
        _pid, uid, _gid = UCRED.unpack(peer)
        if uid not in (0, self._peer_uid):
            accepted.close()
            return
        if len(self._connections) >= self._limit:
            self._make_room()
        accepted.setblocking(True)
        connection = Connection(accepted, self)
        connection.last_used = self._turn
        self._connections[connection.fileno] = connection
        # With threads a connection is heard once and then again when its request has been answered.
        self._epoll.register(accepted, select.EPOLLIN | (select.EPOLLONESHOT if self._threaded else 0))

    def _listen_to(self, connection):
        self._epoll.modify(connection.fileno, select.EPOLLIN | select.EPOLLONESHOT)

    def _idle(self):
        return [one for one in list(self._connections.values()) if one not in self._executing]

    def _make_room(self):
        """Closes the connection that has been idle longest, without losing a request that is on its way."""
        idle = self._idle()
        if idle:
            oldest = min(idle, key=lambda connection: connection.last_used)
            if self._wind_up(oldest):
                self._execute(oldest)
            else:
                self._drop(oldest)

    def _wind_up(self, connection):
        """True: a last request had arrived. Once reading is shut down the worker's next send fails before it
        has delivered anything, so that the worker can safely go elsewhere; what it sent before is readable."""
        connection.last = True
        received = connection.receive()
        if received is None:
            connection.socket.shutdown(socket.SHUT_RD)
            received = connection.receive()
        return bool(received)

    def _obey(self):
        for line in self._control.lines():
            if line is None or line == "stop":
                self.stopping = True
            elif line.startswith("busy? "):
                self._report(line[6:])

    def _report(self, token):
        """Answers only when every request sent before the question has been read."""
        self._accept_all()
        for fileno, _event in self._epoll.poll(0):
            connection = self._connections.get(fileno)
            if connection is not None:
                self._serve(connection)
        self._control.say("busy", token, *map(str, list(self._executing.values())))

    def _drain(self):
        """No new connection, then one last look at each."""
        self._listener.shutdown(socket.SHUT_RD)
        self._accept_all()
        for connection, received in [(one, self._wind_up(one)) for one in self._idle()]:
            if received:
                self._execute(connection)
            else:
                self._drop(connection)
        if self._threaded:
            for _ in self._threads:
                self._queue.put(None)
            for thread in self._threads:
                thread.join()
            for connection in self._connections.values():
                if self._wind_up(connection):
                    connection.answer(self._application)

    def _work(self):
        """A thread's life: the loop has read a request's head, the thread does the rest."""
        while True:
            connection = self._queue.get()
            if connection is None:
                return
            try:
                again = connection.answer(self._application)
            except BaseException:  # an exit would only end this thread, and nobody would see the pool shrink
                traceback.print_exc()
                os._exit(1)
            del self._executing[connection]
            if again:
                self._listen_to(connection)
            else:
                self._drop(connection)


class Settings:
    """What the agent wants, from the environment, which is then cleaned: the application's children have no
    use for it."""

    def __init__(self, environ):
        self.app_root = environ.pop("PASSENGER_APP_ROOT", os.getcwd())
        self.startup_file = environ.pop("PASSENGER_STARTUP_FILE", os.path.join(self.app_root, "passenger_wsgi.py"))
        self.peer_uid = int(environ.pop("PASSENGER_PEER_UID", "0"))
        self.threads = max(1, int(environ.pop("PASSENGER_THREADS", "1")))
        environ.pop("PASSENGER_APP_GROUP_NAME", None)


HANDLED_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


def load(startup_file):
    """Runs the startup file as module `passenger_wsgi` and returns its `application`."""
    loader = importlib.machinery.SourceFileLoader("passenger_wsgi", startup_file)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("passenger_wsgi", loader))
    sys.modules["passenger_wsgi"] = module
    loader.exec_module(module)
    application = getattr(module, "application", None)
    if not callable(application):
        raise LookupError("the file defines no callable named 'application'")
    return application


def explain(error, startup_file):
    """One sentence for the administrator."""
    if isinstance(error, SystemExit):
        return "{} called exit (status {}) while it was loaded".format(startup_file, error.code)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__)
              if frame.filename != __file__ and not frame.filename.startswith("<frozen")]
    place = " ({}:{})".format(frames[-1].filename, frames[-1].lineno) if frames else ""
    return "{} while loading {}: {}{}".format(type(error).__name__, startup_file, error, place)


def main():
    sys.stdout.reconfigure(line_buffering=True)
    sys.stderr.reconfigure(line_buffering=True)
    settings = Settings(os.environ)
    control = Control(3)
    listener = socket.socket(fileno=4)
    listener.set_inheritable(False)
    listener.setblocking(False)
    sys.path[0] = settings.app_root
    sys.argv[:] = [settings.startup_file]

    control.say("step", "load")
    try:
        application = load(settings.startup_file)
    except BaseException as error:  # whatever it was, the administrator must read it
        traceback.print_exc()
        control.error("load", explain(error, settings.startup_file))
        sys.stdout.flush()
        os._exit(1)

    control.say("step", "listen")
    server = Server(application, control, listener, settings)
    signal.signal(signal.SIGTERM, control.end_of_input)
    signal.signal(signal.SIGUSR1, lambda *_signal: control.say("leave"))
    faulthandler.register(signal.SIGQUIT, all_threads=True)
    # Close-on-exec does nothing for a plain fork: a child that kept our sockets would make a dead process look
    # alive, and its SIGTERM would shut down the parent's control socket.
    os.register_at_fork(after_in_child=server.forget)
    control.say("ready", "concurrency={}".format(settings.threads), "protocol=binary")
    server.run()


if __name__ == "__main__":
    main()
