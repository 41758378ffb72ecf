// What jit_flux_bench measures: the engine's parts without JavaScript.
import { gemmCeilings, runNative } from '../lib/native.mjs';
import { hasFailed, part } from '../lib/part.mjs';
import { duration, number, ratioText, table } from '../lib/table.mjs';

/** No target depends on single kernels: `quick` leaves them out. */
const PARTS = {
  full: /** @type {const} */ (['ceilings', 'kernels', 'attention', 'jit-operators']),
  quick: /** @type {const} */ (['ceilings', 'attention', 'jit-operators']),
  smoke: /** @type {const} */ (['ceilings', 'kernels', 'attention', 'jit-operators']),
};

/** @param {import('../lib/section-process.mjs').Context} context */
export default async function native(context) {
  /** @type {Record<string, any>} */
  const documents = {};
  for (const name of PARTS[context.mode]) {
    documents[name] = await part(name, context, () => runNative(name, context));
  }
  return { documents };
}

/** @param {Awaited<ReturnType<typeof native>>} result */
export function print({ documents }) {
  /** @type {(m: any) => string} */
  const rate = (m) =>
    m?.gflops !== undefined
      ? `${number(m.gflops)} GFLOP/s`
      : m?.gbytes_per_s !== undefined
        ? `${number(m.gbytes_per_s)} GB/s`
        : m?.ns_per_token !== undefined
          ? `${number(m.ns_per_token)} ns/token`
          : '';
  /** @type {(params: any) => string} */
  const parameters = (params) =>
    Object.entries(params ?? {})
      .map(([name, value]) => `${name}=${value}`)
      .join(' ');
  const ceilings = Object.entries(gemmCeilings(documents.ceilings)).map(
    ([dtype, gflops]) => `${dtype} ${number(gflops)} GFLOP/s`,
  );
  const rows = Object.entries(documents).flatMap(([name, document]) =>
    hasFailed(document)
      ? [[name, `failed: ${document.error}`]]
      : document.rows.map((/** @type {any} */ row) => [
          name,
          `${row.name} ${parameters(row.params)}`,
          duration(row.ours?.seconds),
          rate(row.ours),
          duration(row.reference?.seconds),
          rate(row.reference),
          row.ratio ? ratioText(row.ratio) : '',
          row.difference === undefined ? '' : number(row.difference),
        ]),
  );
  return [
    table(['part', 'what', 'ours', '', 'reference', '', 'ratio', 'difference'], rows),
    `GEMM ceilings: ${ceilings.join(', ')}`,
  ].join('\n');
}
