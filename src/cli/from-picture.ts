/** Settings of a picture that was made before, as the flags that would make it again. */
import { z } from 'zod';

import { invalidArgument, JitFluxError } from '../errors.js';
import { readSmallFile } from '../files/small-file.js';
import { OWN } from '../pipeline/picture-facts.js';
import { VERSION } from '../files/package-files.js';
import { ACTIVATIONS, ANCHOR_PATTERNS, LIFTERS } from '../sampler/options.js';
import { PRESET_NAMES } from '../sampler/presets.js';
import type { ImageFacts } from '../image/index.js';

/** Larger than the PNG of any picture that is made here. */
export const MAX_PICTURE_BYTES = 2 ** 30;

const text = z.string().optional();
const number = z.number().optional();
const facts = z.looseObject({
  prompt: text,
  seed: z.union([z.number(), z.string()]).optional(),
  preset: text,
  steps: number,
  guidance: number,
  width: number,
  height: number,
  textTokens: number,
  schedule: text,
  stageRatios: text,
  tokenRatios: text,
  initialAnchors: z.enum([...ANCHOR_PATTERNS, OWN]).optional(),
  activation: z.enum([...ACTIVATIONS, OWN]).optional(),
  microFlow: text,
  lifter: z.enum([...LIFTERS, OWN]).optional(),
  latents: text,
  conditioning: text,
  batch: number,
  compared: text,
  device: text,
  dtype: z.enum(['float32', 'bfloat16', 'float16']).optional(),
  quantize: z.literal('int8').optional(),
  quantizeTextEncoders: z.literal('int8').optional(),
  timeEmbedding: z.enum(['reference', 'exact']).optional(),
  textEncoderDevice: text,
  decoderDevice: text,
  threads: number,
  model: text,
  modelFingerprint: text,
  version: text,
});
type Facts = z.infer<typeof facts>;

/** What a picture was made with. */
export interface FromPicture {
  /** By the names of the flags; absent: the picture does not say. */
  flags: ReturnType<typeof flagsOf>;
  prompt: string | undefined;
  timeEmbedding: 'reference' | 'exact' | undefined;
  model: string | undefined;
  fingerprint: string | undefined;
  /** Why the result may be another. */
  doubts: string[];
}

/**
 * Reads a picture that jit-flux wrote.
 * @throws ERR_JITFLUX_FILE_NOT_FOUND, ERR_JITFLUX_UNSUPPORTED_FORMAT, ERR_JITFLUX_CORRUPT_FILE;
 *   ERR_JITFLUX_INVALID_ARGUMENT for one that does not say how it was made, or was made with something of a program's own
 */
export async function readFromPicture(path: string, signal: AbortSignal): Promise<FromPicture> {
  const { metadata } = await readPicture(path, signal);
  if (!metadata) {
    throw invalidArgument('from', 'a picture of jit-flux, with its metadata', path);
  }
  const parsed = facts.safeParse(metadata);
  if (!parsed.success) {
    const { path: field, message } = parsed.error.issues[0]!;
    throw invalidArgument('from', `metadata of jit-flux (${field.join('.')}: ${message})`, path);
  }
  const found = parsed.data;
  if (found.compared !== undefined)
    throw invalidArgument('from', 'one picture; this is a comparison of several', path);
  for (const name of ['initialAnchors', 'activation', 'lifter', 'latents', 'conditioning'] as const) {
    if (found[name] === OWN) {
      throw invalidArgument('from', `a picture of the command line: ${name} were a program's own`, path);
    }
  }
  const { version, model, modelFingerprint: fingerprint, timeEmbedding } = found;
  const doubts: string[] = [];
  if (version !== VERSION) {
    doubts.push(
      `${path} was made by version ${version ?? '(unknown)'}, this is ${VERSION}: the picture may differ`,
    );
  }
  if (found.batch !== undefined) {
    doubts.push(`${path} was one of ${found.batch} sampled together: alone it may differ in the last bits`);
  }
  return { flags: flagsOf(found), prompt: found.prompt, timeEmbedding, model, fingerprint, doubts };
}

function flagsOf(f: Facts) {
  return {
    seed: f.seed === undefined ? undefined : String(f.seed),
    // Of a custom one every setting follows.
    preset: PRESET_NAMES.find((name) => name === f.preset),
    steps: f.steps,
    guidance: f.guidance,
    width: f.width,
    height: f.height,
    'text-tokens': f.textTokens,
    schedule: f.schedule,
    'stage-ratios': f.stageRatios,
    'token-ratios': f.tokenRatios,
    anchors: f.initialAnchors as Exclude<Facts['initialAnchors'], typeof OWN>,
    activation: f.activation as Exclude<Facts['activation'], typeof OWN>,
    'micro-flow': f.microFlow,
    lifter: f.lifter as Exclude<Facts['lifter'], typeof OWN>,
    device: f.device,
    dtype: f.dtype,
    quantize: f.quantize,
    'quantize-text-encoders': f.quantizeTextEncoders,
    threads: f.threads,
    'encoders-on-cpu': f.textEncoderDevice === 'cpu' && f.decoderDevice === 'cpu' ? true : undefined,
  };
}

/** A picture's format, size and texts. */
export async function readPicture(path: string, signal: AbortSignal): Promise<ImageFacts> {
  const { readImageFacts } = await import('../image/index.js');
  const file = await readSmallFile(path, { maxBytes: MAX_PICTURE_BYTES, signal });
  try {
    return await readImageFacts(file);
  } catch (cause) {
    // The reader knows no path.
    if (!(cause instanceof JitFluxError)) throw cause;
    throw new JitFluxError(cause.code, `${path}: ${cause.message}`, { ...cause.details, path }, { cause });
  }
}
