"""The app of tests/chaos in Python; README.md lists what it answers."""
import os
import time


def application(environ, start_response):
    path = environ["PATH_INFO"]
    name, _, number = environ["QUERY_STRING"].partition("&")
    headers = [("Content-Type", "text/plain")]
    line = name.encode() + b"\n"
    if path == "/once":
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        with open("posts.log", "ab") as log:
            log.write(line)
    elif path == "/generation":
        body = os.environ.get("CHAOS_GENERATION", "").encode()
    elif path == "/slow":
        time.sleep(int(number) / 1000)
        body = line
    else:
        body = (line * (int(number) // len(line) + 1))[: int(number)]
        if path == "/stream":
            start_response("200 OK", headers)
            return (body[at : at + 8192] for at in range(0, len(body), 8192))
    start_response("200 OK", headers + [("Content-Length", str(len(body)))])
    return [body]
