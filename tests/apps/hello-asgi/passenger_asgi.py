"""The smallest ASGI application: who am I?"""

import os


async def application(scope, receive, send):
    assert scope["type"] == "http"
    body = b"Hello from ASGI %d\n" % os.getpid()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": body})
