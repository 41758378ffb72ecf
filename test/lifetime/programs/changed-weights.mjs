// What comes of weight files that are truncated, rewritten or replaced while they are in use. Prints a JSON object: for
// every case that was asked for, the code of the error or 'ok'. In a process of its own: what goes wrong here is a signal.
//   node test/lifetime/programs/changed-weights.mjs <case>...
import {
  copyFileSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { FluxTransformer, inspectWeights, memoryReport, T5Encoder } from '../../../dist/engine/index.js';
import { convertModel } from '../../../dist/index.js';
import { encode, ROPE_AXES, step, writeT5, writeTransformer } from './models.mjs';

const folder = mkdtempSync(join(tmpdir(), 'jit-flux-changed-'));
process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
const flux = writeTransformer(join(folder, 'flux.safetensors'));
const t5 = writeT5(join(folder, 't5.safetensors'));

let copies = 0;
/** A copy that a case may spoil. */
const copyOf = (/** @type {string} */ path) => {
  const to = join(folder, `${copies++}.safetensors`);
  copyFileSync(path, to);
  return to;
};
/** Of a file's data, only the last megabyte is lost: headers and most tensors are there. */
const cut = (/** @type {string} */ path) => truncateSync(path, statSync(path).size - (1 << 20));
const cutToHalf = (/** @type {string} */ path) => truncateSync(path, Math.floor(statSync(path).size / 2));
/** The same size, other contents. */
const rewrite = (/** @type {string} */ path) => {
  const bytes = readFileSync(path);
  bytes.fill(0x3c, bytes.length / 2);
  writeFileSync(path, bytes);
};
const replace = (/** @type {string} */ path) => {
  const bytes = readFileSync(path);
  bytes.fill(0x3c, bytes.length / 2);
  writeFileSync(`${path}.new`, bytes);
  renameSync(`${path}.new`, path);
};
const descriptorsOf = (/** @type {string} */ path) =>
  readdirSync('/proc/self/fd').filter((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`).startsWith(path);
    } catch {
      return false;
    }
  }).length;

/** @type {Disposable[]} */
const kept = [];
/**
 * To be disposed at the end of the case.
 * @template {Disposable} T
 * @param {T} model
 */
const keep = (model) => {
  kept.push(model);
  return model;
};
const equal = (/** @type {Float32Array} */ a, /** @type {Float32Array} */ b) => {
  if (a.length !== b.length || a.some((value, i) => value !== b[i])) throw new Error('other values');
};

/** Loads a copy, uses it once if `warm`, spoils it and uses it again. */
const transformer =
  (
    /** @type {(path: string) => void} */ spoil,
    /** @type {import('jit-flux').LoadOptions} */ options = {},
    warm = false,
  ) =>
  async () => {
    const path = copyOf(flux);
    const model = keep(await FluxTransformer.load(path, { ropeAxes: ROPE_AXES, ...options }));
    const before = warm ? await step(model) : undefined;
    spoil(path);
    const after = await step(model);
    if (before) equal(after, before);
  };
const encoder =
  (/** @type {(path: string) => void} */ spoil, /** @type {import('jit-flux').LoadOptions} */ options = {}) =>
  async () => {
    const path = copyOf(t5);
    const model = keep(await T5Encoder.load(path, options));
    const before = await encode(model);
    spoil(path);
    equal(await encode(model), before);
  };

/** @type {Record<string, () => Promise<void>>} */
const CASES = {
  'packed, truncated before the first step': transformer(cutToHalf),
  'packed, rewritten before the first step': transformer(rewrite),
  'int8, truncated before the first step': transformer(cutToHalf, { quantize: 'int8' }),
  'as the file holds them, truncated before the first step': transformer(cutToHalf, { packWeights: false }),
  'as the file holds them, truncated between steps': transformer(cutToHalf, { packWeights: false }, true),
  'as the file holds them, the end truncated': transformer(cut, { packWeights: false }, true),
  'as the file holds them, rewritten between steps': transformer(rewrite, { packWeights: false }, true),
  'as the file holds them, replaced by renaming': transformer(replace, { packWeights: false }, true),
  'modulation read anew, truncated between steps': transformer(cutToHalf, { keepModulation: false }, true),
  'not mapped, truncated before the first step': transformer(cutToHalf, { mapWeights: false }),
  'not mapped, truncated between steps': transformer(
    cutToHalf,
    { mapWeights: false, packWeights: false },
    true,
  ),
  'not mapped, deleted': transformer(rmSync, { mapWeights: false, quantize: 'int8' }, true),
  'not mapped, modulation read anew, truncated': transformer(
    cutToHalf,
    { mapWeights: false, keepModulation: false },
    true,
  ),
  'T5, truncated between prompts': encoder(cutToHalf),
  'T5, rewritten between prompts': encoder(rewrite),
  'T5, replaced by renaming': encoder(replace),
  'T5 not mapped, truncated between prompts': encoder(cutToHalf, { mapWeights: false }),
  // On this thread while the inference thread is in the middle of a block: where the access is a SIGBUS.
  'T5, truncated while it encodes': async () => {
    for (let round = 0; round < 4; round++) {
      const path = copyOf(t5);
      const model = keep(await T5Encoder.load(path));
      await encode(model);
      let finished = false;
      const encoding = encode(model, 16).then(
        () => 'ok',
        (error) => error.code,
      );
      void encoding.then(() => (finished = true));
      await new Promise((resolve) => setTimeout(resolve, 10 * round));
      const inTime = !finished;
      cutToHalf(path);
      const code = await encoding;
      if (inTime && code !== 'ERR_JITFLUX_WEIGHTS_CHANGED') throw new Error(`round ${round}: ${code}`);
    }
  },
  'not mapped: no mapping and no descriptor is left': async () => {
    const [one, two] = [copyOf(flux), copyOf(t5)];
    const before = (await memoryReport()).engine.mappedBytes;
    const model = keep(await FluxTransformer.load(one, { ropeAxes: ROPE_AXES, mapWeights: false }));
    const text = keep(await T5Encoder.load(two, { mapWeights: false }));
    await step(model);
    await encode(text);
    const maps = readFileSync('/proc/self/maps', 'utf8');
    const after = (await memoryReport()).engine.mappedBytes;
    if (after > before || maps.includes(one) || maps.includes(two)) throw new Error('mapped');
    if (descriptorsOf(one) + descriptorsOf(two) > 0) throw new Error('open');
  },
  'not mapped: the same values in every form': async () => {
    for (const form of [{}, { packWeights: false }, { quantize: /** @type {const} */ ('int8') }]) {
      const mapped = keep(await FluxTransformer.load(flux, { ropeAxes: ROPE_AXES, ...form }));
      const copied = keep(
        await FluxTransformer.load(flux, { ropeAxes: ROPE_AXES, ...form, mapWeights: false }),
      );
      equal(await step(copied), await step(mapped));
    }
    const mapped = keep(await T5Encoder.load(t5));
    const copied = keep(await T5Encoder.load(t5, { mapWeights: false }));
    equal(await encode(copied), await encode(mapped));
  },
  'inspected while it is truncated': async () => {
    const path = copyOf(flux);
    const bytes = readFileSync(path);
    for (let round = 0; round < 40; round++) {
      const inspecting = inspectWeights(path).catch((error) => {
        if (!String(error.code).startsWith('ERR_JITFLUX_')) throw error;
      });
      truncateSync(path, round * 200);
      await inspecting;
      writeFileSync(path, bytes);
    }
  },
  'converted while it is truncated': async () => {
    // Progress is told while the conversion goes on, and a small file may be done before it is cut: then once more.
    for (let attempt = 0; attempt < 20; attempt++) {
      const path = copyOf(flux);
      let spoiled = false;
      await convertModel(path, join(folder, `converted-${copies++}.safetensors`), {
        dtype: 'bfloat16',
        onProgress: () => {
          if (!spoiled) cutToHalf(path);
          spoiled = true;
        },
      });
    }
  },
};

/** @type {Record<string, string>} */
const outcomes = {};
const wanted = process.argv.slice(2);
for (const name of wanted.length > 0 ? wanted : Object.keys(CASES)) {
  outcomes[name] = await CASES[name]().then(
    () => 'ok',
    (error) => error.code ?? `${error}`,
  );
  for (const model of kept.splice(0)) model[Symbol.dispose]();
}
console.log(JSON.stringify(outcomes));
