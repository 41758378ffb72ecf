/** The thread of `encodeOnThread`. */
import { parentPort, workerData } from 'node:worker_threads';

import { JitFluxError } from '../errors.js';
import { readSharedSource } from './shared-source.js';
import { Tokenizer } from './tokenizer.js';
import type { TokenizerReply, TokenizerTask } from './tokenizer-thread.js';

const { source, prompts, length } = workerData as TokenizerTask;
let reply: TokenizerReply;
try {
  const tokenizer = new Tokenizer(readSharedSource(source));
  reply = { encoded: prompts.map((prompt) => tokenizer.encode(prompt, length)) };
} catch (error) {
  if (!(error instanceof JitFluxError)) throw error;
  reply = { code: error.code, message: error.message, path: error.details?.['path'] };
}
parentPort?.postMessage(reply);
