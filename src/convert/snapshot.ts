/** A diffusers snapshot: `model_index.json` and one directory per component. */
import { stat } from 'node:fs/promises';
import { join } from 'node:path';

import { z } from 'zod';

import { ERROR_CODES, JitFluxError } from '../errors.js';
import { readJsonFileIfPresent } from '../files/json.js';
import { listDirectory } from '../files/small-file.js';
import { MODEL_INDEX } from '../model/bundled-model.js';

/** A component with weights. */
export interface WeightComponent {
  name: string;
  /** Name of its Python class, for example `T5EncoderModel`. */
  className: string;
}

export interface Snapshot {
  weights: WeightComponent[];
  /** Files that are copied as they are; paths relative to the snapshot, with forward slashes. */
  others: string[];
}

/** Classes whose components are settings or vocabularies. Everything else has weights. */
const WITHOUT_WEIGHTS = /Tokenizer|Scheduler|Processor|FeatureExtractor/;
/** A directory name that leads nowhere else. */
const COMPONENT_NAME = /^[A-Za-z0-9_-]{1,100}$/;
/** Weights go through the converter; these and their indices must not be copied. */
const WEIGHT_FILE = /\.(safetensors|pt|pth|bin|ckpt|msgpack|h5|onnx|gguf)$|\.index\.json$/i;
const LICENSE_FILE = /^(licen[cs]e|notice|copying)/i;

const snapshotIndex = z.record(z.string(), z.unknown());
const component = z.tuple([z.string().nullable(), z.string().nullable()]);

/**
 * Lists the components of a snapshot.
 * @returns undefined if the directory has no `model_index.json`
 * @throws ERR_JITFLUX_INVALID_MODEL if it is malformed or a component's directory is missing,
 *   ERR_JITFLUX_FILE_NOT_FOUND, ERR_JITFLUX_ABORTED
 */
export async function readSnapshot(
  directory: string,
  o: { signal?: AbortSignal | undefined } = {},
): Promise<Snapshot | undefined> {
  const path = join(directory, MODEL_INDEX);
  const json = await readJsonFileIfPresent(path, o);
  if (json === undefined) return undefined;
  const invalid = (why: string, details: object = {}): JitFluxError =>
    new JitFluxError(ERROR_CODES.INVALID_MODEL, `${path}: ${why}`, { path, ...details });

  const index = snapshotIndex.safeParse(json);
  if (!index.success) throw invalid('not a JSON object');
  if (index.data['format'] === 'jit-flux-model') {
    throw invalid(
      'this is a jit-flux model already; only its transformer can be converted, by its file name',
    );
  }

  const weights: WeightComponent[] = [];
  const others = [MODEL_INDEX];
  const missing: string[] = [];
  for (const [name, value] of Object.entries(index.data)) {
    const entry = component.safeParse(value);
    if (name.startsWith('_') || !entry.success || entry.data[1] === null) continue;
    if (!COMPONENT_NAME.test(name)) {
      throw invalid(`the component ${JSON.stringify(name)} is not a plain directory name`);
    }
    if (!(await isDirectory(join(directory, name)))) {
      missing.push(name);
      continue;
    }
    const hasWeights = !WITHOUT_WEIGHTS.test(entry.data[1]);
    if (hasWeights) weights.push({ name, className: entry.data[1] });
    for (const file of await plainFiles(join(directory, name))) {
      if (hasWeights ? file.endsWith('.json') && !WEIGHT_FILE.test(file) : !WEIGHT_FILE.test(file)) {
        others.push(`${name}/${file}`);
      }
    }
  }
  if (missing.length > 0) {
    throw invalid(`the snapshot is incomplete; missing: ${missing.join(', ')}`, { missing });
  }
  if (weights.length === 0) throw invalid('names no component with weights');
  for (const file of await plainFiles(directory)) if (LICENSE_FILE.test(file)) others.push(file);
  return { weights, others };
}

/** Names of the regular files of a directory, sorted; symbolic links (the Hugging Face cache has them) count. */
async function plainFiles(directory: string): Promise<string[]> {
  const files: string[] = [];
  for (const name of await listDirectory(directory)) {
    const info = await stat(join(directory, name)).catch(() => undefined);
    if (info?.isFile()) files.push(name);
  }
  return files;
}

async function isDirectory(path: string): Promise<boolean> {
  return (await stat(path).catch(() => undefined))?.isDirectory() ?? false;
}
