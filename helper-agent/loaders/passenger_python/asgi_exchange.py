"""One request to an ASGI application and its response: what its `receive` and `send` do, in the binary protocol
(docs/protocols.md, section 4). The connection it came on is in asgi_connection.py; a WebSocket's in asgi_websocket.py.
"""

import asyncio
import struct

from .out_of_band import HEADERS

RESPONSE_TAG = 0x50535300
LAST = 1
RAW = 2
INTERIM = 4
FRAMES = 0xFFFF_FFFF_FFFF_FFFF
HEADER = struct.Struct(">IIQQ")
PACK = HEADER.pack
FRAME = struct.Struct(">I")
END_OF_FRAMES = FRAME.pack(0)

WORK_HEADERS = tuple(name.encode() for name in HEADERS)
# Headers that mean something to us have names of these lengths.
NOTABLE_LENGTHS = frozenset(map(len, (b"content-length", b"x-sendfile") + WORK_HEADERS))
# It would pass for another field.
NUL_IN_HEAD = "a response header contains a NUL byte"
# The usual ones, ready to be sent.
STATUSES = {status: b"%d" % status for status in (200, 201, 204, 301, 302, 303, 304, 400, 401, 403, 404, 500)}

# What the application left unread of a body is skipped up to here; above, the connection is closed.
BODY_SKIPPED = 16 << 20
# `send` waits while so much of a response is not yet on its way.
OUTPUT_AHEAD = 1 << 16


class PeerGone(OSError):
    """The worker closed the connection: the client is gone, there is nobody to tell."""


class Exchange:
    """One request and its response: what `receive` and `send` of its application do."""

    # The connection has become the client's and the application's own.
    is_upgraded = False

    def __init__(self, connection, number, scope, body_bytes, server):
        self.number = number
        self.request_complete = body_bytes == 0
        self.response_complete = False
        self.response_begun = False
        self.connection = connection
        self._server = server
        self._framed = body_bytes == FRAMES
        # Bytes still to come: of the body, or of the current frame.
        self._left = 0 if self._framed else body_bytes
        # What of the body is read and not yet the application's: one piece, or a bytearray of several.
        self._body = b""
        self._end_told = False
        self._gone = False
        self._news = None
        self._head = None
        self._response_left = None
        self.scope = scope
        self._bodyless = scope.get("method") == "HEAD"

    def run(self, application):
        """What is to be awaited."""
        return application(self.scope, self.receive, self.send)

    async def receive(self):
        while True:
            if self._body or (self.request_complete and not self._end_told):
                body, self._body = bytes(self._body), b""
                self._end_told = self.request_complete
                self.connection.resume()
                return {"type": "http.request", "body": body, "more_body": not self.request_complete}
            if self._gone or self.response_complete:
                return {"type": "http.disconnect"}
            await self._wait()

    async def send(self, event):
        kind = event["type"]
        if self._gone:
            raise PeerGone("the client is gone")
        if kind == "http.response.body":
            self._send_body(event.get("body", b""), event.get("more_body", False))
            connection = self.connection
            if len(connection.output) > OUTPUT_AHEAD:
                await connection.drained()
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
                    self._keep(piece)
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

    def _keep(self, piece):
        if not self._body:
            self._body = piece
        elif type(self._body) is bytes:
            self._body = bytearray(self._body) + piece
        else:
            self._body += piece

    def body_ahead(self):
        return len(self._body)

    def peer_is_gone(self):
        self._gone = True
        self._wake()

    def server_stops(self):
        """A request is answered all the same."""

    def application_returned(self, _error):
        """Without a whole response that is a failure, even if nothing was raised: a 500 if nothing has been sent,
        else the cut connection tells the worker."""
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
        if status in (204, 304):
            self._bodyless = True
        self._response_left = None
        pieces, is_file = [STATUSES.get(status) or b"%d" % status], False
        for name, value in headers:
            if len(name) in NOTABLE_LENGTHS:
                lower = name.lower()
                if lower == b"content-length":
                    self._response_left = int(value)
                elif lower == b"x-sendfile":
                    is_file = True
                elif lower in WORK_HEADERS:
                    # For us and not for the client.
                    self._server.out_of_band.request()
                    continue
            pieces += (name, value)
        if is_file:  # httpd sends it: what is announced is not our body's length
            self._response_left = None
        head = b"\0".join(pieces)
        if head.count(b"\0") != len(pieces) - 1:
            raise ValueError(NUL_IN_HEAD)
        self._head = head

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
                length = len(body)
                if self._response_left is not None and self._response_left != length:
                    self._check_length(length, True)
                if self._server.stopping or not self.request_complete:
                    prefix = self._prefix(length)
                else:  # the same, for most responses
                    self.response_begun, head = True, self._head
                    tag = RESPONSE_TAG | LAST if connection.last else RESPONSE_TAG
                    prefix = PACK(tag, len(head), self.number, length) + head
                connection.write(prefix + body)
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
            self._body = b""
            if self._news:
                self._news.set()
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
        connection, head = self.connection, self._head
        if self._server.stopping or not self.request_complete and (self._framed or self._left > BODY_SKIPPED):
            connection.last = True
        tag = RESPONSE_TAG | LAST if connection.last else RESPONSE_TAG
        return PACK(tag, len(head), self.number, length) + head

    async def _wait(self):
        """For news of the connection."""
        if self._news is None:
            self._news = asyncio.Event()
        self._news.clear()
        await self._news.wait()

    def _wake(self):
        if self._news:
            self._news.set()


def encode_head(status, headers):
    pieces = [b"%d" % status]
    for name, value in headers:
        pieces += (name, value)
    head = b"\0".join(pieces)
    if head.count(b"\0") != len(pieces) - 1:
        raise ValueError(NUL_IN_HEAD)
    return head
