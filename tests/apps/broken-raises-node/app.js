'use strict';

// Fails to start: raises.
function connect() {
  throw new RangeError('broken-raises: no such setting "colour"');
}

connect();
