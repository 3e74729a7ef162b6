"""Fails to start: raises."""


def connect():
    raise ValueError('broken-raises: no such setting "colour"')


connect()
