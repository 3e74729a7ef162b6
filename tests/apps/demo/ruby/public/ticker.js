// Listens to /events while the visitor wants it. Server-sent events reconnect by themselves: closing is up to us.
'use strict';

const [start, stop] = document.querySelectorAll('#ticker button');
const output = document.querySelector('#ticker output');
let source = null;

function end(text) {
  source?.close();
  source = null;
  start.disabled = false;
  stop.disabled = true;
  if (text) output.textContent = text;
}

start.addEventListener('click', () => {
  start.disabled = true;
  stop.disabled = false;
  output.textContent = 'waiting …';
  source = new EventSource('events');
  source.onmessage = (event) => { output.textContent = event.data; };
  source.addEventListener('end', () => end('The minute is over.'));
  source.onerror = () => end('The stream ended early.');
});
stop.addEventListener('click', () => end('Stopped.'));
end();
