"""WebSocket frames as a server reads and writes them (RFC 6455, sections 5 to 7), without extensions. No I/O.

A message is handed out whole: `MESSAGE_BYTES` bounds what a client can make this process keep.
"""

import struct

TEXT = 1
BINARY = 2
CLOSE = 8
PING = 9
PONG = 10

# Statuses of section 7.4.1.
NORMAL = 1000
GOING_AWAY = 1001
PROTOCOL_ERROR = 1002
NO_STATUS = 1005
ABNORMAL = 1006
INVALID_DATA = 1007
TOO_BIG = 1009
INTERNAL_ERROR = 1011

# As other servers have it.
MESSAGE_BYTES = 16 << 20
CONTROL_BYTES = 125

FIN = 0x80
RESERVED = 0x70
MASKED = 0x80
CONTINUATION = 0


class Violation(Exception):
    """The client does not keep to the protocol; `status` is what to close with."""

    def __init__(self, status, reason):
        super().__init__(reason)
        self.status = status


class FrameReader:
    """Puts a client's frames together to messages."""

    def __init__(self):
        self._input = bytearray()
        # Kind and payload of a message whose last fragment has not come.
        self._kind = None
        self._message = bytearray()

    def feed(self, data):
        """Yields (kind, payload) of what is complete: `str` for TEXT, (status, reason) for CLOSE, else bytes.
        Raises a Violation where the client broke a rule."""
        self._input += data
        while True:
            frame = self._frame()
            if frame is None:
                return
            message = self._message_of(*frame)
            if message is not None:
                yield message

    def _frame(self):
        """Takes the next whole frame: is it the last of its message, kind, payload."""
        head = self._input
        if len(head) < 2:
            return None
        first, second = head[0], head[1]
        kind, length, at = first & 15, second & 127, 2
        self._check(first, second)
        if length >= 126:
            number = struct.Struct(">H" if length == 126 else ">Q")
            if len(head) < at + number.size:
                return None
            length, = number.unpack_from(head, at)
            at += number.size
        if len(self._message) + length > MESSAGE_BYTES:
            raise Violation(TOO_BIG, "a message of more than {} bytes".format(MESSAGE_BYTES))
        end = at + 4 + length
        if len(head) < end:
            return None
        payload = unmask(bytes(head[at:at + 4]), bytes(head[at + 4:end]))
        del self._input[:end]
        return bool(first & FIN), kind, payload

    def _check(self, first, second):
        kind = first & 15
        if first & RESERVED:
            raise Violation(PROTOCOL_ERROR, "a reserved bit is set")
        if not second & MASKED:
            raise Violation(PROTOCOL_ERROR, "a frame without mask")
        if kind >= CLOSE:
            if kind > PONG or not first & FIN or second & 127 > CONTROL_BYTES:
                raise Violation(PROTOCOL_ERROR, "not a control frame")
        elif kind > BINARY:
            raise Violation(PROTOCOL_ERROR, "a frame of unknown kind")
        elif (kind == CONTINUATION) != (self._kind is not None):
            raise Violation(PROTOCOL_ERROR, "a fragment out of place")

    def _message_of(self, is_last, kind, payload):
        if kind == CLOSE:
            return CLOSE, read_close(payload)
        if kind > BINARY:
            return kind, payload
        if is_last and kind != CONTINUATION:  # the usual case: one frame, nothing to put together
            return kind, text_of(payload) if kind == TEXT else payload
        if kind != CONTINUATION:
            self._kind = kind
        self._message += payload
        if not is_last:
            return None
        kind, whole = self._kind, bytes(self._message)
        self._kind = None
        self._message.clear()
        return kind, text_of(whole) if kind == TEXT else whole


def unmask(mask, payload):
    """Section 5.3, on one large number: a loop over bytes would be fifty times slower."""
    length = len(payload)
    key = (mask * (length // 4 + 1))[:length]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(key, "little")).to_bytes(length, "little")


def text_of(payload):
    try:
        return payload.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Violation(INVALID_DATA, "text that is not UTF-8") from error


def read_close(payload):
    """Status and reason of a close frame."""
    if not payload:
        return NO_STATUS, ""
    if len(payload) == 1:
        raise Violation(PROTOCOL_ERROR, "half a status")
    status, = struct.unpack_from(">H", payload)
    is_known = 1000 <= status <= 1014 and status not in (1004, NO_STATUS, ABNORMAL)
    if not (is_known or 3000 <= status <= 4999):
        raise Violation(PROTOCOL_ERROR, "the status {}".format(status))
    return status, text_of(payload[2:])


def frame(kind, payload):
    """A whole message as one frame."""
    length = len(payload)
    if length < 126:
        return struct.pack(">BB", FIN | kind, length) + payload
    if length < 1 << 16:
        return struct.pack(">BBH", FIN | kind, 126, length) + payload
    return struct.pack(">BBQ", FIN | kind, 127, length) + payload


def close_frame(status, reason=""):
    """A close frame; its reason is cut to what fits."""
    if status == NO_STATUS:
        return frame(CLOSE, b"")
    text = reason.encode("utf-8")[:CONTROL_BYTES - 2].decode("utf-8", "ignore").encode("utf-8")
    return frame(CLOSE, struct.pack(">H", status) + text)
