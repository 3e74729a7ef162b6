# frozen_string_literal: true

# Fails to start: never gets done.
puts 'broken-hangs: waiting for something that never comes'
sleep
