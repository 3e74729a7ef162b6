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
NONE_OF_FIRST = FIRST.keys().isdisjoint

# Header names as ASGI wants them, by their names in the protocol; empty for what is no header. Clients choose them, so
# the number is bounded.
MOST_NAMES = 1024
NAMES = {}
# Text that is the same in many requests. `Host` may be part of it, so the number is bounded.
MOST_TEXTS = 256
TEXTS = {}
# A client's connection often has more than one request.
MOST_CLIENTS = 1024
CLIENTS = {}
VERSIONS = {b"HTTP/1.1": "1.1", b"HTTP/1.0": "1.0", b"HTTP/2.0": "2"}


class Scopes:
    """Makes the scopes of one connection's requests."""

    __slots__ = ("_state", "_is_usual", "_server", "_address", "_software", "_template")

    def __init__(self, state):
        self._state = state
        # Whether heads begin with FIRST: the first one shows it.
        self._is_usual = None
        # What the last head said of the server, and the scope without what is the request's own.
        self._server = self._address = self._software = self._template = None


    def scope_of(self, head):
        """The connection scope of ASGI (HTTP and WebSocket, specification 2.4) for a request's head. Workers send
        `Upgrade: websocket` for requests that may be granted it, and no other value."""
        pieces = head.split(b"\0")
        if self._is_usual is None:
            self._is_usual = pieces[0:PIECES_FIRST:2] == NAMES_FIRST
        rest = iter(pieces[PIECES_FIRST:])
        fields = dict(zip(rest, rest))
        if self._is_usual and NONE_OF_FIRST(fields):
            values = pieces[1:PIECES_FIRST:2]
        else:  # something is not there, or set by the administrator, whose word wins
            values, fields = sorted_out(pieces)
        if values[5:9] != self._server:
            self._remember(values[5:9])
        method, root, path, query, uri, _name, _port, _protocol, _software, client, client_port = values
        scope = self._template.copy()
        headers = []
        variables = {"SERVER_SOFTWARE": self._software}
        extensions = {"passenger": {"variables": variables}}
        for name, value in fields.items():
            lower = NAMES.get(name)
            if lower is None:
                lower = header_name(name)
            if lower:
                headers.append((lower, value))
            elif name == b"HTTPS":
                if value not in (b"", b"off", b"0"):
                    scope["scheme"] = "https"
            else:
                variables[name.decode("utf-8", "replace")] = value.decode("utf-8", "replace")
        path = unescaped(path) if b"%" in path else path.decode("utf-8", "replace")
        if root:
            scope["root_path"] = root = TEXTS.get(root) or text(root)
            path = root + path
        scope["asgi"] = {"version": "3.0", "spec_version": "2.4"}
        if method != b"GET":
            scope["method"] = TEXTS.get(method) or text(method)
        scope["path"] = path
        scope["raw_path"] = uri.partition(b"?")[0] if b"?" in uri else uri
        scope["query_string"] = query
        scope["headers"] = headers
        known = CLIENTS.get((client, client_port))
        scope["client"] = known.copy() if known else client_of(client, client_port)
        scope["server"] = self._address.copy()
        scope["extensions"] = extensions
        if b"HTTP_UPGRADE" in fields and fields[b"HTTP_UPGRADE"] == b"websocket":
            del scope["method"]
            scope["type"] = "websocket"
            scope["scheme"] = "wss" if scope["scheme"] == "https" else "ws"
            scope["subprotocols"] = subprotocols(fields.get(b"HTTP_SEC_WEBSOCKET_PROTOCOL", b""))
            extensions["websocket.http.response"] = {}
        # Browsers heed a 103 over HTTP/2 alone, and some older clients take it for the response.
        if scope["http_version"] == "2":
            extensions["http.response.early_hint"] = {}
        scope["state"] = self._state.copy()
        return scope

    def _remember(self, server):
        """Prepares for more requests to the same server."""
        self._server = server
        name, port, protocol, software = server
        self._software = TEXTS.get(software) or text(software)
        self._address = [TEXTS.get(name) or text(name), int(port or 0)]
        self._template = {
            "type": "http",
            "asgi": None,
            "http_version": VERSIONS.get(protocol) or protocol.decode("latin-1").partition("/")[2],
            "method": "GET",
            "scheme": "http",
            "path": "",
            "raw_path": b"",
            "query_string": b"",
            "root_path": "",
            "headers": None,
            "client": None,
            "server": None,
            "extensions": None,
            "state": None,
        }


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


def client_of(address, port):
    client = [address.decode("latin-1"), int(port or 0)]
    if len(CLIENTS) >= MOST_CLIENTS:
        CLIENTS.clear()
    CLIENTS[address, port] = client.copy()
    return client


def unescaped(path):
    """Workers pass the path escaped; ASGI wants it decoded, as UTF-8."""
    return unquote_to_bytes(path).decode("utf-8", "replace")
