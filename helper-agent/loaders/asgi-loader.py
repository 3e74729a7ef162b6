"""Loads one ASGI 3 application and serves it to Apache's workers.

Started by the helper agent with the control socket on descriptor 3 and a listening Unix socket on
descriptor 4; docs/protocols.md, section 4, is the contract. The work is done in passenger_python/. Python 3.7 and later.
"""

import os
import sys

# Python puts this file's directory first, unless PYTHONSAFEPATH forbids it; `Start` replaces it by the application's.
if sys.path[:1] != [os.path.dirname(os.path.abspath(__file__))]:
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from passenger_python.start import Start  # noqa: E402


def main():
    start = Start("passenger_asgi")
    application = start.load("application", "app")
    from passenger_python.asgi_server import serve
    start.preload()
    serve(application, start)


if __name__ == "__main__":
    main()
