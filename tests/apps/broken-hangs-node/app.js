'use strict';

// Fails to start: never gets done.
console.log('broken-hangs: waiting for something that never comes');
setInterval(() => {}, 3600 * 1000);
