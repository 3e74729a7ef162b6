"""How the task of a request begins. Each request is a task of its own with a context of its own, as applications expect.

A task that is made the usual way begins when the loop comes to it, by a handle in the loop's queue. Here it begins at once,
as far as its first wait, which for many requests is the whole of it: it is asyncio's own task all the same, only its first
step need not queue. From Python 3.12 on that is what asyncio calls an eager task. Python 3.11's would queue its first step
by `call_soon`, where it is taken.

Not so if the application wants tasks made in its own way (a task factory, another loop, debug mode), or if a request is
begun by another task, which then must wait first.
"""

import contextvars
import sys
from asyncio import Task, current_task

from .asgi_loop import Loop


def starter(loop):
    """What begins a coroutine as a task of this loop, and returns the task."""
    if type(loop) is not Loop or loop.get_debug() or Task.__module__ != "_asyncio":
        return Queued(loop).start
    if sys.version_info >= (3, 12):
        return Eager(loop).start
    return (FirstStepTaken if sys.version_info >= (3, 11) else Queued)(loop).start


class Queued:
    """Tasks as `create_task` makes them."""

    def __init__(self, loop):
        self._loop = loop
        # Where each request begins. A connection may be read while the application of its last request is still at work,
        # or by a handle that was made then: what that one has put into its context is not for the next.
        self._context = contextvars.copy_context()
        # Or each would get a name with a number in it, for a fortieth of what a request costs.
        self._name = {"name": "request"} if sys.version_info >= (3, 8) else {}

    def start(self, coroutine):
        return self._context.copy().run(self._loop.create_task, coroutine, **self._name)


class Eager(Queued):
    """Tasks that asyncio itself begins at once."""

    def start(self, coroutine):
        loop = self._loop
        if loop.get_task_factory() is not None or current_task(loop) is not None:
            return super().start(coroutine)
        return Task(coroutine, loop=loop, name="request", context=self._context.copy(), eager_start=True)


class FirstStepTaken(Queued):
    """Tasks whose first step is done here."""

    def __init__(self, loop):
        super().__init__(loop)
        self._own_context = self._step = None

    def start(self, coroutine):
        loop = self._loop
        if loop.get_task_factory() is not None or current_task(loop) is not None:
            return super().start(coroutine)
        context = self._own_context = self._context.copy()
        loop.call_soon = self._call_soon
        try:
            task = Task(coroutine, loop=loop, name="request", context=context)
        finally:
            del loop.call_soon
        step, self._step, self._own_context = self._step, None, None
        if step is not None:
            context.run(step)
        return task

    def _call_soon(self, callback, *args, context=None):
        """In the place of the loop's, while the task is being made. Memory may be tidied up meanwhile, which may call for
        anything; only the new task can name its context."""
        if context is self._own_context and not args:
            self._step = callback
            return None
        return type(self._loop).call_soon(self._loop, callback, *args, context=context)
