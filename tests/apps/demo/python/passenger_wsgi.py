"""The WSGI demo of `make run`: what this process is, what the request brought, a form, a ticker."""

import html
import os
import platform
import pwd
import re
import time
from urllib.parse import parse_qsl

SECONDS = 60
STARTED = time.strftime("%F %T")
INTERESTING = re.compile(r"PASSENGER|_ENV$|^(HOME|LANG|PATH|USER)$")
served = 0

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Python in Apache</title>
<link rel="stylesheet" href="style.css">
<body class="python">
<header>
  <h1>Python in Apache</h1>
  <p>A WSGI application, answered by process {pid}</p>
</header>
{arrived}
<section><h2>This process</h2>{process}</section>
<section><h2>A form that posts</h2>
  <form method="post" action="form">
    <label>Your name <input name="name" placeholder="Ada"></label>
    <label>A message <textarea name="message" rows="3"></textarea></label>
    <button>Send</button>
  </form>
</section>
<section id="ticker"><h2>Server-sent events</h2>
  <button>Start</button> <button>Stop</button>
  <output></output>
  <p class="note">One event a second, for a minute. This process handles one request at a time, so the stream
  occupies it: other requests go to another process, which is started when none is free.</p>
</section>
<section><h2>This request</h2>
  <details><summary>{count} variables</summary>{request}</details>
</section>
<section><h2>Environment of the process</h2>{environment}</section>
<script src="ticker.js"></script>
"""


def application(environ, start_response):
    global served
    served += 1
    path = environ["PATH_INFO"]
    if path in ("/", "/form"):
        start_response("200 OK", [("Content-Type", "text/html; charset=utf-8")])
        return [page(environ).encode("utf-8", "replace")]
    if path == "/events":
        start_response("200 OK", [("Content-Type", "text/event-stream"), ("Cache-Control", "no-cache")])
        return ticker()
    start_response("404 Not Found", [("Content-Type", "text/plain")])
    return [b"Nothing is here.\n"]


def ticker():
    """One event a second for a minute. When the visitor leaves, writing fails and this generator is closed."""
    for tick in range(1, SECONDS + 1):
        now = time.strftime("%T")
        yield f"data: tick {tick} of {SECONDS} from process {os.getpid()} at {now}\n\n".encode()
        time.sleep(1)
    yield b"event: end\ndata: bye\n\n"


def page(environ):
    request = {name: value for name, value in sorted(environ.items())
               if isinstance(value, str) and not name.startswith("wsgi.")}
    return PAGE.format(
        pid=os.getpid(),
        arrived=arrived(environ),
        process=table(process()),
        count=len(request),
        request=table(request),
        environment=table({name: value for name, value in sorted(os.environ.items()) if INTERESTING.search(name)}),
    )


def process():
    return {
        "Process": os.getpid(),
        "User": f"{user_name()} ({os.getuid()})",
        "Directory": os.getcwd(),
        "Version": f"Python {platform.python_version()}",
        "Started": STARTED,
        "Requests so far": served,
    }


def user_name():
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return "?"


def arrived(environ):
    """What a form sent."""
    if environ["REQUEST_METHOD"] != "POST":
        return ""
    body = environ["wsgi.input"].read()
    rows = {"Type": environ.get("CONTENT_TYPE", ""), "Bytes": len(body)}
    rows.update(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
    return f"<section><h2>What arrived</h2>{table(rows)}</section>"


def table(rows):
    cells = (f"<tr><th>{html.escape(str(name))}</th><td>{html.escape(str(value))}</td></tr>"
             for name, value in rows.items())
    return f"<table>{''.join(cells)}</table>"
