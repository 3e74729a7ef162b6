"""The connection scope of ASGI for a request's head, as the binary protocol has it (docs/protocols.md, section 4)."""

from urllib.parse import unquote_to_bytes

# Header names as ASGI wants them, by their names in the protocol. Clients choose them, so the number is bounded.
MOST_NAMES = 1024
NAMES = {}


def scope_of(head, state):
    """The connection scope of ASGI (HTTP and WebSocket, specification 2.4) for a request's head. Workers send
    `Upgrade: websocket` for requests that may be granted it, and no other value."""
    pieces = iter(head.split(b"\0"))
    fields = dict(zip(pieces, pieces))
    take = fields.pop
    headers, variables = [], {}
    method = take(b"REQUEST_METHOD").decode("latin-1")
    root = take(b"SCRIPT_NAME", b"").decode("utf-8", "replace")
    version = take(b"SERVER_PROTOCOL", b"HTTP/1.1").decode("latin-1").partition("/")[2]
    client = [take(b"REMOTE_ADDR", b"").decode("latin-1"), int(take(b"REMOTE_PORT", b"0") or 0)]
    server = [take(b"SERVER_NAME", b"").decode("latin-1"), int(take(b"SERVER_PORT", b"0") or 0)]
    query = take(b"QUERY_STRING", b"")
    raw_path = take(b"REQUEST_URI", b"").partition(b"?")[0]
    path = root + decode_path(take(b"PATH_INFO", b""))
    scheme = "http" if take(b"HTTPS", b"") in (b"", b"off", b"0") else "https"
    for name, value in fields.items():
        if name.startswith(b"HTTP_") or name in (b"CONTENT_TYPE", b"CONTENT_LENGTH"):
            headers.append((NAMES.get(name) or header_name(name), value))
        else:
            variables[name.decode("utf-8", "replace")] = value.decode("utf-8", "replace")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "2" if version == "2.0" else version,
        "scheme": scheme,
        "path": path,
        "raw_path": raw_path,
        "query_string": query,
        "root_path": root,
        "headers": headers,
        "client": client,
        "server": server,
        "extensions": {"passenger": {"variables": variables}},
    }
    if fields.get(b"HTTP_UPGRADE") == b"websocket":
        scope["type"] = "websocket"
        scope["scheme"] = "wss" if scheme == "https" else "ws"
        scope["subprotocols"] = subprotocols(fields.get(b"HTTP_SEC_WEBSOCKET_PROTOCOL", b""))
        scope["extensions"]["websocket.http.response"] = {}
    else:
        scope["method"] = method
    # Browsers heed a 103 over HTTP/2 alone, and some older clients take it for the response.
    if version == "2.0":
        scope["extensions"]["http.response.early_hint"] = {}
    if state is not None:
        scope["state"] = state.copy()
    return scope


def subprotocols(field):
    """What a client offers, in its order (RFC 6455 section 4.1)."""
    names = (name.strip() for name in field.decode("latin-1").split(","))
    return [name for name in names if name]


def header_name(name):
    lower = (name[5:] if name.startswith(b"HTTP_") else name).lower().replace(b"_", b"-")
    if len(NAMES) < MOST_NAMES:
        NAMES[name] = lower
    return lower


def decode_path(path):
    """Workers pass the path escaped; ASGI wants it decoded, as UTF-8."""
    if b"%" not in path:
        return path.decode("utf-8", "replace")
    return unquote_to_bytes(path).decode("utf-8", "replace")
