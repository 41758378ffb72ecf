/** PNG encoding on a thread of its own, for programs whose event loop must not wait for it. */
import { onAbort } from '../abort.js';
import { Worker } from 'node:worker_threads';

import { abortedError, ERROR_CODES, JitFluxError, throwIfAborted } from '../errors.js';
import { readOptions } from '../arguments.js';
import { PACKAGE_FILES, shippedFile } from '../files/package-files.js';
import { threadFlags } from '../files/thread-flags.js';
import { checkImage, checkMetadata, type PngMetadata, type RgbImage } from './png.js';

/** To the thread. */
export interface PngTask {
  id: number;
  image: RgbImage;
  metadata: PngMetadata;
}

/** From the thread: one of `png` and `error`. */
export interface PngReply {
  id: number;
  png?: Uint8Array;
  error?: unknown;
}

interface Waiting {
  resolve(png: Uint8Array): void;
  reject(error: unknown): void;
}

let worker: Worker | undefined;
let lastId = 0;
const waiting = new Map<number, Waiting>();

/**
 * {@link encodePng} on another thread, which is started when first needed and keeps no process alive. The same bytes.
 * @throws what `encodePng` throws, ERR_JITFLUX_ABORTED, and ERR_JITFLUX_NATIVE if there is no thread to be had
 */
export async function encodePngAsync(
  image: RgbImage,
  metadata: PngMetadata = {},
  o: { signal?: AbortSignal | undefined } = {},
): Promise<Uint8Array> {
  const { signal } = readOptions(o, { signal: true });
  throwIfAborted(signal);
  // Here, where errors keep their class.
  const task = { image: checkImage(image), metadata: checkMetadata(metadata) };
  const id = ++lastId;
  let leave: (() => void) | undefined;
  try {
    return await new Promise<Uint8Array>((resolve, reject) => {
      leave = onAbort(signal, () => reject(abortedError(signal)));
      waiting.set(id, { resolve, reject });
      worker ??= start();
      worker.ref();
      worker.postMessage({ id, ...task } satisfies PngTask);
    });
  } finally {
    leave?.();
    forget(id);
  }
}

function start(): Worker {
  const program = shippedFile(PACKAGE_FILES.pngWorker);
  let thread: Worker;
  try {
    thread = new Worker(program, { execArgv: threadFlags(), name: 'jit-flux png' });
  } catch (cause) {
    throw threadFailed((cause as Error).message, cause);
  }
  thread.on('message', ({ id, png, error }: PngReply) => {
    const caller = waiting.get(id);
    if (png) caller?.resolve(png);
    else caller?.reject(error);
  });
  const fail = (error: unknown): void => {
    if (worker !== thread) return; // said already
    worker = undefined;
    for (const caller of waiting.values()) caller.reject(error);
  };
  thread.on('error', (error) => fail(threadFailed(error.message, error)));
  thread.on('exit', (code) => fail(threadFailed(`it ended with code ${code}`)));
  return thread;
}

function threadFailed(reason: string, cause?: unknown): JitFluxError {
  return new JitFluxError(ERROR_CODES.NATIVE, `The thread that encodes PNG failed: ${reason}`, undefined, {
    cause,
  });
}

function forget(id: number): void {
  waiting.delete(id);
  if (waiting.size === 0) worker?.unref();
}
