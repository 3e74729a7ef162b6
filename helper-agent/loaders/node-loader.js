'use strict';

// Runs one Node application so that its HTTP server answers Apache's workers.
//
// Started by the helper agent with the control socket on descriptor 3 and a listening Unix socket on
// descriptor 4; docs/protocols.md, section 4, is the contract. The application is an ordinary script: the
// first `listen` of an HTTP server, whatever its arguments, takes descriptor 4. Node 16 and later.
//
// Node cannot ask a Unix socket who its peer is. That only Apache connects is ensured by the socket's owner and
// mode (0600) alone, not by a second check here as in the other loaders.

const EventEmitter = require('events');
const fs = require('fs');
const http = require('http');
const Module = require('module');
const net = require('net');

const OutOfBandWork = require('./node/out-of-band');
const { watchHeads } = require('./node/response');
const { nameThePeer, neverCloseIdle } = require('./node/server');

const CONTROL = 3;
const LISTENER = 4;
// Turns of the event loop without news after which nothing is on its way to us any more: a connection takes one
// to be accepted and one to be read. Under endless load we look no longer than the second number.
const QUIET_TURNS = 3;
const MOST_TURNS = 1000;

// --- the control socket ---

// Synchronous, so that a line is out even if the process ends in the next moment.
function say(line) {
  try {
    fs.writeSync(CONTROL, `${line}\n`);
  } catch {
    // An agent that is gone is noticed by reading.
  }
}

function sayError(step, text) {
  const short = text.length > 1500 ? `${text.slice(0, 1500)}…` : text;
  say(`error ${step} ${short.replace(/\\/g, '\\\\').replace(/\n/g, '\\n').replace(/\r/g, '\\r')}`);
}

function listenToAgent(onLine) {
  const control = new net.Socket({ fd: CONTROL });
  let input = '';
  control.setEncoding('utf8');
  control.on('data', (data) => {
    const lines = (input + data).split('\n');
    input = lines.pop();
    lines.forEach(onLine);
  });
  control.on('error', () => {});
  control.on('close', () => onLine('stop'));
  // An application that has nothing left to do may end; it is then reported.
  control.unref();
}

// --- what applications may call ---

class PhusionPassenger extends EventEmitter {
  constructor() {
    super();
    this.autoInstall = true;
    Object.defineProperty(this, 'work', { value: new OutOfBandWork(this, say) });
  }

  // Asks for out-of-band work: the listeners of `oob_work` are called when no requests come (they may return
  // promises). A response header `X-Passenger-Request-OOB-Work` asks for the same.
  requestOobWork() {
    this.work.request();
  }

  // `autoInstall: false`: only `listen('passenger')` is ours, every other `listen` is the application's.
  configure(options) {
    if (options.autoInstall !== undefined) {
      this.autoInstall = Boolean(options.autoInstall);
    }
  }
}

// --- the application's server ---

class Application {
  constructor(settings, api) {
    const application = this;
    this.settings = settings;
    this.api = api;
    this.server = null;
    this.executing = 0;
    // Connections and requests that came, ever.
    this.arrivals = 0;
    // Connections without a request so far: Node does not count them as idle.
    this.unused = new Set();
    // Connections that are no more HTTP (WebSockets): Node does not close them either.
    this.upgraded = new Set();
    this.isReady = false;
    this.isStopping = false;
    // The application has closed its server.
    this.isLeaving = false;
    // Nothing is on its way to us any more.
    this.isClosing = false;
    this.lastError = null;
    // One for all responses.
    this.onResponseEnd = function onResponseEndForPassenger() {
      application.executing -= 1;
      // Time for a request is no time for its connection. Node leaves it running.
      const socket = this.req?.socket;
      if (socket?.timeout > 0) {
        socket.setTimeout(0);
      }
    };
  }

  // Replaces `listen` of all HTTP servers.
  install() {
    const application = this;
    const listen = http.Server.prototype.listen;
    http.Server.prototype.listen = function listenForPassenger(...args) {
      if (!application.wants(args)) {
        return listen.apply(this, args);
      }
      const callback = args.find((argument) => typeof argument === 'function');
      if (application.server === this && application.isLeaving && !application.isClosing) {
        return application.relisten(callback);
      }
      if (application.server) {
        return refuse(this);
      }
      application.adopt(this);
      return listen.call(this, { fd: LISTENER, signal: args[0]?.signal }, callback);
    };
  }

  wants([where]) {
    const path = where !== null && typeof where === 'object' ? where.path : where;
    return this.api.autoInstall || path === 'passenger' || path === '/passenger';
  }

  adopt(server) {
    this.server = server;
    say('step listen');
    neverCloseIdle(server, () => this.isClosing);
    server.headersTimeout = 0;
    server.requestTimeout = 0;
    // Scripts print it, and express' template dies of null. A string is what a Unix socket has.
    server.address = () => 'passenger';
    const { close } = server;
    this.reallyClose = close;
    server.close = (callback) => this.close(callback);
    this.watch(server);
    server.once('listening', () => {
      this.isReady = true;
      say('ready concurrency=0 protocol=http');
    });
  }

  // Not by listeners: Node refuses upgrades as long as there are none, and socket.io takes those for requests away.
  watch(server) {
    const { emit } = server;
    const emitForPassenger = (event, ...args) => {
      if (event === 'request') {
        this.follow(...args);
      } else if (event === 'connection') {
        this.welcome(args[0]);
      } else if (event === 'upgrade' && server.listenerCount(event) > 0) {
        this.upgrade(args[1]);
      }
      return emit.call(server, event, ...args);
    };
    Object.defineProperty(server, 'emit', { value: emitForPassenger, writable: true, configurable: true });
  }

  welcome(socket) {
    nameThePeer(socket);
    this.arrivals += 1;
    this.unused.add(socket);
    socket.once('close', () => this.unused.delete(socket));
  }

  follow(request, response) {
    const { socket } = request;
    this.unused.delete(socket);
    this.arrivals += 1;
    this.executing += 1;
    if (this.server.timeout > 0) {
      socket?.setTimeout(this.server.timeout);
    }
    if (this.isStopping) {
      response.shouldKeepAlive = false;
    }
    response.on('close', this.onResponseEnd);
  }

  upgrade(socket) {
    this.unused.delete(socket);
    this.arrivals += 1;
    this.upgraded.add(socket);
    socket.once('close', () => this.upgraded.delete(socket));
  }

  obey(line) {
    if (line === 'stop') {
      this.stop();
    } else if (line.startsWith('busy? ')) {
      // Requests have no numbers in HTTP: one 0 for each that is in execution.
      this.afterPendingInput(() => say(`busy ${line.slice(6)}${' 0'.repeat(this.executing)}`));
    } else if (line.startsWith('work ')) {
      this.afterPendingInput(() => this.api.work.run(line.slice(5)));
    }
  }

  // Calls back when everything sent before has been handed to the application. Node accepts one connection a turn.
  afterPendingInput(callback, quiet = 0, turn = 0) {
    const before = this.arrivals;
    setImmediate(() => {
      const calm = this.arrivals === before ? quiet + 1 : 0;
      if (calm > QUIET_TURNS || turn > MOST_TURNS) {
        callback();
      } else {
        this.afterPendingInput(callback, calm, turn + 1);
      }
    });
  }

  // The application closes its server. Requests may be on their way: they come until the agent has found another
  // process for them and says `stop`.
  close(callback) {
    if (!this.isReady || this.isClosing) {
      return this.reallyClose.call(this.server, callback);
    }
    if (typeof callback === 'function') {
      this.server.once('close', callback);
    }
    if (!this.isStopping && !this.isLeaving) {
      this.isLeaving = true;
      say('leave');
    }
    return this.server;
  }

  // It listens again: it still does. The agent replaces the process all the same.
  relisten(callback) {
    if (callback) {
      this.server.once('listening', callback);
    }
    process.nextTick(() => this.server.emit('listening'));
    return this.server;
  }

  stop() {
    if (this.isStopping) {
      return;
    }
    if (!this.isReady) {
      process.exit(0);
    }
    this.isStopping = true;
    this.afterPendingInput(() => {
      this.isClosing = true;
      this.reallyClose.call(this.server, () => this.leave());
      this.unused.forEach((socket) => socket.destroy());
      const sweep = () => {
        this.server.closeIdleConnections?.();
        // The worker tells the client that we are going away.
        if (this.executing === 0) {
          this.upgraded.forEach((socket) => socket.end());
        }
      };
      sweep();
      setInterval(sweep, 50).unref();
    });
  }

  // All connections are closed. Who listens for the end of the process ends it.
  leave() {
    if (!this.api.emit('exit') && !process.emit('message', 'shutdown')) {
      process.exit(0);
    }
  }

  // The end of the process before it was ready is a failed start, whatever the exit status.
  reportEnd(status) {
    if (this.isReady || this.isStopping) {
      return;
    }
    const file = this.settings.startupFile;
    if (this.lastError) {
      sayError('load', `${file} failed while it was loaded: ${this.lastError}`);
    } else if (status) {
      sayError('load', `${file} called process.exit(${status}) before it listened`);
    } else {
      sayError('listen', `${file} ended without calling listen() on an http.Server`);
    }
    process.exitCode = 1;
  }
}

// Says no as a taken port would, by an event where somebody listens for it: Fastify listens on every address of
// `localhost`, one after the other, and makes do with those it gets.
function refuse(server) {
  const error = new Error('this application already listens; for a second server call '
    + "PhusionPassenger.configure({ autoInstall: false }) first and use listen('passenger') for the one that Apache "
    + 'shall reach');
  if (server.listenerCount('error') === 0) {
    throw error;
  }
  process.nextTick(() => server.emit('error', error));
  return server;
}

// An application that makes workers of its own finds itself to be one of them. An ES module's `import` gets Node's
// own object, which does not let itself be replaced: there the attempt is refused with a reason.
function neutralizeCluster() {
  require('cluster').fork = () => {
    throw new Error('cluster.fork() is not possible here: PassengerMaxPoolSize and PassengerMinInstances say how many '
      + 'processes there are');
  };
  const load = Module._load;
  Module._load = function loadForPassenger(request, ...rest) {
    const isCluster = request === 'cluster' || request === 'node:cluster';
    return isCluster ? load('./node/cluster', module) : load.call(this, request, ...rest);
  };
}

// Reads what the agent wants and removes it: the application's children have no use for it.
function takeSettings(environment) {
  const take = (name) => {
    const value = environment[name];
    delete environment[name];
    return value;
  };
  take('PASSENGER_PEER_UID');
  take('PASSENGER_THREADS');
  take('PASSENGER_APP_GROUP_NAME');
  return {
    appRoot: take('PASSENGER_APP_ROOT') || process.cwd(),
    startupFile: take('PASSENGER_STARTUP_FILE') || `${process.cwd()}/app.js`,
  };
}

function main() {
  const settings = takeSettings(process.env);
  const api = new PhusionPassenger();
  const application = new Application(settings, api);
  global.PhusionPassenger = api;
  process.title = `Passenger NodeApp: ${settings.appRoot}`;

  say('step load');
  listenToAgent((line) => application.obey(line));
  process.on('SIGTERM', () => application.stop());
  process.on('SIGUSR1', () => say('leave'));
  // Watches only: what an uncaught exception does is left to Node and the application.
  process.on('uncaughtExceptionMonitor', (error) => {
    application.lastError = error;
  });
  process.on('exit', (status) => application.reportEnd(status));
  application.install();
  watchHeads(api.work);
  neutralizeCluster();

  // As if Node had been started with it: `require.main`, `process.argv`, and ES modules as package.json says.
  process.argv[1] = settings.startupFile;
  Module.runMain();
}

main();
