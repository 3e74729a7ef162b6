"""One connection of an Apache worker to an ASGI application: reads requests of the binary protocol
(docs/protocols.md, section 4) as they arrive, runs the application on each as a task, writes its responses. Knows
nothing of other connections or the agent.

    readable ─► Connection._advance ─► Exchange.feed ─► receive() ─► application ─► send() ─► Connection.write

The socket is read and written here and not by an asyncio transport: only so can the server look whether a request
has arrived (`busy?`), and close a connection without losing one.
"""

import asyncio
import socket
import struct

from .asgi_scope import scope_of

REQUEST_TAG = 0x50535201
RESPONSE_TAG = 0x50535300
LAST = 1
INTERIM = 4
FRAMES = 0xFFFF_FFFF_FFFF_FFFF
HEADER = struct.Struct(">IIQQ")
HEADER_BYTES = HEADER.size
FRAME = struct.Struct(">I")
END_OF_FRAMES = FRAME.pack(0)

READ_BYTES = 65536
# Reading pauses while the application has so much of a body before it.
BODY_AHEAD = 1 << 18
# `send` waits while so much of a response is not yet on its way.
OUTPUT_AHEAD = 1 << 16
# What the application left unread of a body is skipped up to here; above, the connection is closed.
BODY_SKIPPED = 16 << 20


class PeerGone(OSError):
    """The worker closed the connection: the client is gone, there is nobody to tell."""


class Connection:
    """One kept-alive connection: at most one request at a time."""

    def __init__(self, accepted, server):
        self.socket = accepted
        self.fileno = accepted.fileno()
        # The next response is the last one.
        self.last = False
        # Counts up; the idle connection with the smallest is closed first.
        self.last_used = 0
        self.exchange = None
        self._server = server
        self._loop = server.loop
        self._input = b""
        self._output = bytearray()
        self._drained = None
        self._paused = False
        self._closed = False
        # Reading was shut down by us: an end of file means nothing then.
        self._shut = False
        self._loop.add_reader(self.fileno, self.readable)

    def readable(self):
        """Reads what has arrived, once. True: there was something."""
        if self._closed:
            return False
        try:
            data = self.socket.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            data = b""
        if not data:
            if self._shut:
                self._loop.remove_reader(self.fileno)
            else:
                self.close()
            return False
        self._input = self._input + data if self._input else data
        self._advance()
        return True

    def wind_up(self):
        """No request after the current one, and none lost: what was sent before is readable, and a worker
        that sends later fails before anything was delivered, so that it can safely go elsewhere."""
        self.last = True
        if self.exchange or self._closed:
            return
        self.readable()
        if self.exchange or self._input or self._closed:
            return
        self.socket.shutdown(socket.SHUT_RD)
        self._shut = True
        self.readable()
        if not self.exchange:
            self.close()

    def write(self, data):
        """Sends, or keeps what the kernel does not take yet."""
        if self._closed:
            raise PeerGone("the client is gone")
        if self._output:
            self._output += data
            return
        try:
            sent = self.socket.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self.close()
            raise PeerGone("the client is gone") from error
        if sent < len(data):
            self._output += memoryview(data)[sent:]
            self._loop.add_writer(self.fileno, self._flush)

    async def drained(self):
        """Waits until the peer has taken enough of the response."""
        while len(self._output) > OUTPUT_AHEAD and not self._closed:
            if self._drained is None:
                self._drained = asyncio.Event()
            self._drained.clear()
            await self._drained.wait()

    def resume(self):
        """The application has taken what was read of its body."""
        if self._paused and not self._closed:
            self._paused = False
            self._loop.add_reader(self.fileno, self.readable)

    def finish(self, exchange):
        """The exchange's response is complete, or it never will be."""
        if self.exchange is not exchange or self._closed:
            return
        if not exchange.response_complete:
            self.close()
        elif self.last:
            self._close_when_flushed()
        elif exchange.request_complete:
            self.exchange = None
            self.resume()
            if self._server.stopping:
                self.wind_up()
            elif self._input:
                self._advance()
        else:
            self.resume()  # to skip the rest of its body

    def close(self):
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self.fileno)
        self._loop.remove_writer(self.fileno)
        self.socket.close()
        if self.exchange:
            self.exchange.peer_is_gone()
        if self._drained:
            self._drained.set()
        self._server.forget_connection(self)

    def _advance(self):
        if self.exchange is None and not self._begin():
            return
        exchange = self.exchange
        if self._input and not exchange.request_complete:
            self._input = exchange.feed(self._input)
        # Nothing is asked of a worker that sends its next request too early, but to wait.
        is_ahead = exchange.body_ahead() > BODY_AHEAD or (self._input and exchange.request_complete)
        if is_ahead and not self._paused:
            self._paused = True
            self._loop.remove_reader(self.fileno)
        if exchange.request_complete and exchange.response_complete:
            self.finish(exchange)

    def _begin(self):
        """Starts the exchange if a request's head is complete."""
        available = len(self._input)
        if available < HEADER_BYTES:
            return False
        tag, head_bytes, number, body_bytes = HEADER.unpack_from(self._input)
        if tag != REQUEST_TAG:
            self.close()
            return False
        end = HEADER_BYTES + head_bytes
        if available < end:
            return False
        head = self._input[HEADER_BYTES:end]
        self._input = self._input[end:]
        self.exchange = Exchange(self, number, head, body_bytes, self._server)
        self._server.execute(self.exchange)
        return True

    def _flush(self):
        try:
            sent = self.socket.send(self._output)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.close()
            return
        del self._output[:sent]
        if not self._output:
            self._loop.remove_writer(self.fileno)
            exchange = self.exchange
            if self.last and (exchange is None or exchange.response_complete):
                self.close()
        if self._drained and len(self._output) <= OUTPUT_AHEAD:
            self._drained.set()

    def _close_when_flushed(self):
        if not self._output:
            self.close()


class Exchange:
    """One request and its response: what `receive` and `send` of its application do."""

    def __init__(self, connection, number, head, body_bytes, server):
        self.number = number
        self.request_complete = body_bytes == 0
        self.response_complete = False
        self.response_begun = False
        self.connection = connection
        self._server = server
        self._framed = body_bytes == FRAMES
        # Bytes still to come: of the body, or of the current frame.
        self._left = 0 if self._framed else body_bytes
        self._body = bytearray()
        self._end_told = False
        self._gone = False
        self._news = None
        self._head = None
        self._response_left = None
        self.scope = scope_of(head, server.lifespan_state)
        self._bodyless = self.scope["method"] == "HEAD"

    async def receive(self):
        while True:
            if self._body or (self.request_complete and not self._end_told):
                body = bytes(self._body)
                self._body.clear()
                self._end_told = self.request_complete
                self.connection.resume()
                return {"type": "http.request", "body": body, "more_body": not self.request_complete}
            if self._gone or self.response_complete:
                return {"type": "http.disconnect"}
            if self._news is None:
                self._news = asyncio.Event()
            self._news.clear()
            await self._news.wait()

    async def send(self, event):
        kind = event["type"]
        if self._gone:
            raise PeerGone("the client is gone")
        if kind == "http.response.body":
            self._send_body(event.get("body", b""), event.get("more_body", False))
            await self.connection.drained()
        elif kind == "http.response.start":
            if self._head is not None:
                raise RuntimeError("http.response.start was sent a second time")
            self._start(event["status"], event.get("headers", ()))
        elif kind == "http.response.early_hint" and kind in self.scope["extensions"]:
            if self._head is None:
                head = encode_head(103, [(b"link", link) for link in event["links"]])
                tag = RESPONSE_TAG | INTERIM
                self.connection.write(HEADER.pack(tag, len(head), self.number, 0) + head)
        else:
            raise RuntimeError("{!r} is not an event for a response".format(kind))

    # --- what the connection tells ---

    def feed(self, data):
        """Takes what belongs to the request's body and returns the rest."""
        at = 0
        while not self.request_complete:
            if self._left:
                piece = data[at:at + self._left]
                if not piece:
                    break
                if not self.response_complete:  # else nobody will ask
                    self._body += piece
                at += len(piece)
                self._left -= len(piece)
                self.request_complete = not self._left and not self._framed
            else:
                if len(data) - at < FRAME.size:
                    break
                self._left, = FRAME.unpack_from(data, at)
                at += FRAME.size
                self.request_complete = not self._left
        self._wake()
        return data[at:]

    def body_ahead(self):
        return len(self._body)

    def peer_is_gone(self):
        self._gone = True
        self._wake()

    def application_failed(self):
        """A 500 if nothing has been sent, else the cut connection tells the worker."""
        if self._gone or self.response_complete:
            return
        if not self.response_begun:
            try:
                self._head = None
                self._start(500, [(b"content-type", b"text/plain")])
                self._send_body(b"Internal Server Error\n", False)
            except PeerGone:
                pass
        else:
            self.connection.finish(self)

    def is_abandoned(self):
        """True: the client is gone, so what the application makes of it is no news."""
        return self._gone

    # --- the response ---

    def _start(self, status, headers):
        """Only remembered: the head travels with the body's beginning."""
        headers = list(headers)
        self._head = encode_head(status, headers)
        if status in (204, 304):
            self._bodyless = True
        self._response_left = None
        for name, value in headers:
            if len(name) == 14 and name.lower() == b"content-length":
                self._response_left = int(value)

    def _send_body(self, body, more):
        if self._head is None:
            raise RuntimeError("http.response.body was sent before http.response.start")
        if self.response_complete:
            raise RuntimeError("http.response.body was sent after the response's end")
        connection = self.connection
        if not self.response_begun:
            if self._bodyless:
                connection.write(self._prefix(0))
                self._response_left = 0
            elif not more:
                self._check_length(len(body), True)
                connection.write(self._prefix(len(body)) + body)
            elif self._response_left is not None:
                self._check_length(len(body), False)
                connection.write(self._prefix(self._response_left) + body)
                self._response_left -= len(body)
            else:
                connection.write(self._prefix(FRAMES) + (FRAME.pack(len(body)) + body if body else b""))
        elif self._bodyless:
            pass
        elif self._response_left is not None:
            self._check_length(len(body), not more)
            self._response_left -= len(body)
            connection.write(body)
        else:
            frame = FRAME.pack(len(body)) + body if body else b""
            connection.write(frame if more else frame + END_OF_FRAMES)
        if not more:
            self.response_complete = True
            self._body.clear()
            self._wake()
            connection.finish(self)

    def _check_length(self, length, is_end):
        left = self._response_left
        if left is not None and length > left:
            raise ValueError("the body is longer than its Content-Length")
        if left is not None and is_end and length < left:
            raise ValueError("the body is shorter than its Content-Length")

    def _prefix(self, length):
        """The bytes before the body."""
        self.response_begun = True
        unread = not self.request_complete and (self._framed or self._left > BODY_SKIPPED)
        connection = self.connection
        if self._server.stopping or unread:
            connection.last = True
        tag = RESPONSE_TAG | LAST if connection.last else RESPONSE_TAG
        return HEADER.pack(tag, len(self._head), self.number, length) + self._head

    def _wake(self):
        if self._news:
            self._news.set()


def encode_head(status, headers):
    pieces = [b"%d" % status]
    for name, value in headers:
        pieces += (name, value)
    head = b"\0".join(pieces)
    # A NUL inside a name or value would pass for another field.
    if head.count(b"\0") != len(pieces) - 1:
        raise ValueError("a response header contains a NUL byte")
    return head
