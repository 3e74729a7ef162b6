'use strict';

// What is looked for in the head of every response, and said in it.

const http = require('http');

// Ask for out-of-band work. They are not for the client; the worker drops them.
const WORK_HEADERS = ['!~request-oob-work', 'x-passenger-request-oob-work'];
// Tells the worker that no body follows, whatever the head says of one: only Node's own responses keep to that, and a
// head that the application writes to the socket by itself does not have it.
const NO_BODY = '!~Passenger-No-Body';

function watchHeads(work) {
  const { writeHead } = http.ServerResponse.prototype;
  http.ServerResponse.prototype.writeHead = function writeHeadForPassenger(...args) {
    const headers = args[args.length - 1];
    if (WORK_HEADERS.some((name) => this.hasHeader(name)) || asksForWork(headers)) {
      work.request();
    }
    // Headers in an array do not go together with others.
    if (this.req?.method === 'HEAD' && !this.headersSent && !Array.isArray(headers)) {
      this.setHeader(NO_BODY, '1');
    }
    return writeHead.apply(this, args);
  };
}

// Whether one of the headers given to `writeHead` does: an object, or names and values in an array (of pairs).
function asksForWork(headers) {
  if (headers === null || typeof headers !== 'object') {
    return false;
  }
  const names = Array.isArray(headers) ? headers.flat() : Object.keys(headers);
  return names.some((name) => (name.length === 18 || name.length === 28)
    && WORK_HEADERS.includes(String(name).toLowerCase()));
}

module.exports = { watchHeads };
