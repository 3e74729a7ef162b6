"""One connection of an Apache worker: reads requests of the binary protocol (docs/protocols.md, section 4), runs
the WSGI application on them, writes its responses. Knows nothing of other connections, threads or the agent.

What it costs: one `recv` and one `send` per request and response, few objects and few calls of Python functions. What
most requests need is therefore written out in `answer` and `_environ`; docs/performance.md has the figures.
"""

import io
import os
import stat
import struct
from _socket import MSG_DONTWAIT

from .out_of_band import HEADERS as WORK_HEADERS

REQUEST_TAG = 0x50535201
RESPONSE_TAG = 0x50535300
LAST = 1
RAW = 2
FRAMES = 0xFFFF_FFFF_FFFF_FFFF
HEADER = struct.Struct(">IIQQ")
PACK, UNPACK_FROM = HEADER.pack, HEADER.unpack_from
HEADER_BYTES = HEADER.size
FRAME = struct.Struct(">I")
END_OF_FRAMES = FRAME.pack(0)

# What a worker says first, always and in this order.
FIRST = ["REQUEST_METHOD", "SCRIPT_NAME", "PATH_INFO", "QUERY_STRING", "REQUEST_URI", "SERVER_NAME", "SERVER_PORT",
         "SERVER_PROTOCOL", "SERVER_SOFTWARE", "REMOTE_ADDR", "REMOTE_PORT"]
PIECES_FIRST = 2 * len(FIRST)

# A request without a body nearly always fits.
READ_BYTES = 16384
BLOCK_BYTES = 65536
# Bodies up to here are in memory before the application is called.
BODY_IN_MEMORY = 1 << 20
# What the application left unread of a body is skipped up to here; above, the connection is closed.
BODY_SKIPPED = 16 << 20

# Headers that mean something to us have names of these lengths.
NOTABLE_LENGTHS = frozenset(map(len, ("content-length", "x-sendfile") + WORK_HEADERS))
NO_HEAD = "the application did not call start_response before the body began"


def template(ours):
    """An environment with everything that is not the request's own, to be copied for each request."""
    environ = dict.fromkeys(FIRST)
    environ.update(ours)
    environ.update({"wsgi.input": None, "passenger.hijack": None})
    # A copy is as large as its original: what was in it leaves room for the headers.
    environ[""] = None
    del environ[""]
    return environ


class PeerGone(OSError):
    """The worker closed the connection, or its request ended early: nothing to report, nobody to tell."""


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
                 "_body_bytes", "_rest", "_stream", "_head", "_length", "_bodyless", "_is_head", "_sent", "_left",
                 "is_hijacked", "_is_usual")

    def __init__(self, accepted, server):
        self.socket = accepted
        self.fileno = accepted.fileno()
        # The next response is the last one.
        self.last = False
        # Turn of the loop in which the last request came; the smallest is closed first.
        self.last_used = 0
        # The application has taken the socket, and closes it.
        self.is_hijacked = False
        # Whether heads begin with FIRST: the first one shows it.
        self._is_usual = None
        self._server = server

    def receive(self):
        """True: a request's head has been read. None: there is none. False: the connection is over."""
        try:
            buffer = self.socket.recv(READ_BYTES, MSG_DONTWAIT)
            while len(buffer) < HEADER_BYTES:
                buffer += self._receive_more(HEADER_BYTES - len(buffer))
            tag, head_bytes, self.number, self._body_bytes = UNPACK_FROM(buffer)
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
        self._sent = self._bodyless = self._is_head = False
        try:
            environ = self._environ()
            if environ["REQUEST_METHOD"] == "HEAD":
                self._is_head = self._bodyless = True
            result = application(environ, self._start_response)
            kind = type(result)
            if (kind is list or kind is tuple) and not (self._sent or self._bodyless):
                # As `_respond` would do it, without its calls.
                head = self._head
                if head is None:
                    raise AssertionError(NO_HEAD)
                body = result[0] if len(result) == 1 else b"".join(result)
                if self._server.stopping or self._stream:
                    self._send(self._prefix(len(body)), body)
                else:
                    tag = RESPONSE_TAG | LAST if self.last else RESPONSE_TAG
                    prefix = PACK(tag, len(head), self.number, len(body))
                    self._sent = True
                    try:
                        self.socket.sendall(b"".join((prefix, head, body)))
                    except ConnectionError as error:
                        raise PeerGone from error
                return self._ready_for_another() if self._stream else not (self.last or self._rest)
            try:
                if not self.is_hijacked:
                    self._respond(result)
            finally:
                self._close(result, environ)
            return not self.is_hijacked and self._ready_for_another()
        except PeerGone:
            return False
        except Exception:
            self._server.log_exception(environ)
            return self._answer_failure()

    def _close(self, result, environ):
        """Its failure is the application's alone: the response is what it is, and what cut it short is told as well."""
        if hasattr(result, "close"):
            try:
                result.close()
            except Exception:
                self._server.log_exception(environ)

    def hijack(self):
        """`passenger.hijack`: hands the socket to the application, which writes an HTTP response itself, from its
        status line on, and closes. An empty head tells the worker so. For WebSockets, which WSGI does not know."""
        if self._sent and not self.is_hijacked:
            raise RuntimeError("passenger.hijack came after the response had begun")
        if not self.is_hijacked:
            import socket
            self._server.let_go(self)
            self._sent = self.is_hijacked = True
            self.socket = socket.socket(fileno=self.socket.detach())
            self.socket.setblocking(True)
            self._send(HEADER.pack(RESPONSE_TAG | LAST | RAW, 0, self.number, FRAMES))
        return self.socket

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
        pieces = self._buffer[HEADER_BYTES:self._head_end].decode("latin-1").split("\0")
        if self._is_usual is None:
            self._is_usual = pieces[:PIECES_FIRST:2] == FIRST
        if self._is_usual:
            environ = self._server.environ.copy()
            # These keys are in it already: nothing is hashed, nothing grows.
            (environ["REQUEST_METHOD"], environ["SCRIPT_NAME"], environ["PATH_INFO"], environ["QUERY_STRING"],
             environ["REQUEST_URI"], environ["SERVER_NAME"], environ["SERVER_PORT"], environ["SERVER_PROTOCOL"],
             environ["SERVER_SOFTWARE"], environ["REMOTE_ADDR"], environ["REMOTE_PORT"]) = pieces[1:PIECES_FIRST:2]
            rest = iter(pieces[PIECES_FIRST:])
            for name in rest:
                environ[name] = next(rest)
            # Fewer than there should be: a variable of the administrator's has replaced another, which may not be ours.
            if len(environ) * 2 != len(pieces) + self._server.pieces_ours:
                environ.update(self._server.ours)
        else:
            rest = iter(pieces)
            environ = {"PATH_INFO": "", **dict(zip(rest, rest))}
            environ.update(self._server.ours)
        # Workers pass the path escaped; PEP 3333 (and every framework) wants it decoded, as Latin-1.
        path = environ["PATH_INFO"]
        if "%" in path:
            # Imported on need: it would be a tenth of a small application's start.
            from urllib.parse import unquote
            environ["PATH_INFO"] = unquote(path, "latin-1")
        if "HTTPS" in environ and environ["HTTPS"] not in ("", "off", "0"):
            environ["wsgi.url_scheme"] = "https"
        length, rest = self._body_bytes, self._buffer[self._head_end:]
        environ["wsgi.input"] = io.BytesIO(rest) if len(rest) == length else self._input(length, rest)
        environ["passenger.hijack"] = self.hijack
        return environ

    def _input(self, length, rest):
        """A body of which only the beginning has come with the head, if anything."""
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
            self._bodyless = self._is_head
        elif self._head is not None:
            raise AssertionError("start_response was called a second time without exc_info")
        pieces, is_file, self._length = [status], False, None
        for name, value in headers:
            length = len(name)
            if length in NOTABLE_LENGTHS:
                lower = name.lower()
                if lower == "content-length":
                    self._length = int(value)
                elif lower == "x-sendfile":
                    is_file = True
                elif lower in WORK_HEADERS:
                    # For us and not for the client.
                    self._server.out_of_band.request()
                    continue
            pieces += (name, value)
        if is_file:  # httpd sends it: what is announced is not our body's length
            self._length = None
        head = "\0".join(pieces)
        # A NUL inside a name or value would pass for another field.
        if head.count("\0") != len(pieces) - 1:
            raise ValueError("a response header contains a NUL character")
        self._head = head.encode("latin-1")
        if status != "200 OK" and status[:3] in ("204", "304"):
            self._bodyless = True
        return self._write

    def _prefix(self, length):
        """The bytes before the body."""
        if self._head is None:
            raise AssertionError(NO_HEAD)
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
            while length:
                sent = os.sendfile(self.fileno, file.fileno(), position, length)
                if not sent:
                    raise ValueError("the file became shorter while it was sent")
                position += sent
                length -= sent
        except ConnectionError as error:
            raise PeerGone from error
        return True

    def _answer_failure(self):
        """A 500 if nothing has been sent, else the cut connection tells the worker."""
        if self._sent:
            if self.is_hijacked:
                self.socket.close()
            return False
        try:
            self._head = b"500 Internal Server Error\0Content-Type\0text/plain"
            body = b"" if self._bodyless else b"Internal Server Error\n"
            self._send(self._prefix(len(body)), body)
            return self._ready_for_another()
        except PeerGone:
            return False
