"""The connection scope of ASGI for a request's head, as the binary protocol has it (docs/protocols.md, section 4)."""

from urllib.parse import unquote_to_bytes

# What a worker says first, in this order, and what a request is taken to be about which it does not.
FIRST = {
    b"REQUEST_METHOD": b"GET", b"SCRIPT_NAME": b"", b"PATH_INFO": b"", b"QUERY_STRING": b"", b"REQUEST_URI": b"",
    b"SERVER_NAME": b"", b"SERVER_PORT": b"0", b"SERVER_PROTOCOL": b"HTTP/1.1", b"SERVER_SOFTWARE": b"",
    b"REMOTE_ADDR": b"", b"REMOTE_PORT": b"0",
}
NAMES_FIRST = list(FIRST)
PIECES_FIRST = 2 * len(FIRST)

# Header names as ASGI wants them, by their names in the protocol; empty for what is no header. Clients choose them, so
# the number is bounded.
MOST_NAMES = 1024
NAMES = {}
# Text that is the same in many requests. `Host` may be part of it, so the number is bounded.
MOST_TEXTS = 256
TEXTS = {}
VERSIONS = {b"HTTP/1.1": "1.1", b"HTTP/1.0": "1.0", b"HTTP/2.0": "2"}


def scope_of(head, state):
    """The connection scope of ASGI (HTTP and WebSocket, specification 2.4) for a request's head. Workers send
    `Upgrade: websocket` for requests that may be granted it, and no other value."""
    pieces = head.split(b"\0")
    rest = iter(pieces[PIECES_FIRST:])
    fields = dict(zip(rest, rest))
    if pieces[0:PIECES_FIRST:2] == NAMES_FIRST and FIRST.keys().isdisjoint(fields):
        values = pieces[1:PIECES_FIRST:2]
    else:  # something is not there, or set by the administrator, whose word wins
        values, fields = sorted_out(pieces)
    method, root, path, query, uri, server, server_port, protocol, software, client, client_port = values
    root = TEXTS.get(root) or text(root)
    path = path.decode("utf-8", "replace") if b"%" not in path else unescaped(path)
    raw_path = uri.partition(b"?")[0] if b"?" in uri else uri
    version = VERSIONS.get(protocol) or protocol.decode("latin-1").partition("/")[2]
    scheme = "http"
    if b"HTTPS" in fields and fields.pop(b"HTTPS") not in (b"", b"off", b"0"):
        scheme = "https"
    headers = []
    variables = {"SERVER_SOFTWARE": TEXTS.get(software) or text(software)}
    for pair in fields.items():
        name = NAMES.get(pair[0])
        if name is None:
            name = header_name(pair[0])
        if name:
            headers.append((name, pair[1]))
        else:
            variables[pair[0].decode("utf-8", "replace")] = pair[1].decode("utf-8", "replace")
    extensions = {"passenger": {"variables": variables}}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": version,
        "method": TEXTS.get(method) or text(method),
        "scheme": scheme,
        "path": root + path if root else path,
        "raw_path": raw_path,
        "query_string": query,
        "root_path": root,
        "headers": headers,
        "client": [client.decode("latin-1"), int(client_port or 0)],
        "server": [TEXTS.get(server) or text(server), int(server_port or 0)],
        "extensions": extensions,
    }
    if fields.get(b"HTTP_UPGRADE") == b"websocket":
        del scope["method"]
        scope["type"] = "websocket"
        scope["scheme"] = "wss" if scheme == "https" else "ws"
        scope["subprotocols"] = subprotocols(fields.get(b"HTTP_SEC_WEBSOCKET_PROTOCOL", b""))
        extensions["websocket.http.response"] = {}
    # Browsers heed a 103 over HTTP/2 alone, and some older clients take it for the response.
    if version == "2":
        extensions["http.response.early_hint"] = {}
    if state is not None:
        scope["state"] = state.copy()
    return scope


def sorted_out(pieces):
    """The values of FIRST, and all other fields."""
    pieces = iter(pieces)
    fields = dict(zip(pieces, pieces))
    return [fields.pop(name, value) for name, value in FIRST.items()], fields


def subprotocols(field):
    """What a client offers, in its order (RFC 6455 section 4.1)."""
    names = (name.strip() for name in field.decode("latin-1").split(","))
    return [name for name in names if name]


def header_name(name):
    lower = b""
    if name.startswith(b"HTTP_"):
        lower = name[5:].lower().replace(b"_", b"-")
    elif name in (b"CONTENT_TYPE", b"CONTENT_LENGTH"):
        lower = name.lower().replace(b"_", b"-")
    if len(NAMES) < MOST_NAMES:
        NAMES[name] = lower
    return lower


def text(value):
    decoded = value.decode("utf-8", "replace")
    if len(TEXTS) < MOST_TEXTS:
        TEXTS[value] = decoded
    return decoded


def unescaped(path):
    """Workers pass the path escaped; ASGI wants it decoded, as UTF-8."""
    return unquote_to_bytes(path).decode("utf-8", "replace")
