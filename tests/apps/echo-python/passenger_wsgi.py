"""Answers what it got. The parameters are described in tests/apps/README.md."""

import hashlib
import json
import os
import subprocess
import sys
import time
from urllib.parse import parse_qsl

ALPHABET = b"abcdefghijklmnopqrstuvwxyz"
LIST_DESCRIPTORS = 'for fd in /proc/self/fd/*; do readlink "$fd" || :; done'


def application(environ, start_response):
    query = parse_qsl(environ["QUERY_STRING"], keep_blank_values=True)
    options = dict(query)
    body = read_body(environ["wsgi.input"])

    if "crash" in options:
        os._exit(7)
    if "raise" in options:
        raise ValueError("echo: raising, as asked")
    if "log" in options:
        print(options["log"])
        print("err: " + options["log"], file=sys.stderr)
    if "sleep_ms" in options:
        time.sleep(float(options["sleep_ms"]) / 1000)

    status = options.get("status", "200") + " Chosen"
    headers = [tuple(value.split(":", 1)) for name, value in query if name == "header"]
    kind = "text/plain"
    if "bytes" in options:
        length = int(options["bytes"])
        headers.append(("Content-Length", str(length)))
        answer = [(ALPHABET * (length // 26 + 1))[:length]]
    elif "chunks" in options:
        answer = chunks(options)
    elif "child_fds" in options:
        # Only close-on-exec protects here: subprocess would close everything by itself.
        answer = [subprocess.run(["sh", "-c", LIST_DESCRIPTORS], close_fds=False, stdout=subprocess.PIPE, check=True).stdout]
    elif "fork_fds" in options:
        answer = [descriptors_of_fork()]
    else:
        kind = "application/json"
        answer = [] if status[:3] in ("204", "304") else [report(environ, body)]
    start_response(status, headers + ([("Content-Type", kind)] if status[:3] not in ("204", "304") else []))
    return answer


def read_body(stream):
    digest = hashlib.sha256()
    length = 0
    for piece in iter(lambda: stream.read(65536), b""):
        digest.update(piece)
        length += len(piece)
    return {"length": length, "sha256": digest.hexdigest()}


def chunks(options):
    for number in range(int(options["chunks"])):
        if number == int(options.get("fail_after", "-1")):
            raise RuntimeError("echo: failing after %d chunks, as asked" % number)
        if number:
            time.sleep(float(options.get("chunk_ms", "0")) / 1000)
        yield b"chunk %d\n" % number


def descriptors_of_fork():
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        links = []
        for name in os.listdir("/proc/self/fd"):
            try:
                links.append(os.readlink("/proc/self/fd/" + name))
            except OSError:
                pass
        os.write(writer, "\n".join(links).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        listing = stream.read()
    os.waitpid(pid, 0)
    return listing


def report(environ, body):
    strings = {name: value for name, value in environ.items() if isinstance(value, str) and not name.startswith("wsgi.")}
    headers = {name: value for name, value in strings.items() if name.startswith(("HTTP_", "CONTENT_"))}
    return json.dumps({
        "language": "python", "pid": os.getpid(), "uid": os.getuid(), "cwd": os.getcwd(),
        "method": environ["REQUEST_METHOD"], "script_name": environ["SCRIPT_NAME"], "path": environ["PATH_INFO"],
        "query": environ["QUERY_STRING"], "uri": environ["REQUEST_URI"],
        "headers": {(name[5:] if name.startswith("HTTP_") else name).lower().replace("_", "-"): value
                    for name, value in headers.items()},
        "env": strings, "process_env": dict(os.environ), "body": body,
    }).encode()
