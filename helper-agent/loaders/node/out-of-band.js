'use strict';

// Out-of-band work: wanted by a response's header or by a call, done when no requests come.

// A wish that the agent may have forgotten, because another took its place, is repeated after this.
const REPEAT_AFTER_MS = 10000;

class OutOfBandWork {
  // `say` tells the agent a line.
  constructor(api, say) {
    this.api = api;
    this.say = say;
    this.isWanted = false;
    this.said = 0;
    this.current = Promise.resolve();
  }

  request() {
    const now = Date.now();
    if (!this.isWanted || Math.abs(now - this.said) > REPEAT_AFTER_MS) {
      this.isWanted = true;
      this.said = now;
      this.say('work-wanted');
    }
  }

  // No request comes until the agent hears that the work is done. One that took the place of the agent that asked
  // first asks again, and hears of the end of the same work.
  run(token) {
    this.current = this.current.then(() => this.work()).then(() => this.say(`work-done ${token}`));
  }

  async work() {
    const listeners = this.isWanted ? this.api.listeners('oob_work') : [];
    this.isWanted = false;
    for (const listener of listeners) {
      try {
        await listener.call(this.api);
      } catch (error) {
        console.error('out-of-band work:', error);
      }
    }
  }
}

module.exports = OutOfBandWork;
