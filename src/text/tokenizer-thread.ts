/** Long prompts, encoded on a thread: an adversary's 20,000 characters take seconds. */
import { onAbort, untilAborted } from '../abort.js';
import { Worker } from 'node:worker_threads';

import { abortedError, ERROR_CODES, JitFluxError, type JitFluxErrorCode } from '../errors.js';
import { PACKAGE_FILES, shippedFile } from '../files/package-files.js';
import { threadFlags } from '../files/thread-flags.js';
import { sharedSource } from './shared-source.js';
import type { EncodedPrompt, TokenizerSource } from './types.js';

/** What is to be encoded, and by which tokenizer. */
interface EncodeRequest {
  source: TokenizerSource;
  prompts: readonly string[];
  length: number;
}

/** To the thread. */
export interface TokenizerTask extends Omit<EncodeRequest, 'source'> {
  /** Read by `readSharedSource`. */
  source: SharedArrayBuffer;
}

/** From the thread. Errors lose their class on the way. */
export type TokenizerReply =
  { encoded: EncodedPrompt[] } | { code: JitFluxErrorCode; message: string; path: unknown };

/** Of the thread's JavaScript. The largest tokenizers and 20,000 characters take a quarter of it. */
const MAX_HEAP_MEGABYTES = 1024;

/**
 * Encodes prompts on a thread of their own, which ends with the call. An abort ends it in the middle of its work.
 * @throws what `Tokenizer.encode` throws, ERR_JITFLUX_OUT_OF_MEMORY, ERR_JITFLUX_ABORTED, and ERR_JITFLUX_NATIVE if there
 *   is no thread to be had
 */
export async function encodeOnThread(
  { source, prompts, length }: EncodeRequest,
  signal: AbortSignal | undefined,
): Promise<EncodedPrompt[]> {
  const shared = await untilAborted(sharedSource(source), signal);
  const thread = start({ source: shared, prompts, length }, source.name);
  let leave: (() => void) | undefined;
  try {
    const reply = await new Promise<TokenizerReply>((resolve, reject) => {
      leave = onAbort(signal, () => reject(abortedError(signal)));
      thread.on('message', resolve);
      thread.on('error', (cause) => reject(threadError(source.name, cause)));
      thread.on('exit', () => reject(threadError(source.name)));
    });
    if ('encoded' in reply) return reply.encoded;
    throw new JitFluxError(reply.code, reply.message, { path: reply.path });
  } finally {
    leave?.();
    await thread.terminate();
  }
}

function start(task: TokenizerTask, name: string): Worker {
  const program = shippedFile(PACKAGE_FILES.tokenizerWorker);
  try {
    return new Worker(program, {
      workerData: task,
      execArgv: threadFlags(),
      name: 'jit-flux tokenizer',
      resourceLimits: { maxOldGenerationSizeMb: MAX_HEAP_MEGABYTES },
    });
  } catch (cause) {
    throw threadError(name, cause);
  }
}

function threadError(path: string, cause?: unknown): JitFluxError {
  const { code, message } = (cause ?? {}) as { code?: unknown; message?: string };
  if (code === 'ERR_WORKER_OUT_OF_MEMORY') {
    return new JitFluxError(
      ERROR_CODES.OUT_OF_MEMORY,
      `${path} needs more than ${MAX_HEAP_MEGABYTES} MB to encode a prompt`,
      { path },
      { cause },
    );
  }
  return new JitFluxError(
    ERROR_CODES.NATIVE,
    `The thread that encodes prompts failed: ${message ?? 'it ended without a result'}`,
    { path },
    { cause },
  );
}
