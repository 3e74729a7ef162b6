"""A WebSocket of an ASGI application: the handshake in the binary protocol (docs/protocols.md, section 4), and then
what `receive` and `send` do with the stream that the connection has become.

    connect ─► accept ──► open ──► a close frame from one side, answered by the other ──► closed
            └► close, or a response of the application's own: 403, or that
"""

import asyncio
import binascii
import hashlib
from collections import deque

from .asgi_exchange import FRAMES, HEADER, LAST, RAW, RESPONSE_TAG, Exchange, PeerGone, encode_head
from .websocket_frames import (
    ABNORMAL, BINARY, CLOSE, GOING_AWAY, INTERNAL_ERROR, NORMAL, PING, PONG, TEXT, FrameReader, Violation, close_frame,
    frame,
)

# RFC 6455 section 1.3.
KEY_SUFFIX = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
# How long a client may take to answer our close frame.
CLOSE_PATIENCE = 5
# What the application would say in two ways, and what is said between httpd and its client only.
OURS = (b"sec-websocket-accept", b"sec-websocket-extensions", b"upgrade", b"connection")


class WebSocket(Exchange):
    """One WebSocket, from its request to its end."""

    def __init__(self, connection, number, scope, body_bytes, server):
        super().__init__(connection, number, scope, body_bytes, server)
        fields = dict(scope["headers"])
        self._key = fields.get(b"sec-websocket-key")
        self._version = fields.get(b"sec-websocket-version")
        self._reader = FrameReader()
        self._events = deque([{"type": "websocket.connect"}])
        self._bytes_ahead = 0
        self._disconnect = None
        self._close_sent = False

    async def run(self, application):
        refusal = self._refusal()
        if refusal:
            self._refuse(*refusal)
        else:
            await super().run(application)

    async def receive(self):
        while not self._events:
            if self._disconnect is None and (self._gone or self.response_complete):
                self._over(ABNORMAL)
            if self._disconnect is not None:
                return self._disconnect
            await self._wait()
        event = self._events.popleft()
        if event["type"] == "websocket.receive":
            self._bytes_ahead -= weight(event)
            self.connection.resume()
        return event

    async def send(self, event):
        kind = event["type"]
        if self._gone or self._disconnect is not None:
            raise PeerGone("the WebSocket is closed")
        if self.is_upgraded:
            if kind == "websocket.send":
                await self._send_message(event)
            elif kind == "websocket.close":
                self._close(event.get("code", NORMAL), event.get("reason") or "")
            else:
                raise RuntimeError("{!r} is not an event for an open WebSocket".format(kind))
        elif kind == "websocket.accept":
            self._accept(event.get("subprotocol"), event.get("headers", ()))
        elif kind == "websocket.close" and self._head is None:
            self._refuse(403, b"Forbidden\n")
        elif kind in ("websocket.http.response.start", "websocket.http.response.body"):
            await super().send(dict(event, type=kind[len("websocket."):]))
        else:
            raise RuntimeError("{!r} is not an event for a WebSocket that was not accepted".format(kind))

    # --- what the connection tells ---

    def feed(self, data):
        try:
            for kind, payload in self._reader.feed(data):
                self._take(kind, payload)
                if self.request_complete:
                    break
        except Violation as violation:
            self._say_close(violation.status, str(violation))
            self._over(violation.status, str(violation))
            self._end()
        self._wake()
        return b""

    def body_ahead(self):
        return self._bytes_ahead

    def is_abandoned(self):
        return self._gone or self._disconnect is not None

    def server_stops(self):
        if self.is_upgraded and not self._close_sent:
            self._say_close(GOING_AWAY)
            self._over(GOING_AWAY)

    def application_returned(self, error):
        if not self.is_upgraded:
            super().application_returned(error)
        elif not self._close_sent and not self._gone:
            self._say_close(NORMAL if error is None else INTERNAL_ERROR)

    # --- the handshake ---

    def _refusal(self):
        """Why this cannot become a WebSocket, or None (RFC 6455 section 4.2.1)."""
        if self._version != b"13":
            return 426, b"This server speaks version 13 of the WebSocket protocol.\n"
        try:
            if len(binascii.a2b_base64(self._key or b"")) == 16:
                return None
        except binascii.Error:
            pass
        return 400, b"Sec-WebSocket-Key is missing or has not 16 bytes.\n"

    def _accept(self, subprotocol, headers):
        if self._head is not None:
            raise RuntimeError("websocket.accept came after another response had begun")
        accept = binascii.b2a_base64(hashlib.sha1(self._key + KEY_SUFFIX).digest(), newline=False)
        fields = [(b"Sec-WebSocket-Accept", accept)]
        if subprotocol is not None:
            fields.append((b"Sec-WebSocket-Protocol", subprotocol.encode("latin-1")))
        fields += [(name, value) for name, value in headers if name.lower() not in OURS]
        head = encode_head(101, fields)
        self.response_begun = True
        self.connection.last = True
        self.connection.write(HEADER.pack(RESPONSE_TAG | LAST | RAW, len(head), self.number, FRAMES) + head)
        self.is_upgraded = True
        # From here on everything that comes is ours, until a close frame.
        self.request_complete = False
        self.connection.resume()
        if self._server.stopping:
            self.server_stops()

    def _refuse(self, status, text):
        self._start(status, [(b"content-type", b"text/plain"), (b"sec-websocket-version", b"13")])
        self._send_body(text, False)

    # --- messages ---

    async def _send_message(self, event):
        if self._close_sent:
            raise RuntimeError("websocket.send came after websocket.close")
        text = event.get("text")
        if text is not None:
            message = frame(TEXT, text.encode("utf-8"))
        else:
            message = frame(BINARY, event["bytes"])
        self.connection.write(message)
        await self.connection.drained()

    def _take(self, kind, payload):
        if kind == PING:
            # Not each needs an answer (section 5.5.3): a client that asks and does not read would fill our memory.
            if not self._close_sent and not self.connection.is_backed_up():
                self.connection.write(frame(PONG, payload))
        elif kind == CLOSE:
            status, reason = payload
            self._say_close(status)
            self._over(status, reason)
            self._end()
        elif kind != PONG and not self._close_sent:
            event = {"type": "websocket.receive", "text" if kind == TEXT else "bytes": payload}
            self._events.append(event)
            self._bytes_ahead += weight(event)

    # --- the end ---

    def _close(self, status, reason):
        if self._close_sent:
            raise RuntimeError("websocket.close was sent a second time")
        self._say_close(status, reason)

    def _say_close(self, status, reason=""):
        """Once: nothing may follow it. The client's answer, or its patience, ends the connection."""
        if self._close_sent:
            return
        self._close_sent = True
        try:
            self.connection.write(close_frame(status, reason))
        except PeerGone:
            return
        asyncio.get_running_loop().call_later(CLOSE_PATIENCE, self._end)

    def _over(self, status, reason=""):
        """What `receive` says once all messages before it are read."""
        if self._disconnect is None:
            self._disconnect = {"type": "websocket.disconnect", "code": status, "reason": reason}
        self._wake()

    def _end(self):
        self.request_complete = self.response_complete = True
        self.connection.finish(self)


def weight(event):
    """About what an event holds in memory; an empty message is not free."""
    return 64 + len(event.get("text") or event.get("bytes") or b"")
