# frozen_string_literal: true

# Fails to start: prints a line and leaves.
warn 'broken-exits: the database is not there, giving up'
exit 3
