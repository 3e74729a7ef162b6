# frozen_string_literal: true

# Fails to start: broken-syntax has an unfinished expression.
run ->(_env) { [200, {}, [ }
