'use strict';

// What `require('cluster')` gives an application: a process that is already one of the workers. How many there
// are is the agent's business, and workers forked here would listen on ports of their own.

const EventEmitter = require('events');

const worker = Object.assign(new EventEmitter(), {
  id: 1,
  process,
  exitedAfterDisconnect: false,
  isConnected: () => true,
  isDead: () => false,
  send: () => false,
  disconnect: () => worker,
  kill: () => {},
  destroy: () => {},
});

module.exports = Object.assign(new EventEmitter(), {
  isMaster: false,
  isPrimary: false,
  isWorker: true,
  worker,
  workers: {},
  settings: {},
  SCHED_NONE: 1,
  SCHED_RR: 2,
  schedulingPolicy: 1,
  setupMaster: () => {},
  setupPrimary: () => {},
  fork: () => worker,
  disconnect: (callback) => callback && process.nextTick(callback),
});
