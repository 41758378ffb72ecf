/**
 * Models that are known by name. Their specs need no files; whatever needs no weights takes them: plans of work and
 * memory, and whoever asks what a model is.
 */
import { AUTOENCODER_SETTINGS, CLIP_SETTINGS, T5_SETTINGS } from '../engine/component-config.js';
import { FLUX_1_DEV } from '../sampler/flops.js';
import type { AutoencoderConfig, ClipConfig, FluxConfig, T5Config } from '../types.js';
import { devDefaults, type FamilyDefaults, schnellDefaults } from './model-family.js';
import type { ModelSpec } from './spec.js';

/** FLUX.1's own components; dev and schnell share them. */
export const CLIP_L = {
  vocabulary: 49408,
  maxTokens: 77,
  width: 768,
  mlpWidth: 3072,
  layers: 12,
} as const satisfies Partial<ClipConfig>;
export const T5_XXL = {
  vocabulary: 32128,
  width: 4096,
  heads: 64,
  headDim: 64,
  mlpWidth: 10240,
  layers: 24,
  positionBuckets: 32,
} as const satisfies Partial<T5Config>;
export const FLUX_AUTOENCODER: Readonly<
  Pick<AutoencoderConfig, 'latentChannels' | 'channels' | 'layersPerBlock' | 'spatialFactor'>
> = { latentChannels: 16, channels: [128, 256, 512, 512], layersPerBlock: 2, spatialFactor: 8 };

/** Names of models without files. `flux-tiny` is bundled and has its files. */
export const KNOWN_MODELS = ['flux.1-dev', 'flux.1-schnell'] as const;
export type KnownModel = (typeof KNOWN_MODELS)[number];

const SPECS: Readonly<Record<KnownModel, () => ModelSpec>> = {
  'flux.1-dev': () => named('flux.1-dev', FLUX_1_DEV, devDefaults()),
  'flux.1-schnell': () => named('flux.1-schnell', { ...FLUX_1_DEV, guidance: false }, schnellDefaults()),
};

/** The spec of a known model, as published: bfloat16 safetensors. Undefined for any other name. */
export function knownModel(name: string): ModelSpec | undefined {
  return Object.hasOwn(SPECS, name) ? SPECS[name as KnownModel]() : undefined;
}

function named(
  name: KnownModel,
  config: Readonly<FluxConfig>,
  { text, defaults }: Omit<FamilyDefaults, 'inferred'>,
): ModelSpec {
  return {
    kind: 'named',
    info: {
      name,
      text,
      decoder: {
        channels: FLUX_AUTOENCODER.latentChannels,
        spatialFactor: FLUX_AUTOENCODER.spatialFactor,
        scalingFactor: AUTOENCODER_SETTINGS.scalingFactor,
        shiftFactor: AUTOENCODER_SETTINGS.shiftFactor,
      },
      defaults,
    },
    transformer: { config: { ...config } },
    text: {
      kind: 'native',
      clip: { architecture: { ...CLIP_L }, settings: { ...CLIP_SETTINGS } },
      t5: { architecture: { ...T5_XXL }, settings: { ...T5_SETTINGS } },
    },
    decoder: { kind: 'native', architecture: FLUX_AUTOENCODER, settings: { ...AUTOENCODER_SETTINGS } },
    inferred: [],
  };
}
