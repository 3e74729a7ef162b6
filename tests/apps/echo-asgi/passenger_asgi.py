"""Answers what it got. The parameters are described in tests/apps/README.md."""

import asyncio
import hashlib
import json
import os
import subprocess
import sys
from urllib.parse import parse_qsl

ALPHABET = b"abcdefghijklmnopqrstuvwxyz"
LIST_DESCRIPTORS = 'for fd in /proc/self/fd/*; do readlink "$fd" || :; done'


async def application(scope, receive, send):
    assert scope["type"] == "http"
    query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    options = dict(query)
    body = await read_body(receive)
    if body is None:
        return

    if "crash" in options:
        os._exit(7)
    if "raise" in options:
        raise ValueError("echo: raising, as asked")
    if "log" in options:
        print(options["log"])
        print("err: " + options["log"], file=sys.stderr)
    if "sleep_ms" in options:
        await asyncio.sleep(float(options["sleep_ms"]) / 1000)

    status = int(options.get("status", "200"))
    headers = [tuple(part.encode("latin-1") for part in value.split(":", 1)) for name, value in query if name == "header"]
    kind = b"text/plain"
    answer = b""
    if "bytes" in options:
        length = int(options["bytes"])
        headers.append((b"content-length", b"%d" % length))
        answer = (ALPHABET * (length // 26 + 1))[:length]
    elif "child_fds" in options:
        # Only close-on-exec protects here: subprocess would close everything by itself.
        answer = subprocess.run(["sh", "-c", LIST_DESCRIPTORS], close_fds=False, stdout=subprocess.PIPE, check=True).stdout
    elif "fork_fds" in options:
        answer = descriptors_of_fork()
    elif "chunks" not in options and status not in (204, 304):
        kind = b"application/json"
        answer = report(scope, body)
    if status not in (204, 304):
        headers.append((b"content-type", kind))

    await send({"type": "http.response.start", "status": status, "headers": headers})
    if "chunks" in options:
        await send_chunks(send, options)
    await send({"type": "http.response.body", "body": answer})


async def read_body(receive):
    digest = hashlib.sha256()
    length = 0
    more = True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            return None
        digest.update(event["body"])
        length += len(event["body"])
        more = event["more_body"]
    return {"length": length, "sha256": digest.hexdigest()}


async def send_chunks(send, options):
    for number in range(int(options["chunks"])):
        if number == int(options.get("fail_after", "-1")):
            raise RuntimeError("echo: failing after %d chunks, as asked" % number)
        if number:
            await asyncio.sleep(float(options.get("chunk_ms", "0")) / 1000)
        await send({"type": "http.response.body", "body": b"chunk %d\n" % number, "more_body": True})


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


def report(scope, body):
    query = scope["query_string"].decode("latin-1")
    uri = scope["raw_path"].decode("latin-1") + ("?" + query if query else "")
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    return json.dumps({
        "language": "asgi", "pid": os.getpid(), "uid": os.getuid(), "cwd": os.getcwd(),
        "method": scope["method"], "script_name": scope["root_path"], "path": scope["path"],
        "query": query, "uri": uri, "headers": headers,
        "env": scope["extensions"]["passenger"]["variables"], "process_env": dict(os.environ), "body": body,
    }).encode()
