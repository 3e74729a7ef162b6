"""Serves one ASGI 3 application to Apache's workers, on one event loop: accepts their connections, obeys the agent,
and tells the application of its start and end (lifespan). What happens on one connection is in asgi_connection.py.

Requests at once are unlimited: an ASGI application waits for many things at the same time, and how many it can
stand is for the administrator to say (PassengerForceMaxConcurrentRequestsPerProcess).
"""

import asyncio
import errno
import socket
import struct
import sys
import traceback

from . import asgi_loop, asgi_task
from .asgi_connection import Connection
from .asgi_exchange import PeerGone

# Credentials of a Unix socket's peer: pid, uid, gid.
UCRED = struct.Struct("iII")
# How long an application may take to notice that its WebSocket is over, when the process ends.
UPGRADED_GRACE = 5
# Without it the loop would spin when no descriptor is left: the listener stays ready.
PAUSE_AFTER_FAILED_ACCEPT = 0.1


class Lifespan:
    """The application's start and end, as the specification's lifespan protocol. An application that does not
    know it fails at the unknown scope, which is in order: it gets requests all the same."""

    def __init__(self, application):
        self.state = {}
        self._application = application
        self._events = asyncio.Queue()
        self._answer = None
        self._task = None
        self._knows_it = False

    async def start(self):
        """Returns why the application refuses to start, or None."""
        # Before the task, which may be eager and answer at once.
        self._tell("lifespan.startup")
        self._task = asyncio.ensure_future(self._run())
        return await self._outcome()

    async def end(self):
        if not self._task.done():
            self._tell("lifespan.shutdown")
            failure = await self._outcome()
            if failure is not None:
                print("The application's shutdown failed:", failure, file=sys.stderr)

    def _tell(self, event):
        self._answer = asyncio.get_running_loop().create_future()
        self._events.put_nowait({"type": event})

    async def _outcome(self):
        await asyncio.wait({self._answer, self._task}, return_when=asyncio.FIRST_COMPLETED)
        return self._answer.result() if self._answer.done() else None

    async def _run(self):
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        try:
            await self._application(scope, self._receive, self._send)
        except Exception:
            if self._knows_it and not self._answer.done():
                traceback.print_exc()

    async def _receive(self):
        self._knows_it = True
        return await self._events.get()

    async def _send(self, event):
        phase, _, outcome = event["type"].rpartition(".")
        if phase not in ("lifespan.startup", "lifespan.shutdown") or outcome not in ("complete", "failed"):
            raise RuntimeError("{!r} is not an event of the lifespan protocol".format(event["type"]))
        if not self._answer.done():
            self._answer.set_result(event.get("message", "") if outcome == "failed" else None)


class Server:
    """All connections and requests of this process."""

    def __init__(self, application, control, listener, settings, out_of_band, lifespan_state):
        self.loop = asyncio.get_running_loop()
        # Tells connections when they can be read or written.
        self.watcher = asgi_loop.watcher(self.loop)
        self.stopping = False
        self.lifespan_state = lifespan_state
        self.out_of_band = out_of_band
        self._application = application
        self._control = control
        self._listener = socket.socket(fileno=listener.detach())
        self._listener.setblocking(False)
        self._peer_uid = settings.peer_uid
        self._connections = set()
        # Each exchange whose application has not returned, and its task (None while that is being made).
        self._executing = {}
        self._start_task = asgi_task.starter(self.loop)
        self._turn = 0
        self._ended = asyncio.Event()
        # The loop itself keeps no reference that would keep a task alive.
        self._work_task = None

    async def run(self):
        self.loop.add_reader(self._control.socket, self._obey)
        self.loop.add_reader(self._listener, self._accept_all)
        await self._ended.wait()

    def execute(self, exchange):
        """Runs the application on a request whose head has been read."""
        self._turn += 1
        exchange.connection.last_used = self._turn
        executing = self._executing
        executing[exchange] = None
        task = self._start_task(self._call(exchange))
        # It may have run to its end by now.
        if exchange in executing:
            executing[exchange] = task

    def forget_connection(self, connection):
        self._connections.discard(connection)
        self._end_if_done()

    def forget(self):
        """In a child the application forked: let go of what belongs to the parent, without disturbing it."""
        for connection in self._connections:
            connection.socket.close()
        self._listener.close()
        self._control.socket.close()

    async def _call(self, exchange):
        failure = None
        try:
            await exchange.run(self._application)
            if not (exchange.response_complete or exchange.is_upgraded or exchange.is_abandoned()):
                print(where(exchange) + "the application returned before its response was complete", file=sys.stderr)
        except Exception as error:
            failure = error
            if not (exchange.is_abandoned() and caused_by_peer(error)):
                sys.stderr.write(where(exchange) + traceback.format_exc())
        finally:
            del self._executing[exchange]
            if not exchange.response_complete:
                exchange.application_returned(failure)
            if self.stopping:
                self._end_if_done()

    def _accept_all(self):
        while True:
            try:
                accepted, _address = self._listener.accept()
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EINVAL):  # EINVAL: after shutdown, none left
                    print("Cannot accept a connection from Apache:", error, file=sys.stderr)
                    self._make_room()
                    self.loop.remove_reader(self._listener)
                    self.loop.call_later(PAUSE_AFTER_FAILED_ACCEPT, self._listen_again)
                return
            self._admit(accepted)

    def _listen_again(self):
        if not self.stopping:
            self.loop.add_reader(self._listener, self._accept_all)

    def _admit(self, accepted):
        peer = accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size)
        _pid, uid, _gid = UCRED.unpack(peer)
        if uid not in (0, self._peer_uid):
            accepted.close()
            return
        accepted.setblocking(False)
        connection = Connection(accepted, self)
        self._turn += 1
        connection.last_used = self._turn
        self._connections.add(connection)
        connection.readable()

    def _make_room(self):
        """Closes the connection that has been idle longest, without losing a request that is on its way."""
        idle = [one for one in self._connections if one.exchange is None]
        if idle:
            min(idle, key=lambda connection: connection.last_used).wind_up()

    def _obey(self):
        for line in self._control.lines():
            if line is None or line == "stop":
                self._stop()
            elif line.startswith("busy? "):
                self._report(line[6:])
            elif line.startswith("work "):
                self._work_task = self.loop.create_task(self._work(line[5:], self._work_task))

    def _report(self, token):
        """Answers only when every request sent before the question has been read."""
        self._accept_all()
        for connection in [one for one in self._connections if one.exchange is None]:
            connection.readable()
        # Upgraded ones gave their seats back.
        numbers = [str(exchange.number) for exchange in self._executing if not exchange.is_upgraded]
        self._control.say("busy", token, *numbers)

    async def _work(self, token, before):
        """Out-of-band work; its callbacks may be asynchronous. No request comes until the agent is told. One that took
        the place of the agent that asked first asks again, and hears of the end of the same work."""
        if before is not None:
            await before
        for callback in self.out_of_band.take():
            try:
                result = callback()
                if hasattr(result, "__await__"):
                    await result
            except Exception:
                self.out_of_band.log_exception()
        self.out_of_band.done(token)

    def _stop(self):
        """No new connection, then one last look at each."""
        if self.stopping:
            return
        self.stopping = True
        self.loop.remove_reader(self._control.socket)
        self._listener.shutdown(socket.SHUT_RD)
        self._accept_all()
        self.loop.remove_reader(self._listener)
        for connection in list(self._connections):
            connection.wind_up()
        self.loop.call_later(UPGRADED_GRACE, self._cancel_upgraded)
        self._end_if_done()

    def _cancel_upgraded(self):
        """An application that waits for something else than its WebSocket would keep this process for ever."""
        for exchange, task in list(self._executing.items()):
            if exchange.is_upgraded and task is not None:
                task.cancel()

    def _end_if_done(self):
        if self.stopping and not self._connections and not self._executing:
            self._ended.set()


def where(exchange):
    return "{} {}: ".format(exchange.scope.get("method", "WebSocket"), exchange.scope["path"])


def caused_by_peer(error):
    """Frameworks wrap what `send` raised when the client went away."""
    seen = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, PeerGone):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def serve(application, start):
    """Runs the application until the agent says stop."""
    asgi_loop.run(_serve(application, start))


async def _serve(application, start):
    lifespan = Lifespan(application)
    refusal = await lifespan.start()
    if refusal is not None:
        print(refusal, file=sys.stderr)
        lines = refusal.strip().splitlines()
        start.fail("the application refused to start: " + (lines[-1] if lines else "it does not say why"))
    start.control.say("step", "listen")
    server = Server(application, start.control, start.listener, start.settings, start.out_of_band, lifespan.state)
    start.ready(server, 0)
    await server.run()
    await lifespan.end()
