// convert-once.mjs <input> <output>: converts and prints what came of it.
import { convertModel } from '../../../dist/convert/index.js';
import { report } from './report.mjs';

await report(() => convertModel(process.argv[2], process.argv[3], { dtype: 'bfloat16' }));
