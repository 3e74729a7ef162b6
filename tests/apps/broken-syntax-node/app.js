'use strict';

// Fails to start: broken-syntax has an unfinished expression.
require('http').createServer((request, response) => {
