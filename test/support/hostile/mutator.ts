/** A thread that changes shared memory all the time, as 32-bit integers from -2 to 20 and now and then anything. */
export const MUTATOR = `
const { parentPort } = require('node:worker_threads');
const memory = [];
const pause = new Int32Array(new SharedArrayBuffer(4));
parentPort.on('message', (buffer) => memory.push(new Int32Array(buffer)));
let n = 1;
function change() {
  for (let i = 0; i < 2000; i++) {
    n = (Math.imul(n, 1664525) + 1013904223) | 0;
    for (const view of memory) view[i % view.length] = n % 7 === 0 ? n : ((n >>> 8) % 23) - 2;
  }
  Atomics.wait(pause, 0, 0, 1);
  setImmediate(change);
}
change();
`;
