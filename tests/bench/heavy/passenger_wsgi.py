"""The same as config.ru beside it: about 100 MB once it is loaded, half of it code, half of it data."""

import os
import random

CLASSES = 600
METHODS = 20
ROWS = 110_000
IN_USE = 5

METHOD = """
    def attribute_{index}(self, value=None, scale={index}, label="attribute {index}"):
        if value is None and hasattr(self, "_attribute_{index}"):
            return self._attribute_{index}
        key = ":".join(str(part) for part in (label, scale, value) if part is not None)
        self._attribute_{index} = {{"key": key, "value": str(value) * 2, "scale": scale * {number}}}
        return {{name: it.upper() if isinstance(it, str) else it for name, it in self._attribute_{index}.items()}}
"""


def model(number):
    methods = "".join(METHOD.format(index=index, number=number) for index in range(METHODS))
    names = {}
    exec(compile("class Model{}:\n{}".format(number, methods), "model_{}.py".format(number), "exec"), names)
    return names["Model{}".format(number)]


MODELS = [model(number) for number in range(CLASSES)]
TABLE = [{"id": n, "name": "row number {} of the table".format(n), "tags": ["tag {}".format(n % 97), str(n)]}
         for n in range(ROWS)]


def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    if environ["PATH_INFO"] == "/pid":
        return [str(os.getpid()).encode()]
    lines = []
    for _ in range(60):
        row = TABLE[random.randrange(ROWS // IN_USE)]
        attribute = getattr(MODELS[random.randrange(CLASSES // IN_USE)](), "attribute_{}".format(random.randrange(METHODS)))
        lines.append(str(attribute(row["name"])) + ",".join(row["tags"]))
    return ["\n".join(lines).encode()]
