# frozen_string_literal: true

# The smallest Rack application: who am I?
run ->(_env) { [200, { 'content-type' => 'text/plain' }, ["Hello from Ruby #{Process.pid}\n"]] }
