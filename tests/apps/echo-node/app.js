'use strict';

// Answers what it got. The parameters are described in tests/apps/README.md.

const { execFileSync } = require('child_process');
const crypto = require('crypto');
const http = require('http');

const LIST_DESCRIPTORS = 'for fd in /proc/self/fd/*; do readlink "$fd" || :; done';

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

async function readBody(request) {
  const digest = crypto.createHash('sha256');
  let length = 0;
  for await (const piece of request) {
    digest.update(piece);
    length += piece.length;
  }
  return { length, sha256: digest.digest('hex') };
}

function report(request, url, body) {
  return JSON.stringify({
    language: 'node', pid: process.pid, uid: process.getuid(), cwd: process.cwd(),
    method: request.method, script_name: '', path: url.pathname, query: url.search.slice(1), uri: request.url,
    headers: request.headers, env: {}, process_env: process.env, body,
  });
}

async function answer(request, response) {
  const url = new URL(request.url, 'http://localhost');
  const options = url.searchParams;
  const body = await readBody(request);

  if (options.has('crash')) process.exit(7);
  if (options.has('raise')) throw new Error('echo: raising, as asked');
  if (options.has('log')) {
    console.log(options.get('log'));
    console.error(`err: ${options.get('log')}`);
  }
  if (options.has('sleep_ms')) await pause(Number(options.get('sleep_ms')));

  response.statusCode = Number(options.get('status') || 200);
  for (const header of options.getAll('header')) {
    const [name, ...value] = header.split(':');
    const before = response.getHeader(name);
    response.setHeader(name, before === undefined ? value.join(':') : [].concat(before, value.join(':')));
  }
  response.setHeader('Content-Type', 'text/plain');

  if (options.has('bytes')) {
    const length = Number(options.get('bytes'));
    response.setHeader('Content-Length', length);
    response.end(Buffer.alloc(length, 'abcdefghijklmnopqrstuvwxyz'));
  } else if (options.has('chunks')) {
    for (let number = 0; number < Number(options.get('chunks')); number += 1) {
      if (String(number) === options.get('fail_after')) {
        response.destroy();
        throw new Error(`echo: failing after ${number} chunks, as asked`);
      }
      if (number > 0) await pause(Number(options.get('chunk_ms') || 0));
      response.write(`chunk ${number}\n`);
    }
    response.end();
  } else if (options.has('child_fds') || options.has('fork_fds')) {
    response.end(execFileSync('sh', ['-c', LIST_DESCRIPTORS]));
  } else {
    response.setHeader('Content-Type', 'application/json');
    response.end(report(request, url, body));
  }
}

http.createServer((request, response) => {
  answer(request, response).catch((error) => {
    if (request.destroyed && error.code === 'ECONNRESET') return undefined; // the client left
    console.error(error);
    if (response.headersSent) return response.destroy();
    response.statusCode = 500;
    return response.end('Internal Server Error\n');
  });
}).listen(process.env.PORT || 3000);
