/** One sampling run from prompts to pictures, for one request or for several that share it. */
import { ERROR_CODES, invalidArgument, type JitFluxError, throwIfAborted } from '../errors.js';
import { type FluxTransformer, JitSampler, Tensor } from '../engine/index.js';
import type { Device, StepEvent } from '../types.js';
import { type EncodedPrompts, encodedPromptsOf } from './encoded-prompts.js';
import { type GeneratedImage, generatedImageOf } from './image.js';
import { noiseOf } from './initial-noise.js';
import type { LatentDecoder } from './latent-decoder.js';
import type { ModelInfo } from '../model/spec.js';
import { stepEvent } from '../sampler/step-event.js';
import { type LoadedAs, pictureMetadata } from './picture-facts.js';
import { type Conditions, plainSeed, type ResolvedRequest } from './request.js';
import { onDevice, Resources } from './resources.js';
import { checkConditions, type TextConditioner } from './text-conditioner.js';
import type { GenerateResult, GenerateTimings } from './types.js';

/** The loaded parts of a model. */
export interface ModelParts {
  info: ModelInfo;
  /** What could not be told for certain about the model. */
  doubts: readonly string[];
  /** The transformer's. */
  device: Device;
  loaded: LoadedAs;
  /** Undefined with `textEncoders: false`. */
  text?: TextConditioner;
  transformer: FluxTransformer;
  decoder: LatentDecoder;
}

/** What a run knows; the time in the queue is added by whoever kept it waiting. */
export type RunResult = Omit<GenerateResult, 'timings'> & { timings: Omit<GenerateTimings, 'queued'> };

/**
 * Yields after every sampling step and returns one result per request. Requests that run together have equal
 * batch keys (batching.ts). The state in the events is that of all their pictures, one request after another.
 */
export async function* runGeneration(
  model: ModelParts,
  requests: readonly ResolvedRequest[],
  signal: AbortSignal,
): AsyncGenerator<StepEvent<Tensor>, RunResult[], undefined> {
  const [common] = requests as [ResolvedRequest];
  const { plan, grid } = common;
  using resources = new Resources();
  const started = performance.now();
  const encoded: Conditions[] = [];
  for (const { conditioning, prompts, textTokens } of requests) {
    encoded.push(
      conditioning ?? resources.add(await encodePrompts(model, prompts, { length: textTokens, signal })),
    );
  }
  const encodedAt = performance.now();
  const repeats = requests.map(({ numImages }) => numImages);
  const perImage = (rows: Tensor[]) => stack(rows, { repeats, device: model.device, resources });
  const conditioning = resources.add(
    await model.transformer.condition({
      prompt: await perImage(encoded.map(({ prompt }) => prompt)),
      pooled: await perImage(encoded.map(({ pooled }) => pooled)),
      ...(model.transformer.config.guidance && {
        guidance: requests.flatMap(({ guidance, images }) => new Array<number>(images).fill(guidance)),
      }),
      sigmas: plan.sigmas,
      signal,
    }),
  );
  const conditionedAt = performance.now();
  throwIfAborted(signal);
  const stages: GenerateTimings['stages'] = plan.stages.map(({ stage, steps, activeTokens }) => ({
    stage,
    steps,
    activeTokens,
    milliseconds: 0,
  }));
  const seeds = requests.flatMap((request) => request.seeds);
  const sampler = resources.add(
    new JitSampler(model.transformer.bind(conditioning), {
      ...common.sampling,
      grid,
      latents: common.latents
        ? await onDevice(common.latents, model.device, resources)
        : resources.add(await noiseOf(model.info, { grid, seeds, device: model.device })),
      seed: seeds,
      signal,
    }),
  );
  for await (const event of sampler) {
    const stage = stages.find((entry) => entry.stage === event.stage);
    if (stage) stage.milliseconds += event.milliseconds;
    yield event;
  }
  const sampledAt = performance.now();
  const isImage = common.output === 'image';
  const pixels = isImage ? await model.decoder.decode(sampler.latents, { grid, signal }) : undefined;
  throwIfAborted(signal);
  const finished = performance.now();

  let first = 0;
  return requests.map((request, i) => {
    const images = [first, (first += request.images)] as const;
    const { warnings } = encoded[i]!;
    return {
      images: pixels
        ? picturesOf(model, request, sliceImages(pixels, images, seeds.length), seeds.length)
        : [],
      ...(!isImage && { latents: copyImages(sampler.latents, images) }),
      seed: request.seed,
      seeds: request.seeds.map(plainSeed),
      plan: request.plan,
      warnings: [...warnings, ...modelWarnings(model, request)],
      batch: { requests: requests.length, images: seeds.length },
      timings: {
        encode: encodedAt - started,
        condition: conditionedAt - encodedAt,
        stages: stages.map((stage) => ({ ...stage })),
        decode: isImage ? finished - sampledAt : 0,
        total: finished - started,
      },
    };
  });
}

/**
 * Refuses encoded prompts and noise of the caller's that are no numbers, before they are used.
 * @throws ERR_JITFLUX_INVALID_TENSOR
 */
export async function checkGivenTensors({ conditioning, latents }: ResolvedRequest): Promise<void> {
  const given = {
    ...(conditioning && {
      'conditioning.prompt': conditioning.prompt,
      'conditioning.pooled': conditioning.pooled,
    }),
    ...(latents && { latents }),
  };
  for (const [option, tensor] of Object.entries(given)) {
    const [image] = await tensor.notFinite();
    if (image === undefined) continue;
    const received = `NaN or infinite values in row ${image}`;
    throw invalidArgument(option, 'finite numbers', received, ERROR_CODES.INVALID_TENSOR);
  }
}

/** The part of a step's event that is about some of the images of its batch. */
export function eventOfImages(
  event: StepEvent<Tensor>,
  o: { first: number; count: number; batch: number; latents: Tensor },
): StepEvent<Tensor> {
  const { first, count, batch, latents } = o;
  /** Of a list with an equal number of entries per image. */
  const own = <L extends Int32Array | Float32Array>(list: L): L => {
    const size = list.length / batch;
    return list.slice(first * size, (first + count) * size) as L;
  };
  const { transition, anchors, activeTokens } = event;
  const shared = anchors.length === activeTokens;
  return stepEvent(
    {
      ...event,
      latents,
      anchors: shared ? anchors.slice() : own(anchors),
      ...(transition && {
        transition: {
          newTokens: transition.perImage ? own(transition.newTokens) : transition.newTokens.slice(),
          perImage: transition.perImage,
          ...(transition.importance && { importance: own(transition.importance) }),
        },
      }),
    },
    async () => {
      using all = await event.clean();
      return copyImages(all, [first, first + count]);
    },
  );
}

/**
 * Runs tokenizers and text encoders; one row per prompt.
 * @throws ERR_JITFLUX_INVALID_ARGUMENT if the model was loaded without text encoders
 */
export async function encodePrompts(
  { info, text, transformer }: ModelParts,
  prompts: readonly string[],
  o: { length: number; signal: AbortSignal },
): Promise<EncodedPrompts> {
  const { length, signal } = o;
  if (text === undefined) throw noTextEncoders(info);
  const conditions = await text.encode(prompts, { length, signal });
  checkConditions(conditions, {
    model: info.name,
    prompts: prompts.length,
    length,
    widths: transformer.config,
  });
  return encodedPromptsOf({ ...conditions, prompts, model: info.name });
}

export function noTextEncoders({ name }: ModelInfo): JitFluxError {
  return invalidArgument(
    'prompt',
    `a "conditioning" instead: ${name} was loaded with textEncoders: false`,
    'a prompt',
  );
}

/** The rows of all requests' tensors, each as often as it has pictures. */
async function stack(
  rows: readonly Tensor[],
  { repeats, device, resources }: { repeats: number[]; device: Device; resources: Resources },
): Promise<Tensor> {
  const [first, ...others] = rows as [Tensor, ...Tensor[]];
  if (others.length === 0 && repeats[0] === 1) return first;
  const here = [];
  for (const tensor of rows) here.push(await onDevice(tensor, device, resources));
  return resources.add(await Tensor.stack(here, { repeats }));
}

function modelWarnings(
  { info, doubts, transformer }: ModelParts,
  r: ResolvedRequest,
): GenerateResult['warnings'] {
  const warnings: GenerateResult['warnings'] = doubts.map((doubt) => ({
    code: 'MODEL_UNCERTAIN',
    message: `${info.name}: ${doubt}`,
  }));
  if (r.guidanceGiven && !transformer.config.guidance) {
    const message = `${info.name} has no guidance input; guidance ${r.guidance} has no effect`;
    warnings.push({ code: 'GUIDANCE_IGNORED', message });
  }
  return warnings;
}

type Range = readonly [first: number, end: number];

function sliceImages(pixels: Uint8Array, [first, end]: Range, batch: number): Uint8Array {
  const size = pixels.length / batch;
  return pixels.subarray(first * size, end * size);
}

function copyImages(latents: Tensor, [first, end]: Range): Tensor {
  using part = latents.images(first, end - first);
  return part.clone();
}

function picturesOf(
  model: ModelParts,
  r: ResolvedRequest,
  pixels: Uint8Array,
  batch: number,
): GeneratedImage[] {
  const size = r.width * r.height * 3;
  const { info, loaded } = model;
  const guidance = model.transformer.config.guidance ? r.guidance : undefined;
  return r.seeds.map((imageSeed, image) => {
    const prompt = r.prompts[Math.floor(image / r.numImages)] ?? '';
    const seed = plainSeed(imageSeed);
    return generatedImageOf({
      image: { width: r.width, height: r.height, data: pixels.slice(image * size, (image + 1) * size) },
      prompt,
      seed,
      metadata: pictureMetadata({ prompt, seed, guidance, model: info.name, loaded, batch }, r),
    });
  });
}
