'use strict';

// The smallest Node application: who am I?
const http = require('http');

http.createServer((request, response) => {
  response.setHeader('Content-Type', 'text/plain');
  response.end(`Hello from Node ${process.pid}\n`);
}).listen(3000);
