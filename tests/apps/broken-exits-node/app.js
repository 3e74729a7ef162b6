'use strict';

// Fails to start: prints a line and leaves.
console.error('broken-exits: the database is not there, giving up');
process.exit(3);
