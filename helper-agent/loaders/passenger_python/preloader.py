"""A process that has loaded an application and forks its workers, which share that memory until they write to it.
docs/protocols.md, section 4 ("Preloader"), is the contract.

A worker is the child of a child that ends at once, so that it becomes the agent's child: the agent watches and reaps
it like any other process, and it outlives the preloader.
"""

import _signal as signal
import _socket as socket
import array
import gc
import os
import sys

# Descriptors that come with a `fork`: control socket, listening socket, output.
HANDED_OVER = 3


def run(start):
    """Forks a worker whenever the agent asks for one. Returns in each worker, with `start` made its own; the preloader
    itself ends in here, without the application's atexit functions: these are for the workers."""
    signal.signal(signal.SIGTERM, lambda *_signal: os._exit(0))
    warn_of_threads()
    warn_of_shared_connections(start)
    # What is frozen is never looked at by a collection again, which would write to it and so unshare its memory.
    gc.collect()
    gc.freeze()
    start.control.say("preloaded")
    lines, handed = Lines(start.control.socket), []
    while True:
        for line in lines.wait(handed):
            if line is None or line == b"stop":
                os._exit(0)
            if line == b"fork":
                mine, handed[:HANDED_OVER] = handed[:HANDED_OVER], []
                if fork_worker(start, *mine):
                    return


class Lines:
    """Lines from the agent, and the descriptors that come with them."""

    def __init__(self, control):
        self._control = control
        self._input = b""

    def wait(self, handed):
        """The complete lines of the next piece; None means that it is time to go. Adds its descriptors to `handed`."""
        numbers = array.array("i")
        room = socket.CMSG_SPACE(16 * numbers.itemsize)
        try:
            piece, ancillary, _flags, _address = self._control.recvmsg(4096, room)
        except OSError:
            return [None]
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                numbers.frombytes(data[:len(data) - len(data) % numbers.itemsize])
        handed.extend(numbers)
        if not piece:
            return [None]
        *complete, self._input = (self._input + piece).split(b"\n")
        return complete


def fork_worker(start, control, listener, output):
    """True in the worker, False in the preloader."""
    flush()
    gate_out, gate_in = os.pipe()
    try:
        child = os.fork()
    except OSError as error:
        # The agent sees that nobody has the worker's sockets any more, and starts a process without us.
        start.control.error("fork", "cannot fork: {}".format(error))
        close(gate_out, gate_in, control, listener, output)
        return False
    if child:
        close(gate_out, control, listener, output)
        os.waitpid(child, 0)
        os.close(gate_in)  # Only now is the worker the agent's child, and says that it is there.
        return False
    try:
        if os.fork():
            os._exit(0)
        os.close(gate_in)
        os.setsid()
        take_output(start, output)
        os.read(gate_out, 1)
        os.close(gate_out)
    except OSError as error:
        print("Cannot become a worker:", error, file=sys.stderr)
        os._exit(1)
    start.become_worker(control, listener)
    start.control.say("step", "fork")
    if not start.control.hears_go():
        os._exit(0)  # nobody knows this process
    return True


def take_output(start, output):
    """What an application has redirected itself stays as it is."""
    for number in (1, 2):
        if os.fstat(number).st_ino == start.output:
            os.dup2(output, number)
    os.close(output)


def close(*descriptors):
    for descriptor in descriptors:
        os.close(descriptor)


def flush():
    """Or each worker would print it again."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass


def warn_of_threads():
    threading = sys.modules.get("threading")
    if threading is None:
        return
    others = [thread.name for thread in threading.enumerate() if thread is not threading.current_thread()]
    if others:
        print("The application started threads while it was loaded, which its processes will not have: {}. Start them "
              "in phusion_passenger.on_event('starting_worker_process'), or set PassengerSpawnMethod direct."
              .format(", ".join(others)), file=sys.stderr)


def warn_of_shared_connections(start):
    peers = sorted({peer for peer in map(peer_of, os.listdir("/proc/self/fd")) if peer})
    if peers:
        print("The application opened connections while it was loaded, which all its processes will share: {}. Open "
              "them in phusion_passenger.on_event('starting_worker_process'), or set PassengerSpawnMethod direct."
              .format(", ".join(peers)), file=sys.stderr)


def peer_of(descriptor):
    """Whom a socket is connected to; None for one without a name, as the control socket's peer is."""
    try:
        if not os.readlink("/proc/self/fd/" + descriptor).startswith("socket:"):
            return None
        connection = socket.socket(fileno=os.dup(int(descriptor)))
    except OSError:  # the directory itself, closed again
        return None
    try:
        peer = connection.getpeername()
    except OSError:
        return None
    finally:
        connection.close()
    if isinstance(peer, tuple):
        return "{}:{}".format(*peer)
    return peer if isinstance(peer, str) and peer else None
