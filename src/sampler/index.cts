// For `require`: the ES module itself, so that a process has one instance of every class. From inside node_modules Node
// requires it without the ExperimentalWarning that Node 20 prints for an application's own require of one.
import api = require('./index.js');
export = api;
