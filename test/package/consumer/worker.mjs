// The package in two worker threads at once and on the main thread; prints one line of use.mjs for each.
import { Worker, isMainThread } from 'node:worker_threads';

if (isMainThread) for (let i = 0; i < 2; i++) new Worker(new URL(import.meta.url));
await import('./use.mjs');
