"""Serves one WSGI application (PEP 3333) to Apache's workers: the loop over all connections. What happens on one
connection is in wsgi_connection.py.

Threads, and what only a failure needs, are imported there, and `_socket` is `socket` without what Python puts around
it: a small application starts in little more than its interpreter.
"""

import _socket as socket
import errno
import os
import select
import struct
import sys
import time

from .start import epoll, start_new_thread
from .wsgi_connection import FIRST, Connection, FileWrapper, template

# Credentials of a Unix socket's peer: pid, uid, gid.
UCRED = struct.Struct("iII")


class Server:
    """Waits for requests on all connections and runs them: in the loop itself, or in threads if wanted."""

    def __init__(self, application, control, listener, settings, out_of_band):
        self.stopping = False
        self.out_of_band = out_of_band
        # Tokens of the work that waits for requests in execution.
        self._due = []
        # What is the same in every request.
        self.ours = {
            "wsgi.version": (1, 0),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": settings.threads > 1,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
            "wsgi.file_wrapper": FileWrapper,
            "wsgi.input_terminated": True,
            "wsgi.url_scheme": "http",
        }
        self.environ = template(self.ours)
        self.pieces_ours = 2 * (len(self.environ) - len(FIRST))
        self._application = application
        self._control = control
        self._listener = listener
        self._peer_uid = settings.peer_uid
        self._limit = max(32, 2 * settings.threads)
        self._connections = {}
        self._turn = 0
        self._epoll = epoll()
        self._epoll.register(control.socket, select.EPOLLIN)
        self._epoll.register(listener, select.EPOLLIN)
        self._threaded = settings.threads > 1
        # Requests in execution, only with threads: the loop itself never looks while it executes one.
        self._executing = {}
        self._threads = settings.threads
        if self._threaded:
            self._queue = simple_queue()
            # Gets a word of each thread that has ended.
            self._ended = simple_queue()
            for _ in range(settings.threads):
                start_thread(self._work)

    def run(self):
        while not self.stopping:
            self._one_turn()
        self._drain()

    def log_exception(self, environ):
        import traceback
        where = ""
        if environ:
            where = "{} {}: ".format(environ.get("REQUEST_METHOD"), environ.get("REQUEST_URI"))
        sys.stderr.write(where + traceback.format_exc())

    def forget(self):
        """In a child the application forked: let go of what belongs to the parent, without disturbing it."""
        for connection in self._connections.values():
            connection.socket.close()
        self._connections.clear()
        self._epoll.close()
        self._listener.close()
        self._control.socket.close()

    def _one_turn(self):
        connections, told = self._connections, False
        events = self._epoll.poll()
        self._turn += 1
        for fileno, _event in events:
            connection = connections.get(fileno)
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
            if self._threaded:
                self._execute(connection)
            else:  # as `_execute` does it
                connection.last_used = self._turn
                if not connection.answer(self._application):
                    self._drop(connection)
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
        if not connection.is_hijacked:
            del self._connections[connection.fileno]
            connection.socket.close()

    def let_go(self, connection):
        """The application takes it. Now and not later: when it closes, its number may at once be another's."""
        del self._connections[connection.fileno]
        self._epoll.unregister(connection.fileno)

    def _accept_all(self):
        while True:
            try:
                fileno, _address = self._listener._accept()
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EINVAL):  # EINVAL: after shutdown, none left
                    print("Cannot accept a connection from Apache:", error, file=sys.stderr)
                    self._make_room()
                    time.sleep(0.1)  # the listener stays ready: without this the loop would spin
                return
            # By what it is: to find that out would take three system calls.
            self._admit(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno))

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
            elif line.startswith("work "):
                self._read_what_was_sent()
                self._due.append(line[5:])
        self._work_if_idle()

    def _report(self, token):
        """Answers only when every request sent before the question has been read."""
        self._read_what_was_sent()
        self._control.say("busy", token, *map(str, list(self._executing.values())))

    def _read_what_was_sent(self):
        self._accept_all()
        for fileno, _event in self._epoll.poll(0):
            connection = self._connections.get(fileno)
            if connection is not None:
                self._serve(connection)

    def _work_if_idle(self):
        """No request comes until the agent is told that the work is done; one that a client abandoned may still be
        in execution, and its thread comes here when it is over."""
        while self._due and not self._executing:
            try:
                token = self._due.pop(0)
            except IndexError:  # another thread was faster
                return
            self.out_of_band.run(token)

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
            for _ in range(self._threads):
                self._queue.put(None)
            for _ in range(self._threads):
                self._ended.get()
            for connection in self._connections.values():
                if self._wind_up(connection):
                    connection.answer(self._application)

    def _work(self):
        """A thread's life: the loop has read a request's head, the thread does the rest."""
        while True:
            connection = self._queue.get()
            if connection is None:
                self._ended.put(None)
                return
            try:
                again = connection.answer(self._application)
            except BaseException:  # an exit would only end this thread, and nobody would see the pool shrink
                import traceback
                traceback.print_exc()
                os._exit(1)
            del self._executing[connection]
            if again:
                self._listen_to(connection)
            else:
                self._drop(connection)
            self._work_if_idle()


def simple_queue():
    """A queue that locks by the kernel, whatever the application has made of the module queue."""
    try:
        from _queue import SimpleQueue
    except ImportError:
        from queue import SimpleQueue
    return SimpleQueue()


def start_thread(run):
    """A thread of the kernel. Python's are greenlets where an application has them replaced (gevent, eventlet): these
    would wait for ever for the loop to give way."""
    import _thread
    if _thread.start_new_thread is start_new_thread:
        import threading
        threading.Thread(target=run, daemon=True).start()
    else:
        start_new_thread(run, ())


def serve(application, start):
    """Runs the application until the agent says stop."""
    start.control.say("step", "listen")
    server = Server(application, start.control, start.listener, start.settings, start.out_of_band)
    start.ready(server, start.settings.threads)
    server.run()
