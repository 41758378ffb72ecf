/** What a picture says of how it was made: written into its PNG, shown by `inspect`, repeated by `generate --from`. */
import type { PngMetadata } from '../image/index.js';
import { jsonInteger } from '../json.js';
import { resolveOptions } from '../sampler/index.js';
import { listText, microFlowText, scheduleText } from '../sampler/settings-text.js';
import type { LoadOptions } from '../types.js';
import type { ResolvedRequest } from './request.js';
import { VERSION } from '../files/package-files.js';

/** Of a setting that was a function, a list of tokens or a tensor of the program's: it cannot be repeated from a file. */
export const OWN = 'own';

/** How a model was loaded, as far as pictures depend on it. */
export interface LoadedAs {
  device: string;
  dtype: NonNullable<LoadOptions['dtype']>;
  quantize?: string;
  quantizeTextEncoders?: string;
  timeEmbedding?: string;
  textEncoderDevice?: string;
  decoderDevice?: string;
  threads?: number;
  /** See `modelFingerprint`. */
  fingerprint: string;
}

/** What is known of one picture of a request. */
export interface PictureFacts {
  prompt: string;
  seed: number | bigint;
  /** Undefined for a model without guidance. */
  guidance: number | undefined;
  model: string;
  loaded: LoadedAs;
  /** Pictures that were sampled together, whose matrices round otherwise than those of one. */
  batch: number;
}

/**
 * Everything that a picture follows from, in the order in which people look for it, and at its end the line that other
 * programs read (`parameters`, as the web interfaces for diffusion models write it).
 */
export function pictureMetadata(facts: PictureFacts, r: ResolvedRequest): PngMetadata {
  const { prompt, seed, guidance, model, loaded, batch } = facts;
  const settings = resolveOptions(r.sampling);
  const { activation, initialAnchors, lifter } = settings;
  const { fingerprint, ...computed } = loaded;
  const metadata: PngMetadata = {
    prompt,
    seed: jsonInteger(seed),
    preset: r.plan.preset,
    steps: r.plan.steps,
    ...(guidance !== undefined && { guidance }),
    width: r.width,
    height: r.height,
    textTokens: r.textTokens,
    schedule: scheduleText(settings.schedule),
    stageRatios: listText(settings.stageRatios),
    tokenRatios: listText(settings.tokenRatios),
    initialAnchors: typeof initialAnchors === 'string' ? initialAnchors : OWN,
    activation: typeof activation === 'string' ? activation : OWN,
    microFlow: microFlowText(settings.microFlow),
    ...(lifter !== 'gaussian' && { lifter: typeof lifter === 'string' ? lifter : OWN }),
    ...(r.latents && { latents: OWN }),
    // Of another model's encoders, or none: the prompt alone does not give it again.
    ...(r.conditioning && r.conditioning.model !== model && { conditioning: OWN }),
    ...(batch > 1 && { batch }),
    ...computed,
    model,
    modelFingerprint: fingerprint,
    version: VERSION,
  };
  return { ...metadata, parameters: parametersLine(metadata) };
}

/** The prompt, and the settings on one line. */
function parametersLine(m: PngMetadata): string {
  const guidance = m['guidance'] === undefined ? [] : [`CFG scale: ${m['guidance']}`];
  return [
    m['prompt'],
    [
      `Steps: ${m['steps']}`,
      `Sampler: JiT ${m['preset']}`,
      `Schedule type: ${m['schedule']}`,
      ...guidance,
      `Seed: ${m['seed']}`,
      `Size: ${m['width']}x${m['height']}`,
      `Model hash: ${m['modelFingerprint']}`,
      `Model: ${m['model']}`,
      `Version: jit-flux ${m['version']}`,
    ].join(', '),
  ].join('\n');
}
