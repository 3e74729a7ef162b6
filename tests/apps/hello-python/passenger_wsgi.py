"""The smallest WSGI application: who am I?"""

import os


def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"Hello from Python %d\n" % os.getpid()]
