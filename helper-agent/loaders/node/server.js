'use strict';

// What is different about a server that Apache's workers alone connect to.

// Unix sockets have no address, but applications and middleware expect one; the client's is in X-Forwarded-For.
function nameThePeer(socket) {
  Object.defineProperties(socket, {
    remoteAddress: { value: '127.0.0.1', configurable: true },
    remotePort: { value: 0, configurable: true },
    remoteFamily: { value: 'IPv4', configurable: true },
    // Node refuses to reset what is no TCP connection.
    resetAndDestroy: { value: socket.destroy, configurable: true, writable: true },
  });
}

// Workers close idle connections. The server never does, whatever time the application gives it, before or later: a
// request that was just sent would be lost, and one with a body cannot be sent again. `isClosing`: nothing is sent any more.
function neverCloseIdle(server, isClosing) {
  Object.defineProperty(server, 'keepAliveTimeout', { get: () => 0, set: () => {}, configurable: true });
  // Node 18; `close` calls it, too.
  const { closeIdleConnections } = server;
  server.closeIdleConnections = () => {
    if (isClosing()) {
      closeIdleConnections?.call(server);
    }
  };
}

module.exports = { nameThePeer, neverCloseIdle };
