"""One connection of an Apache worker to an ASGI application: reads requests of the binary protocol
(docs/protocols.md, section 4) as they arrive, runs the application on each as a task, writes its responses. Knows
nothing of other connections or the agent.

    readable ─► Connection._advance ─► Exchange.feed ─► receive() ─► application ─► send() ─► Connection.write

The socket is read and written here and not by an asyncio transport: only so can the server look whether a request
has arrived (`busy?`), and close a connection without losing one.
"""

import asyncio
import socket

from .asgi_exchange import HEADER, OUTPUT_AHEAD, Exchange, PeerGone
from .asgi_scope import Scopes

REQUEST_TAG = 0x50535201
HEADER_BYTES = HEADER.size
UNPACK_FROM = HEADER.unpack_from

# Of a request, which seldom has more, and of a body.
READ_BYTES = 16384
BLOCK_BYTES = 65536
# Reading pauses while the application has so much of a body before it.
BODY_AHEAD = 1 << 18


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
        self._watcher = server.watcher
        self._scopes = Scopes(server.lifespan_state)
        self._input = b""
        # What the kernel has not taken yet.
        self.output = bytearray()
        self._drained = None
        self._paused = False
        self._closed = False
        # Reading was shut down by us: an end of file means nothing then.
        self._shut = False
        self._watcher.add_reader(self.fileno, self.readable)

    def readable(self):
        """Reads what has arrived, once. True: there was something."""
        if self._closed:
            return False
        try:
            data = self.socket.recv(BLOCK_BYTES if self.exchange else READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            data = b""
        if not data:
            if self._shut:
                self._watcher.remove_reader(self.fileno)
            else:
                self.close()
            return False
        if self._input:
            data = self._input + data
        if self.exchange is None:
            self._begin(data)
        else:
            self._input = data
            self._advance()
        return True

    def wind_up(self):
        """No request after the current one, and none lost: what was sent before is readable, and a worker
        that sends later fails before anything was delivered, so that it can safely go elsewhere."""
        self.last = True
        if self._closed:
            return
        if self.exchange:
            self.exchange.server_stops()
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
        if self.output:
            self.output += data
            return
        try:
            sent = self.socket.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self.close()
            raise PeerGone("the client is gone") from error
        if sent < len(data):
            self.output += memoryview(data)[sent:]
            self._watcher.add_writer(self.fileno, self._flush)

    def is_backed_up(self):
        """Whether the peer has not taken enough of what it was sent."""
        return len(self.output) > OUTPUT_AHEAD

    async def drained(self):
        """Waits until the peer has taken enough of the response. Not worth a call before `is_backed_up`."""
        while self.is_backed_up() and not self._closed:
            if self._drained is None:
                self._drained = asyncio.Event()
            self._drained.clear()
            await self._drained.wait()

    def resume(self):
        """The application has taken what was read of its body."""
        if self._paused and not self._closed:
            self._paused = False
            self._watcher.add_reader(self.fileno, self.readable)

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
            if self._paused:
                self.resume()
            if self._server.stopping:
                self.wind_up()
            elif self._input:
                self._begin(self._input)
        else:
            self.resume()  # to skip the rest of its body

    def close(self):
        if self._closed:
            return
        self._closed = True
        self._watcher.remove_reader(self.fileno)
        self._watcher.remove_writer(self.fileno)
        self.socket.close()
        if self.exchange:
            self.exchange.peer_is_gone()
        if self._drained:
            self._drained.set()
        self._server.forget_connection(self)

    def _begin(self, data):
        """Starts the exchange if its request's head is complete."""
        available = len(data)
        if available < HEADER_BYTES:
            self._input = data
            return
        tag, head_bytes, number, body_bytes = UNPACK_FROM(data)
        if tag != REQUEST_TAG:
            self.close()
            return
        end = HEADER_BYTES + head_bytes
        if available < end:
            self._input = data
            return
        self._input = data[end:]
        scope = self._scopes.scope_of(data[HEADER_BYTES:end])
        kind = Exchange
        if scope["type"] == "websocket":
            # Imported on need: most applications never see one.
            from .asgi_websocket import WebSocket as kind
        exchange = self.exchange = kind(self, number, scope, body_bytes, self._server)
        if available > end:
            self._advance()
        # It may have answered when this returns.
        self._server.execute(exchange)

    def _advance(self):
        """Gives the exchange what has been read."""
        exchange = self.exchange
        if not exchange.request_complete:
            self._input = exchange.feed(self._input)
        # Nothing is asked of a worker that sends its next request too early, but to wait.
        is_ahead = exchange.body_ahead() > BODY_AHEAD or (self._input and exchange.request_complete)
        if is_ahead and not self._paused:
            self._paused = True
            self._watcher.remove_reader(self.fileno)
        if exchange.request_complete and exchange.response_complete:
            self.finish(exchange)

    def _flush(self):
        try:
            sent = self.socket.send(self.output)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.close()
            return
        del self.output[:sent]
        if not self.output:
            self._watcher.remove_writer(self.fileno)
            exchange = self.exchange
            if self.last and (exchange is None or exchange.response_complete):
                self.close()
        if self._drained and len(self.output) <= OUTPUT_AHEAD:
            self._drained.set()

    def _close_when_flushed(self):
        if not self.output:
            self.close()
