/** The thread of {@link encodePngAsync}. */
import { parentPort } from 'node:worker_threads';

import { encodePng } from './png.js';
import type { PngReply, PngTask } from './png-thread.js';

parentPort?.on('message', ({ id, image, metadata }: PngTask) => {
  let reply: PngReply;
  try {
    // A copy that owns its memory, so that it can be handed over.
    reply = { id, png: new Uint8Array(encodePng(image, metadata)) };
  } catch (error) {
    reply = { id, error };
  }
  parentPort?.postMessage(reply, reply.png ? [reply.png.buffer as ArrayBuffer] : []);
});
