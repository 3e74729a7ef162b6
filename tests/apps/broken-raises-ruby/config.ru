# frozen_string_literal: true

# Fails to start: raises.
def connect
  raise ArgumentError, 'broken-raises: no such setting "colour"'
end

connect
