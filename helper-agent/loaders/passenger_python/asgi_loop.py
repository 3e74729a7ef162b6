"""The event loop of an ASGI application: asyncio's own, with a selector that serves connections of Apache's workers
itself, in the moment in which the kernel reports them.

Through `loop.add_reader` each readable connection costs a handle in the loop's queue, and the task that it makes begins
in the loop's next turn, after another `epoll_wait`. Here the task is in the queue when the same turn begins to work it off.
What the application waits for goes the loop's usual way.

A policy that the application has set (uvloop's), and a selector that it has put in the place of Python's (gevent's), are
respected: then the loop's own `add_reader` must do.
"""

import asyncio
import math
import os
import selectors
import sys
import traceback
import warnings
from select import EPOLLIN, EPOLLOUT

from .start import epoll

NOBODY = (None, None)
# Events that are taken at once.
MOST_EVENTS = 256


# gevent removes it from its module; then nobody makes a Selector.
EpollSelector = getattr(selectors, "EpollSelector", object)


class Selector(EpollSelector):
    """`EpollSelector` with descriptors that are not asyncio's business. For these it has the four methods of an event
    loop."""

    def __init__(self):
        super().__init__()
        # The same object of the kernel: what is registered at one is reported by the other.
        self._epoll = epoll.fromfd(os.dup(self.fileno()))
        self._watched = {}

    def add_reader(self, fileno, callback):
        self._watch(fileno, callback, self._watched.get(fileno, NOBODY)[1])

    def remove_reader(self, fileno):
        self._watch(fileno, None, self._watched.get(fileno, NOBODY)[1])

    def add_writer(self, fileno, callback):
        self._watch(fileno, self._watched.get(fileno, NOBODY)[0], callback)

    def remove_writer(self, fileno):
        self._watch(fileno, self._watched.get(fileno, NOBODY)[0], None)

    def close(self):
        self._epoll.close()
        super().close()

    def select(self, timeout=None):
        if timeout is None:
            timeout = -1
        elif timeout <= 0:
            timeout = 0
        else:
            # Milliseconds are what the kernel counts; rounded down, the loop would spin until they are over.
            timeout = math.ceil(timeout * 1e3) * 1e-3
        watched, keys = self._watched, self.get_map()
        events, others = self._epoll.poll(timeout, MOST_EVENTS), []
        for fileno, event in events:
            if fileno not in watched:
                key = keys.get(fileno)
                if key is not None:
                    others.append((key, event))
        # These run code of the application, which may close, reuse and watch descriptors.
        for fileno, event in events:
            callbacks = watched.get(fileno)
            if callbacks is None:
                continue
            reader, writer = callbacks
            try:
                if reader and event & ~EPOLLOUT:
                    reader()
                # The reader may have closed the connection.
                if writer and event & ~EPOLLIN and watched.get(fileno) is callbacks:
                    writer()
            except Exception:  # one connection's failure is not the loop's end
                traceback.print_exc(file=sys.stderr)
        return [(key, mask_of(event) & key.events) for key, event in others if keys.get(key.fd) is key]

    def _watch(self, fileno, reader, writer):
        mask = (EPOLLIN if reader else 0) | (EPOLLOUT if writer else 0)
        is_known = fileno in self._watched
        if not mask:
            if is_known:
                del self._watched[fileno]
                self._epoll.unregister(fileno)
            return
        self._watched[fileno] = (reader, writer)
        if is_known:
            self._epoll.modify(fileno, mask)
        else:
            self._epoll.register(fileno, mask)


def mask_of(event):
    return (event & ~EPOLLIN and selectors.EVENT_WRITE) | (event & ~EPOLLOUT and selectors.EVENT_READ)


class Loop(asyncio.SelectorEventLoop):
    """asyncio's loop with that selector."""

    def __init__(self):
        self.connections_watcher = Selector()
        super().__init__(self.connections_watcher)


def watcher(loop):
    """Who tells the server of readable connections, and how: the four methods of an event loop."""
    return getattr(loop, "connections_watcher", loop)


def run(main):
    """`asyncio.run` on that loop. Before Python 3.11 `asyncio.run` makes its loop itself."""
    if not hasattr(asyncio, "Runner"):
        asyncio.run(main)
        return
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main)


def new_loop():
    loop = asyncio.new_event_loop()
    if type(loop) is asyncio.SelectorEventLoop and nobody_chose_another():
        loop.close()
        loop = Loop()
    asyncio.set_event_loop(loop)
    return loop


def nobody_chose_another():
    """Whether policy and selector are Python's own: the application may have set or replaced them."""
    if selectors.DefaultSelector is not EpollSelector:
        return False
    # Deprecated since Python 3.14, and to be removed.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        policy_of = getattr(asyncio, "get_event_loop_policy", None)
        return policy_of is None or type(policy_of()).__module__ == "asyncio.unix_events"
