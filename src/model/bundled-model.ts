/** Where our own models are, and what their files are called. */
import { join } from 'node:path';

import { PACKAGE_FILES } from '../files/package-files.js';

/** Name of the file that describes a model directory. */
export const MODEL_INDEX = 'model_index.json';

/** Directory of the model that ships with this package. */
export const BUNDLED_MODEL: string = join(PACKAGE_FILES.models, 'flux-tiny');
