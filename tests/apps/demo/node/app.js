'use strict';

// The Node demo of `make run`: what this process is, what the request brought, a form, a ticker.

const http = require('http');
const os = require('os');

const SECONDS = 60;
const started = new Date();
let served = 0;

const escapes = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };
const text = (value) => String(value).replace(/[&<>"']/g, (character) => escapes[character]);

function table(rows) {
  const cells = Object.entries(rows).map(([name, value]) => `<tr><th>${text(name)}</th><td>${text(value)}</td></tr>`);
  return `<table>${cells.join('')}</table>`;
}

function userName() {
  try {
    return os.userInfo().username;
  } catch {
    return '?';
  }
}

function processFacts() {
  return {
    Process: process.pid,
    User: `${userName()} (${process.getuid()})`,
    Directory: process.cwd(),
    Version: `Node.js ${process.version}`,
    Started: started.toISOString().slice(0, 19).replace('T', ' '),
    'Requests so far': served,
  };
}

function environment() {
  const interesting = ([name]) => /PASSENGER|_ENV$|^(HOME|LANG|PATH|USER)$/.test(name);
  return Object.fromEntries(Object.entries(process.env).filter(interesting).sort());
}

function arrived(request, body) {
  if (request.method !== 'POST') return '';
  const fields = Object.fromEntries(new URLSearchParams(body.toString()));
  const facts = { Type: request.headers['content-type'], Bytes: body.length, ...fields };
  return `<section><h2>What arrived</h2>${table(facts)}</section>`;
}

const page = (request, body) => `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Node.js in Apache</title>
<link rel="stylesheet" href="style.css">
<body class="node">
<header>
  <h1>Node.js in Apache</h1>
  <p>An ordinary HTTP server, answered by process ${process.pid}</p>
</header>
${arrived(request, body)}
<section><h2>This process</h2>${table(processFacts())}</section>
<section><h2>A form that posts</h2>
  <form method="post" action="form">
    <label>Your name <input name="name" placeholder="Ada"></label>
    <label>A message <textarea name="message" rows="3"></textarea></label>
    <button>Send</button>
  </form>
</section>
<section id="ticker"><h2>Server-sent events</h2>
  <button>Start</button> <button>Stop</button>
  <output></output>
  <p class="note">One event a second, for a minute. This process handles any number of requests at once: the stream
  does not occupy it.</p>
</section>
<section><h2>This request</h2>
  ${table({ Method: request.method, URL: request.url })}
  <details><summary>${Object.keys(request.headers).length} headers</summary>${table(request.headers)}</details>
</section>
<section><h2>Environment of the process</h2>${table(environment())}</section>
<script src="ticker.js"></script>
`;

// One event a second for a minute, or until the visitor leaves.
function tick(response) {
  response.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-cache' });
  let count = 0;
  const beat = () => {
    count += 1;
    if (count > SECONDS) {
      clearInterval(timer);
      response.end('event: end\ndata: bye\n\n');
      return;
    }
    const now = new Date().toTimeString().slice(0, 8);
    response.write(`data: tick ${count} of ${SECONDS} from process ${process.pid} at ${now}\n\n`);
  };
  const timer = setInterval(beat, 1000);
  response.on('close', () => clearInterval(timer));
  beat();
}

function collect(request, callback) {
  const pieces = [];
  request.on('data', (piece) => pieces.push(piece));
  request.on('end', () => callback(Buffer.concat(pieces)));
}

http.createServer((request, response) => {
  served += 1;
  const [pathname] = request.url.split('?');
  if (pathname === '/events') {
    tick(response);
  } else if (pathname === '/' || pathname === '/form') {
    collect(request, (body) => {
      response.writeHead(200, { 'Content-Type': 'text/html; charset=utf-8' });
      response.end(page(request, body));
    });
  } else {
    response.writeHead(404, { 'Content-Type': 'text/plain' });
    response.end('Nothing is here.\n');
  }
}).listen(3000);
