// One target in JavaScript, in a process of its own (scripts/fuzz.mjs starts and watches it): inputs that reach a branch
// more often than any before are kept and changed again.
//   node test/fuzz/support/loop.mjs <target> <settings as JSON>
import { createHash } from 'node:crypto';
import { mkdirSync, openSync, readdirSync, readFileSync, statSync, writeFileSync, writeSync } from 'node:fs';
import { register } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { MessageChannel } from 'node:worker_threads';
import { Random, mutate } from './mutate.mjs';

/**
 * @typedef {object} Target what a test/fuzz/<target>.mjs exports by default
 * @property {string[]} instrument parts of URLs of the modules whose branches count
 * @property {number} [maxLength]
 * @property {() => Promise<(input: Buffer) => unknown>} open imports what it tests; what it returns throws, or rejects, if
 *   a property does not hold
 * @property {(input: Buffer, o: { random: Random, change: (part: Buffer) => Buffer }) => Buffer | undefined} [mutate]
 *   keeps what must agree (lengths, checksums); undefined: as any bytes
 */

/**
 * @typedef {object} Settings
 * @property {string} file of the target
 * @property {string[]} inputs folders and files to begin with
 * @property {string} [keep] folder for new inputs
 * @property {string[]} words dictionary, as in libFuzzer's files
 * @property {number} runs
 * @property {number} seconds
 * @property {number} seed
 * @property {string} current where the input that runs is written, for whoever watches
 * @property {boolean} once runs the inputs and nothing else
 * @property {boolean} merge keeps of the inputs those that reach something new, the smallest first
 */

const settings = /** @type {Settings} */ (JSON.parse(/** @type {string} */ (process.argv[2])));
const table = new Uint8Array(1 << 16);
Object.assign(globalThis, { jitFluxCoverage: table });
// Libraries warn of what they do not know, for every input anew.
console.warn = () => undefined;

const target = /** @type {{ default: Target }} */ (await import(pathToFileURL(settings.file).href)).default;
const { port1, port2 } = new MessageChannel();
/** @type {string[]} */
const words = [...settings.words];
let places = 0;
port1.on('message', (/** @type {{ places: number[], words: string[] }} */ message) => {
  places = Math.max(places, message.places[1] ?? 0);
  words.push(...message.words);
});
port1.unref();
register('./instrument.mjs', {
  parentURL: import.meta.url,
  data: { wanted: target.instrument, port: port2 },
  transferList: [port2],
});
const run = await target.open();
await new Promise((done) => setTimeout(done, 50));
if (places === 0) throw new Error('no module of this target is instrumented');
if (places > table.length) throw new Error('more branches than the table has places');

const maxLength = target.maxLength ?? 4096;
const random = new Random(settings.seed);
const seen = new Uint8Array(table.length);
/** @type {Buffer[]} */
const corpus = [];
const dictionary = [...new Set(words)].filter((word) => word !== '').map((word) => Buffer.from(word, 'utf8'));
const current = openSync(settings.current, 'w');
const state = Buffer.alloc(8 + maxLength);
const began = Date.now();
let runs = 0;
let features = 0;
let kept = 0;

/** Of libFuzzer: how often a branch ran, in eight steps. @param {number} count */
const step = (count) =>
  count < 4 ? count - 1 : count < 8 ? 3 : count < 16 ? 4 : count < 32 ? 5 : count < 128 ? 6 : 7;

/**
 * Runs one input; true if it reached something new.
 * @param {Buffer} input
 */
async function attempt(input) {
  runs++;
  // What runs is there to read if this process ends or hangs.
  state.writeUInt32LE(runs >>> 0, 0);
  state.writeUInt32LE(input.length, 4);
  input.copy(state, 8);
  writeSync(current, state, 0, 8 + input.length, 0);
  table.fill(0, 0, places);
  const outcome = run(input);
  if (outcome instanceof Promise) await outcome;
  let isNew = false;
  for (let i = 0; i < places; i++) {
    const count = table[i];
    if (count === undefined || count === 0) continue;
    const bit = 1 << step(count);
    if (/** @type {number} */ (seen[i] & bit) === 0) {
      seen[i] = /** @type {number} */ (seen[i]) | bit;
      features++;
      isNew = true;
    }
  }
  return isNew;
}

/** @param {Buffer} input */
function keep(input) {
  if (settings.keep === undefined) return;
  const name = createHash('sha1').update(input).digest('hex');
  writeFileSync(join(settings.keep, name), input);
  kept++;
}

const reached = () => seen.subarray(0, places).reduce((sum, bits) => sum + (bits === 0 ? 0 : 1), 0);

function report(/** @type {string} */ what) {
  const seconds = Math.round((Date.now() - began) / 1000);
  console.error(
    `#${runs} ${what} cov: ${reached()} of ${places} ft: ${features} corp: ${corpus.length} ` +
      `exec/s: ${Math.round(runs / Math.max(1, seconds))} seconds: ${seconds}`,
  );
}

if (settings.keep !== undefined) mkdirSync(settings.keep, { recursive: true });
const inputs = settings.inputs
  .flatMap((path) =>
    statSync(path, { throwIfNoEntry: false })?.isDirectory()
      ? readdirSync(path).map((name) => join(path, name))
      : [path],
  )
  .filter((path) => statSync(path, { throwIfNoEntry: false })?.isFile())
  .map((path) => readFileSync(path).subarray(0, maxLength))
  .sort((a, b) => a.length - b.length);
for (const input of [Buffer.alloc(0), ...inputs]) {
  const isNew = await attempt(input);
  if (isNew || corpus.length === 0) corpus.push(input);
  if (isNew && settings.merge) keep(input);
}
report('INITED');
if (!settings.once && !settings.merge) {
  const end = settings.seconds > 0 ? began + settings.seconds * 1000 : Infinity;
  let shown = runs * 2;
  while (runs < settings.runs && (runs % 64 !== 0 || Date.now() < end)) {
    // Newer inputs more often.
    const index = random.below(2) === 0 ? random.below(corpus.length) : corpus.length - 1 - random.below(Math.min(corpus.length, 16)); // prettier-ignore
    const parent = /** @type {Buffer} */ (corpus[index]);
    const o = { random, words: dictionary, other: random.of(corpus), maxLength };
    const change = (/** @type {Buffer} */ part) => mutate(part, o);
    const special =
      target.mutate && random.below(8) !== 0 ? target.mutate(parent, { random, change }) : undefined;
    const input = (special ?? change(parent)).subarray(0, maxLength);
    if (await attempt(input)) {
      corpus.push(Buffer.from(input));
      keep(input);
    }
    if (runs % 1024 === 0) await new Promise((done) => setTimeout(done, 0));
    if (runs === shown) {
      report('pulse');
      shown *= 2;
    }
  }
}
report(settings.merge ? `MERGED ${kept}` : 'DONE');
process.exit(0);
