"""Loads one Python application and serves it to Apache's workers: WSGI (PEP 3333), or ASGI 3 if its callable is
asynchronous.

Started by the helper agent with the control socket on descriptor 3 and a listening Unix socket on
descriptor 4; docs/protocols.md, section 4, is the contract. The work is done in passenger_python/. Python 3.7 and later.
"""

import os
import sys

# Python puts this file's directory first, unless PYTHONSAFEPATH forbids it; `Start` replaces it by the application's.
if sys.path[:1] != [os.path.dirname(os.path.abspath(__file__))]:
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from passenger_python.start import Start, is_asynchronous  # noqa: E402


def main():
    start = Start("passenger_wsgi")
    application = start.load("application")
    # Only the one that is needed is imported: asyncio takes longer than all the rest.
    if is_asynchronous(application):
        from passenger_python.asgi_server import serve
    else:
        from passenger_python.wsgi_server import serve
    start.preload()
    serve(application, start)


if __name__ == "__main__":
    main()
