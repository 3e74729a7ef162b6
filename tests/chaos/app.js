// The app of tests/chaos in Node.js; README.md lists what it answers.
const fs = require('fs');

require('http').createServer((request, response) => {
  const [path, query = ''] = request.url.split('?');
  const [name, number] = query.split('&');
  const line = `${name}\n`;
  const answer = (body) => {
    response.writeHead(200, { 'Content-Type': 'text/plain', 'Content-Length': Buffer.byteLength(body) });
    response.end(body);
  };
  const text = () => line.repeat(Math.floor(number / line.length) + 1).slice(0, number);
  const pieces = [];
  request.on('data', (piece) => pieces.push(piece)).on('end', () => {
    switch (path) {
      case '/once':
        fs.appendFileSync('posts.log', line);
        return answer(Buffer.concat(pieces));
      case '/generation':
        return answer(process.env.CHAOS_GENERATION || '');
      case '/slow':
        return setTimeout(answer, number, line);
      case '/stream': {
        const body = text();
        response.writeHead(200, { 'Content-Type': 'text/plain' });
        for (let at = 0; at < body.length; at += 8192) response.write(body.slice(at, at + 8192));
        return response.end();
      }
      default:
        return answer(text());
    }
  });
}).listen(3000);
