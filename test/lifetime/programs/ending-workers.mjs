// ending-workers.mjs <rounds> <cases>: JSON [[work, place, way, code], ...]. Worker threads that end as ending.mjs says,
// one after another; each has to end with its code, and the main thread's engine works before and after.
import { Worker } from 'node:worker_threads';

const [rounds, cases] = process.argv.slice(2).map((argument) => JSON.parse(argument));
const { Tensor } = await import('../../../dist/engine/index.js');
const own = Tensor.randn([64, 64], { seed: 1 });
const before = (await own.toFloat32Array()).join();

const bad = [];
for (let round = 0; round < rounds; round++) {
  for (const [work, place, way, code] of cases) {
    const worker = new Worker(new URL('ending.mjs', import.meta.url), { workerData: [work, place, way] });
    worker.on('error', () => {});
    if (place === 'stays') worker.once('message', () => void worker.terminate());
    // Not events.once(), which an 'error' rejects.
    const ended = await new Promise((resolve) => worker.once('exit', resolve));
    if (ended !== code) bad.push([round, work, place, way, ended]);
  }
}
if ((await own.toFloat32Array()).join() !== before) bad.push('the main thread');
console.log(JSON.stringify(bad));
