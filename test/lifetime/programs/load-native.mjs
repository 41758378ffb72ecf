// Loads the native core and prints what came of it.
import { loadNative } from '../../../dist/engine/load.js';
import { report } from './report.mjs';

await report(() => loadNative() !== undefined);
