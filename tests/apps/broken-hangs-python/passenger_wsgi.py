"""Fails to start: never gets done."""

import time

print("broken-hangs: waiting for something that never comes")
while True:
    time.sleep(3600)
