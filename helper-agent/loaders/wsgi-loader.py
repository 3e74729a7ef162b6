"""Loads one WSGI application (PEP 3333) and serves it to Apache's workers.

Started by the helper agent with the control socket on descriptor 3 and a listening Unix socket on
descriptor 4; docs/protocols.md, section 4, is the contract. From top to bottom: the control socket, a
request's body, one connection, the loop over all connections, loading. Python 3.7 and later.
"""

import faulthandler
import importlib.machinery
import importlib.util
import io
import itertools
import os
import queue
import select
import signal
import socket
import stat
import struct
import sys
import threading
import traceback

REQUEST_TAG = 0x50535201
RESPONSE_TAG = 0x50535300
LAST = 1
FRAMES = 0xFFFF_FFFF_FFFF_FFFF
HEADER = struct.Struct(">IIQQ")
HEADER_BYTES = HEADER.size
FRAME = struct.Struct(">I")
END_OF_FRAMES = FRAME.pack(0)

# A request without a body nearly always fits.
READ_BYTES = 16384
BLOCK_BYTES = 65536
# Bodies up to here are in memory before the application is called.
BODY_IN_MEMORY = 1 << 20
# What the application left unread of a body is skipped up to here; above, the connection is closed.
BODY_SKIPPED = 16 << 20
# Credentials of a Unix socket's peer: pid, uid, gid.
UCRED = struct.Struct("iII")


class PeerGone(OSError):
    """The worker closed the connection, or its request ended early: nothing to report, nobody to tell."""


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


class BodyReader(io.RawIOBase):
    """A body that is too large for memory, or of unknown length: read as the application asks for it."""

    def __init__(self, connection, length):
        """`length` None = frames until one of length 0."""
        super().__init__()
        self._connection = connection
        self._framed = length is None
        self._left = length or 0
        self._ended = False

    def readable(self):
        return True

    def readinto(self, buffer):
        if self._framed and not self._left and not self._ended:
            self._left, = FRAME.unpack(self._connection.read_exactly(FRAME.size))
            self._ended = not self._left
        if not self._left:
            return 0
        piece = self._connection.read_some(min(len(buffer), self._left))
        self._left -= len(piece)
        buffer[: len(piece)] = piece
        return len(piece)

    def too_much_unread(self):
        return not self._ended if self._framed else self._left > BODY_SKIPPED

    def skip(self):
        scrap = memoryview(bytearray(BLOCK_BYTES))
        while self.readinto(scrap):
            pass


class FileWrapper:
    """`wsgi.file_wrapper`: an iterable of blocks, which `Connection` may send by `sendfile` instead."""

    def __init__(self, file, block_bytes=BLOCK_BYTES):
        self.file = file
        self._block_bytes = block_bytes
        if hasattr(file, "close"):
            self.close = file.close

    def __iter__(self):
        return self

    def __next__(self):
        block = self.file.read(self._block_bytes)
        if not block:
            raise StopIteration
        return block


class Connection:
    """One kept-alive connection of an Apache worker: `receive` a request, `answer` it, and again."""

    __slots__ = ("socket", "fileno", "number", "last", "last_used", "_server", "_buffer", "_head_end",
                 "_body_bytes", "_rest", "_stream", "_head", "_length", "_bodyless", "_sent", "_left")

    def __init__(self, accepted, server):
        self.socket = accepted
        self.fileno = accepted.fileno()
        # The next response is the last one.
        self.last = False
        # Turn of the loop in which the last request came; the smallest is closed first.
        self.last_used = 0
        self._server = server

    def receive(self):
        """True: a request's head has been read. None: there is none. False: the connection is over."""
        try:
            buffer = self.socket.recv(READ_BYTES, socket.MSG_DONTWAIT)
            while len(buffer) < HEADER_BYTES:
                buffer += self._receive_more(HEADER_BYTES - len(buffer))
            tag, head_bytes, self.number, self._body_bytes = HEADER.unpack_from(buffer)
            self._head_end = HEADER_BYTES + head_bytes
            while len(buffer) < self._head_end:
                buffer += self._receive_more(self._head_end - len(buffer))
        except BlockingIOError:
            return None
        except OSError:
            return False
        self._buffer = buffer
        return tag == REQUEST_TAG

    def answer(self, application):
        """Runs the application on the received request. True: the connection can take another one."""
        self._head = self._rest = self._stream = environ = None
        self._sent = self._bodyless = False
        try:
            environ = self._environ()
            self._bodyless = environ["REQUEST_METHOD"] == "HEAD"
            result = application(environ, self._start_response)
            try:
                self._respond(result)
            finally:
                if hasattr(result, "close"):
                    result.close()
            return self._ready_for_another()
        except PeerGone:
            return False
        except Exception:
            self._server.log_exception(environ)
            return self._answer_failure()

    # --- the request ---

    def _receive_more(self, at_most):
        piece = self.socket.recv(at_most)
        if not piece:
            raise PeerGone
        return piece

    def read_some(self, at_most):
        """Some bytes of the body, first those that came together with the head."""
        rest = self._rest
        if rest:
            self._rest = rest[at_most:]
            return rest[:at_most]
        try:
            piece = self.socket.recv(at_most)
        except ConnectionError as error:
            raise PeerGone from error
        if not piece:
            raise PeerGone("the request ended before its body was complete")
        return piece

    def read_exactly(self, length):
        pieces = []
        while length:
            piece = self.read_some(length)
            pieces.append(piece)
            length -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _environ(self):
        pieces = iter(self._buffer[HEADER_BYTES:self._head_end].decode("latin-1").split("\0"))
        environ = dict(zip(pieces, pieces))
        environ.update(self._server.environ)
        environ["wsgi.input"] = self._input()
        environ["wsgi.url_scheme"] = "https" if environ.get("HTTPS") in ("on", "1") else "http"
        return environ

    def _input(self):
        length = self._body_bytes
        rest = self._buffer[self._head_end:]
        if len(rest) == length:
            return io.BytesIO(rest)
        self._rest = rest
        if length <= BODY_IN_MEMORY:
            return io.BytesIO(self.read_exactly(length))
        self._stream = BodyReader(self, None if length == FRAMES else length)
        return io.BufferedReader(self._stream, BLOCK_BYTES)

    def _ready_for_another(self):
        """The next request must begin where this one ended."""
        if self.last:
            return False
        if self._stream:
            self._stream.skip()
        return not self._rest

    # --- the response ---

    def _start_response(self, status, headers, exc_info=None):
        if exc_info:
            try:
                if self._sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self._head is not None:
            raise AssertionError("start_response was called a second time without exc_info")
        head = "\0".join((status, *itertools.chain.from_iterable(headers)))
        # A NUL inside a name or value would pass for another field.
        if head.count("\0") != 2 * len(headers):
            raise ValueError("a response header contains a NUL character, or is not a pair")
        self._head = head.encode("latin-1")
        self._length = None
        code = status[:3]
        if code in ("204", "304"):
            self._bodyless = True
        for name, value in headers:
            if len(name) == 14 and name.lower() == "content-length":
                self._length = int(value)
        return self._write

    def _prefix(self, length):
        """The bytes before the body."""
        if self._head is None:
            raise AssertionError("the application did not call start_response before the body began")
        self._sent = True
        if self._server.stopping or (self._stream and self._stream.too_much_unread()):
            self.last = True
        tag = RESPONSE_TAG | LAST if self.last else RESPONSE_TAG
        return HEADER.pack(tag, len(self._head), self.number, length) + self._head

    def _send(self, *pieces):
        try:
            self.socket.sendall(b"".join(pieces))
        except ConnectionError as error:
            raise PeerGone from error

    def _respond(self, result):
        kind = type(result)
        if (kind is list or kind is tuple) and not self._sent and not self._bodyless:
            body = result[0] if len(result) == 1 else b"".join(result)
            self._send(self._prefix(len(body)), body)
        elif kind is FileWrapper and not self._sent and not self._bodyless and self._send_file(result.file):
            pass
        else:
            for chunk in result:
                if chunk:
                    self._write(chunk)
                    if self._bodyless:
                        break
            self._end()

    def _write(self, chunk):
        """WSGI's `write`, and the way of every chunk of an iterable. The first travels with the head."""
        prefix = b""
        if not self._sent:
            self._left = 0 if self._bodyless else self._length
            prefix = self._prefix(FRAMES if self._left is None else self._left)
        if self._bodyless:
            self._send(prefix)
        elif self._left is None:
            self._send(prefix, FRAME.pack(len(chunk)), chunk)
        elif self._left < len(chunk):
            raise ValueError("the body is longer than its Content-Length")
        else:
            self._left -= len(chunk)
            self._send(prefix, chunk)

    def _end(self):
        if not self._sent:
            self._left = 0 if self._bodyless else self._length or 0
            self._send(self._prefix(self._left))
        elif self._left is None:
            self._send(END_OF_FRAMES)
        if self._left:
            raise ValueError("the body is shorter than its Content-Length")

    def _send_file(self, file):
        """The rest of a regular file, by `sendfile`. False: not such a file."""
        try:
            status = os.fstat(file.fileno())
            position = file.tell()
        except (AttributeError, OSError, ValueError):
            return False
        if not stat.S_ISREG(status.st_mode):
            return False
        length = max(status.st_size - position, 0)
        if self._length is not None:
            length = min(length, self._length)
        self._send(self._prefix(length))
        try:
            if length and self.socket.sendfile(file, position, length) != length:
                raise ValueError("the file became shorter while it was sent")
        except ConnectionError as error:
            raise PeerGone from error
        return True

    def _answer_failure(self):
        """A 500 if nothing has been sent, else the cut connection tells the worker."""
        if self._sent:
            return False
        try:
            self._head = b"500 Internal Server Error\0Content-Type\0text/plain"
            body = b"" if self._bodyless else b"Internal Server Error\n"
            self._send(self._prefix(len(body)), body)
            return self._ready_for_another()
        except PeerGone:
            return False


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
            except ConnectionAbortedError:
                continue
            except OSError:  # none left
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
            again = connection.answer(self._application)
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
    # Python put this file's directory first; the application expects its own there.
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
