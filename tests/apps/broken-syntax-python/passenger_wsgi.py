"""Fails to start: broken-syntax has an unfinished expression."""

application = lambda environ, start_response: [
