// Pictures over HTTP, with Fastify: one pipeline, a bounded queue, cancellation, clean shutdown (docs/embedding.md).
//   npm install fastify
//   PORT=8080 node examples/server.mjs
//   curl -d '{"prompt":"a red circle over the sea"}' -H content-type:application/json localhost:8080/images -o a.png
import Fastify from 'fastify';
import { BUNDLED_MODEL, FluxPipeline, PRESET_NAMES } from 'jit-flux';

const { HOST = '127.0.0.1', PORT = '8080', MAX_QUEUE = '20', GRACE_SECONDS = '20' } = process.env;

const pipeline = await FluxPipeline.load(BUNDLED_MODEL, { concurrency: 1, maxQueue: Number(MAX_QUEUE) });

await pipeline.warmUp();

const app = Fastify({
  bodyLimit: 16 * 1024,
  // What is wrong is told, not corrected.
  ajv: { customOptions: { coerceTypes: false, removeAdditional: false } },
});

const side = { type: 'integer', minimum: 16, maximum: 512 };
const body = {
  type: 'object',
  required: ['prompt'],
  additionalProperties: false,
  properties: {
    prompt: { type: 'string', minLength: 1, maxLength: 2000 },
    preset: { enum: PRESET_NAMES },
    seed: { type: 'integer', minimum: 0, maximum: Number.MAX_SAFE_INTEGER },
    width: side,
    height: side,
  },
};

app.post('/images', { schema: { body } }, async (request, reply) => {
  // 'close' before the answer is complete: the client has gone, and so goes its request, waiting or running.
  const gone = new AbortController();
  reply.raw.once('close', () => {
    if (!reply.raw.writableFinished) gone.abort(new Error('the client has disconnected'));
  });
  const wanted = /** @type {import('jit-flux').GenerateRequest} */ (request.body); // as the schema has checked
  const { images, seed, timings } = await pipeline.generate({ ...wanted, signal: gone.signal });
  const png = await images[0].toPNGAsync({ signal: gone.signal });
  return reply
    .type('image/png')
    .header('x-seed', String(seed))
    .header('server-timing', `queue;dur=${timings.queued.toFixed()}, generate;dur=${timings.total.toFixed()}`)
    .send(Buffer.from(png.buffer, png.byteOffset, png.byteLength));
});

app.get('/health', () => ({ status: 'ok', model: pipeline.model.name, ...pipeline.stats() }));

app.setErrorHandler((/** @type {import('fastify').FastifyError} */ error, _, reply) => {
  // Ours and Fastify's own, such as a body that does not fit the schema, bring their status.
  const { code, message, statusCode: status } = error;
  if (status === undefined || status === 500) {
    // What went wrong inside is for the log, not for the client.
    console.error(error);
    return reply.code(500).send({ code: 'ERR_INTERNAL', message: 'Internal error' });
  }
  if (status === 503) {
    const { requests, limits, milliseconds } = pipeline.stats();
    const turns = (requests.waiting + 1) / limits.concurrency;
    reply.header('retry-after', Math.max(1, Math.ceil((turns * milliseconds.total.mean) / 1000)));
  }
  return reply.code(status).send({ code, message });
});

let stopping = false;
// A kept-alive connection would hold up the end.
app.addHook('onSend', async (_, reply) => {
  if (stopping) reply.header('connection', 'close');
});

async function stop() {
  if (stopping) return;
  stopping = true;
  // No new requests; those that are there have some time, then they are aborted and answered with 503.
  const timer = setTimeout(() => void pipeline.dispose(), Number(GRACE_SECONDS) * 1000);
  await app.close();
  clearTimeout(timer);
  await pipeline.dispose();
}
process.once('SIGTERM', stop);
process.once('SIGINT', stop);

console.log(`listening on ${await app.listen({ host: HOST, port: Number(PORT) })}`);
