/** Prompts to what the transformer is conditioned on, whatever a model's text encoders are. */
import { ERROR_CODES, invalidArgument, JitFluxError, throwIfAborted } from '../errors.js';
import { ClipTextEncoder, T5Encoder, Tensor, TorchScriptModule } from '../engine/index.js';
import { type EncodedPrompt, loadClipTokenizer, loadT5Tokenizer, Tokenizer } from '../text/index.js';
import type { LoadOptions } from '../types.js';
import {
  checkTextOptions,
  componentOptions,
  moduleOptions,
  textPlacement,
} from '../model/component-options.js';
import type { ModelInfo, ModelWithFiles, NativeTextFiles, TorchScriptText } from '../model/spec.js';
import { RequestQueue } from './request-queue.js';
import { Resources, sameShape } from './resources.js';
import type { GenerateWarning } from './warning.js';

/** Tokens of a prompt by encoder, special tokens included, before anything was cut. */
export type TokenCounts = Partial<Record<'text' | 'clip' | 't5', number>>;

/** What a {@link TextConditioner} returns. The caller disposes both tensors. */
export interface TextConditions {
  /** [prompts, length, width] */
  prompt: Tensor;
  /** [prompts, width] */
  pooled: Tensor;
  /** Truncation and unknown words. */
  warnings: GenerateWarning[];
  /** One entry per prompt. */
  tokens: TokenCounts[];
}

/** A model's tokenizers and text encoders. */
export interface TextConditioner {
  /**
   * @param o.length number of text tokens; shorter prompts are padded, longer ones cut and warned of
   */
  encode(prompts: readonly string[], o: { length: number; signal: AbortSignal }): Promise<TextConditions>;
  dispose(): void;
}

/** What the transformer takes. */
export interface TextWidths {
  textDim: number;
  pooledDim: number;
}

/**
 * Loads the text encoders of a model.
 * @param o.keepTextEncoders false: nothing but the tokenizers is loaded now; encoders come and go with every call
 */
export async function loadTextConditioner(
  source: ModelWithFiles,
  options: LoadOptions,
): Promise<TextConditioner> {
  const { text, info } = source;
  const o = componentOptions(options, textPlacement(options, text));
  if (text === undefined) {
    throw invalidArgument('textEncoders', 'text encoders, to encode a prompt', false);
  }
  checkTextOptions(o, text);
  const load =
    text.kind === 'native'
      ? await prepareNative(text, info.name, o.signal)
      : await prepareTorchScript(text, source, o.signal);
  return o.keepTextEncoders === false ? new TransientConditioner(load, o) : load(o);
}

/** Loads what was prepared: tokenizers are there, weights come now. */
type LoadConditioner = (o: LoadOptions) => Promise<TextConditioner>;

async function prepareNative(
  text: NativeTextFiles,
  model: string,
  signal: AbortSignal | undefined,
): Promise<LoadConditioner> {
  const tokenizers = {
    clip: await loadClipTokenizer(text.clip.tokenizer, { signal }),
    t5: await loadT5Tokenizer(text.t5.tokenizer, { signal }),
  };
  return async ({ quantizeTextEncoders: quantize, ...options }) => {
    let clip: ClipTextEncoder | undefined;
    try {
      clip = await ClipTextEncoder.load(text.clip.weights.path, {
        ...options,
        settings: text.clip.settings,
      });
      const t5 = await T5Encoder.load(text.t5.weights.path, {
        ...options,
        ...(quantize && { quantize }),
        settings: text.t5.settings,
      });
      return new NativeConditioner(model, tokenizers, { clip, t5 });
    } catch (error) {
      clip?.dispose();
      throw error;
    }
  };
}

async function prepareTorchScript(
  text: TorchScriptText,
  { info, path }: ModelWithFiles,
  signal: AbortSignal | undefined,
): Promise<LoadConditioner> {
  const tokenizer = await Tokenizer.load(text.tokenizer, { signal });
  if (tokenizer.specialTokens > info.text.length) {
    throw new JitFluxError(
      ERROR_CODES.INVALID_MODEL,
      `${path}: text.length: is less than the tokenizer's special tokens`,
      { path, field: 'text.length' },
    );
  }
  return async (o) =>
    new TorchScriptConditioner(
      info,
      tokenizer,
      await TorchScriptModule.load(text.weights.path, moduleOptions(o)),
    );
}

/** A TorchScript module: token ids to (pooled, sequence). */
class TorchScriptConditioner implements TextConditioner {
  readonly #model: ModelInfo;
  readonly #tokenizer: Tokenizer;
  readonly #encoder: TorchScriptModule;

  constructor(model: ModelInfo, tokenizer: Tokenizer, encoder: TorchScriptModule) {
    this.#model = model;
    this.#tokenizer = tokenizer;
    this.#encoder = encoder;
  }

  async encode(
    prompts: readonly string[],
    { length, signal }: { length: number; signal: AbortSignal },
  ): Promise<TextConditions> {
    const encoded = await tokenize(this.#tokenizer, prompts, length, signal);
    const { words: vocabulary } = this.#tokenizer;
    const o = { length, model: this.#model.name, vocabulary, examples: this.#model.text.examples };
    const warnings = prompts.flatMap((_, i) => warningsFor(encoded[i], i, o));
    throwIfAborted(signal);
    using ids = idTensor(encoded);
    const outputs = await this.#encoder.run([ids], { signal });
    const [pooled, prompt] = outputs;
    if (outputs.length !== 2 || signal.aborted) {
      for (const output of outputs) output.dispose();
      throwIfAborted(signal);
      throw new JitFluxError(
        ERROR_CODES.INVALID_MODEL,
        `The text encoder of ${this.#model.name} returned ${outputs.length} tensors instead of two`,
      );
    }
    return {
      prompt: prompt as Tensor,
      pooled: pooled as Tensor,
      warnings,
      tokens: encoded.map(({ tokens }) => ({ text: tokens })),
    };
  }

  dispose(): void {
    this.#encoder.dispose();
  }
}

/** FLUX.1's own: CLIP gives the pooled prompt, T5 the text tokens. */
class NativeConditioner implements TextConditioner {
  readonly #model: string;
  readonly #tokenizers: { clip: Tokenizer; t5: Tokenizer };
  readonly #encoders: { clip: ClipTextEncoder; t5: T5Encoder };

  constructor(
    model: string,
    tokenizers: { clip: Tokenizer; t5: Tokenizer },
    encoders: { clip: ClipTextEncoder; t5: T5Encoder },
  ) {
    this.#model = model;
    this.#tokenizers = tokenizers;
    this.#encoders = encoders;
  }

  async encode(
    prompts: readonly string[],
    { length, signal }: { length: number; signal: AbortSignal },
  ): Promise<TextConditions> {
    // FLUX pads to CLIP's full length, whatever the length of T5's text.
    const clipLength = this.#encoders.clip.config.maxTokens;
    const clip = await tokenize(this.#tokenizers.clip, prompts, clipLength, signal);
    const t5 = await tokenize(this.#tokenizers.t5, prompts, length, signal);
    const warnings = prompts.flatMap((_, i) => [
      ...warningsFor(clip[i], i, { length: clipLength, model: this.#model, encoder: 'clip' }),
      ...warningsFor(t5[i], i, { length, model: this.#model, encoder: 't5' }),
    ]);
    using resources = new Resources();
    const clipIds = resources.add(idTensor(clip));
    const t5Ids = resources.add(idTensor(t5));
    const { pooled, hidden } = await this.#encoders.clip.encode(clipIds, { signal });
    hidden.dispose();
    try {
      const prompt = await this.#encoders.t5.encode(t5Ids, { signal });
      const tokens = prompts.map((_, i) => ({ clip: clip[i]?.tokens ?? 0, t5: t5[i]?.tokens ?? 0 }));
      return { prompt, pooled, warnings, tokens };
    } catch (error) {
      pooled.dispose();
      throw error;
    }
  }

  dispose(): void {
    this.#encoders.clip.dispose();
    this.#encoders.t5.dispose();
  }
}

/** Loads the encoders for every call and releases them after it. One call at a time, or memory would be taken twice. */
class TransientConditioner implements TextConditioner {
  readonly #load: LoadConditioner;
  readonly #options: LoadOptions;
  readonly #lock = new RequestQueue();

  constructor(load: LoadConditioner, { onProgress: _progress, signal: _signal, ...options }: LoadOptions) {
    this.#load = load;
    this.#options = options;
  }

  async encode(
    prompts: readonly string[],
    o: { length: number; signal: AbortSignal },
  ): Promise<TextConditions> {
    const release = await this.#lock.acquire(o.signal);
    let conditioner: TextConditioner | undefined;
    try {
      conditioner = await this.#load({ ...this.#options, signal: o.signal });
      return await conditioner.encode(prompts, o);
    } finally {
      conditioner?.dispose();
      release();
    }
  }

  dispose(): void {
    // Nothing is held between calls.
  }
}

/**
 * Checks what the encoders returned against what the transformer takes.
 * @throws ERR_JITFLUX_INVALID_MODEL, after disposing both tensors
 */
export function checkConditions(
  { prompt, pooled }: TextConditions,
  o: { model: string; prompts: number; length: number; widths: TextWidths },
): void {
  const { textDim, pooledDim } = o.widths;
  const fits =
    sameShape(pooled.shape, [o.prompts, pooledDim]) &&
    sameShape(prompt.shape, [o.prompts, o.length, textDim]);
  if (fits) return;
  const shapes = [pooled, prompt].map(({ shape }) => `[${shape.join(', ')}]`).join(' and ');
  prompt.dispose();
  pooled.dispose();
  throw new JitFluxError(
    ERROR_CODES.INVALID_MODEL,
    `The text encoder of ${o.model} returned ${shapes}; the transformer needs ` +
      `[${o.prompts}, ${pooledDim}] and [${o.prompts}, ${o.length}, ${textDim}]`,
  );
}

async function tokenize(
  tokenizer: Tokenizer,
  prompts: readonly string[],
  length: number,
  signal: AbortSignal,
): Promise<EncodedPrompt[]> {
  if (length < tokenizer.specialTokens) {
    throw invalidArgument('maxSequenceLength', `at least ${tokenizer.specialTokens}`, length);
  }
  return tokenizer.encodeAll(prompts, length, { signal });
}

/** [prompts, length] int64. */
function idTensor(encoded: readonly EncodedPrompt[]): Tensor {
  const ids = BigInt64Array.from(
    encoded.flatMap((row) => row.ids),
    BigInt,
  );
  return Tensor.from(ids, [encoded.length, ids.length / encoded.length]);
}

function warningsFor(
  encoded: EncodedPrompt | undefined,
  prompt: number,
  o: {
    length: number;
    model: string;
    encoder?: 'clip' | 't5';
    vocabulary?: readonly string[] | undefined;
    examples?: readonly string[] | undefined;
  },
): GenerateWarning[] {
  const warnings: GenerateWarning[] = [];
  if (encoded === undefined) return warnings;
  const { truncated, unknown: words } = encoded;
  const encoder = o.encoder && { encoder: o.encoder };
  if (truncated > 0) {
    const what = truncated === 1 ? 'token was' : 'tokens were';
    const whose = { clip: ' of the CLIP text encoder', t5: ' of the T5 text encoder' };
    // T5 describes the picture in detail; what CLIP misses is only its summary.
    const relief = o.encoder === 'clip' ? ' there (T5 sees more of the prompt)' : '';
    warnings.push({
      code: 'PROMPT_TRUNCATED',
      message:
        `The prompt is longer than ${o.length} tokens${o.encoder ? whose[o.encoder] : ''}; ` +
        `its last ${truncated} ${what} ignored${relief}`,
      prompt,
      truncated,
      ...encoder,
    });
  }
  if (words.length > 0) {
    const { vocabulary, examples } = o;
    const told = [
      `Not in the vocabulary of ${o.model}: ${quotedList(words)}`,
      vocabulary && `It knows: ${vocabulary.join(' ')}`,
      examples && `Prompts that work: ${examples.map((text) => JSON.stringify(text)).join('; ')}`,
    ];
    warnings.push({
      code: 'UNKNOWN_WORDS',
      message: told.filter((part) => part !== undefined).join('. '),
      prompt,
      words: words.slice(0, MOST_WORDS),
      ...(vocabulary && { vocabulary: [...vocabulary] }),
      ...(examples && { examples: [...examples] }),
      ...encoder,
    });
  }
  return warnings;
}

/** Of a warning. */
const MOST_WORDS = 100;
const MOST_CHARACTERS = 200;

/** Words in quotes, as many as a message takes. */
function quotedList(words: readonly string[]): string {
  let list = '';
  for (const [i, word] of words.entries()) {
    const next = JSON.stringify(word.slice(0, MOST_CHARACTERS));
    if (i > 0 && list.length + next.length > MOST_CHARACTERS) return `${list} and ${words.length - i} more`;
    list += i === 0 ? next : `, ${next}`;
  }
  return list;
}
