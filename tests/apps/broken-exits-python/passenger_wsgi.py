"""Fails to start: prints a line and leaves."""

import sys

print("broken-exits: the database is not there, giving up", file=sys.stderr)
sys.exit(3)
