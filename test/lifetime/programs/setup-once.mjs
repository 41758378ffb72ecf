// setup-once.mjs <options.json>: runs `setup` and prints what came of it.
import { readFileSync } from 'node:fs';
import { setupLibTorch } from '../../../dist/libtorch/provision.js';
import { report } from './report.mjs';

await report(() => setupLibTorch(JSON.parse(readFileSync(process.argv[2], 'utf8'))));
