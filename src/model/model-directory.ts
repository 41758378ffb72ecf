/**
 * A model directory: the weights of all parts, and `model_index.json`, which says which file is which and how the
 * parts fit together.
 */
import { stat } from 'node:fs/promises';
import { isAbsolute, join } from 'node:path';

import { z } from 'zod';

import { ERROR_CODES, JitFluxError, throwIfAborted } from '../errors.js';
import { MODEL_INDEX } from './bundled-model.js';

/** A path inside the model directory. Checked as text: it must not lead out, whatever the platform. */
const componentPath = z
  .string()
  .min(1)
  .max(255)
  .refine(
    (path) =>
      !isAbsolute(path) &&
      !/^[a-z]:/i.test(path) &&
      !/[\\\0]/.test(path) &&
      !path.split('/').some((part) => part === '..'),
    'must be a relative path inside the model directory, with forward slashes and without ".."',
  );

const side = z.number().int().positive().max(65536);

const modelIndex = z.object({
  format: z.literal('jit-flux-model'),
  version: z.literal(1),
  /** Short name, shown and written into pictures. */
  name: z.string().min(1).max(100),
  description: z.string().optional(),
  /** SPDX identifier, or a name. */
  license: z.string().optional(),
  text: z.object({
    /** A TorchScript module: token ids [B, T] int64 -> (pooled [B, P], sequence [B, T, J]). */
    type: z.literal('torchscript'),
    file: componentPath,
    tokenizer: componentPath,
    /** Number of text tokens T, padding included. */
    length: z.number().int().min(1).max(4096),
    /** Prompts that the model was made for: shown where it does not know a word. */
    examples: z.array(z.string().min(1).max(200)).max(10).optional(),
  }),
  transformer: z.object({
    file: componentPath,
    /** Channels of a head that rotate with each position axis; default: the rule of FLUX.1. */
    ropeAxes: z.tuple([z.int().positive(), z.int().positive(), z.int().positive()]).optional(),
  }),
  decoder: z.object({
    /** A TorchScript module: z [B, C, h, w], un-scaled -> picture [B, 3, h * spatialFactor, w * spatialFactor]. */
    type: z.literal('torchscript'),
    file: componentPath,
    /** Latent channels C. */
    channels: z.number().int().min(1).max(1024),
    /** Pixels per latent cell, along each side. */
    spatialFactor: z.number().int().min(1).max(64),
    /** z = latent / scalingFactor + shiftFactor. */
    scalingFactor: z.number().positive(),
    shiftFactor: z.number(),
  }),
  defaults: z.object({ width: side, height: side, guidance: z.number().min(0) }),
});

/** Content of `model_index.json`. */
export type ModelIndex = z.infer<typeof modelIndex>;

/** A model directory that was found complete. */
export interface ModelDirectory {
  /** Absolute path. */
  path: string;
  index: ModelIndex;
  /** Absolute paths of the parts. */
  files: { tokenizer: string; textEncoder: string; transformer: string; decoder: string };
}

/**
 * Checks the content of a `model_index.json`.
 * @param name what error messages call it
 * @throws ERR_JITFLUX_INVALID_MODEL naming the first bad field; `details.problems` lists all of them
 */
export function checkModelIndex(json: unknown, name: string = MODEL_INDEX): ModelIndex {
  if (typeof json === 'object' && json !== null && '_class_name' in json && !('format' in json)) {
    throw new JitFluxError(
      ERROR_CODES.INVALID_MODEL,
      `${name} belongs to a diffusers model; jit-flux needs its own (format "jit-flux-model", see models/flux-tiny)`,
      { path: name, field: 'format' },
    );
  }
  const parsed = modelIndex.safeParse(json);
  if (parsed.success) return parsed.data;
  const problems = parsed.error.issues.map((issue) => ({
    field: issue.path.join('.') || '(root)',
    message: issue.message,
  }));
  const first = problems[0];
  throw new JitFluxError(ERROR_CODES.INVALID_MODEL, `${name}: ${first?.field}: ${first?.message}`, {
    path: name,
    field: first?.field,
    problems,
  });
}

/**
 * Checks that every file that a `model_index.json` names is there.
 * @param path absolute path of its directory
 * @throws ERR_JITFLUX_INVALID_MODEL naming all that are missing
 */
export async function findModelFiles(
  path: string,
  index: ModelIndex,
  o: { signal?: AbortSignal | undefined } = {},
): Promise<ModelDirectory> {
  const files = {
    tokenizer: join(path, index.text.tokenizer),
    textEncoder: join(path, index.text.file),
    transformer: join(path, index.transformer.file),
    decoder: join(path, index.decoder.file),
  };
  const missing: string[] = [];
  for (const file of Object.values(files)) {
    // The transformer may also be a directory of shards.
    if ((await stat(file).catch(() => undefined)) === undefined) missing.push(file);
  }
  throwIfAborted(o.signal);
  if (missing.length > 0) {
    throw new JitFluxError(
      ERROR_CODES.INVALID_MODEL,
      `The model in ${path} is incomplete; missing: ${missing.map((file) => file.slice(path.length + 1)).join(', ')}`,
      { path, missing },
    );
  }
  return { path, index, files };
}
