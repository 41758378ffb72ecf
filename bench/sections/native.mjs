// What the machine can do at best, and our kernels, attention and JiT operators without JavaScript.
import { gemmCeilings, runNative } from '../lib/native.mjs';
import { duration, number, ratioText, table } from '../lib/table.mjs';

const PARTS = ['ceilings', 'kernels', 'attention', 'jit-operators'];
/** No target depends on single kernels. */
const QUICK_PARTS = PARTS.filter((part) => part !== 'kernels');

/** @param {import('../lib/section-process.mjs').Context} context */
export default async function native(context) {
  const documents = {};
  const parts = context.quick ? QUICK_PARTS : PARTS;
  for (const part of parts) documents[part] = await runNative(part, context);
  return { documents, rows: parts.flatMap((part) => documents[part].rows.map((row) => ({ part, ...row }))) };
}

export function print({ rows, documents }) {
  const rate = (m) =>
    m?.gflops !== undefined
      ? `${number(m.gflops)} GFLOP/s`
      : m?.gbytes_per_s !== undefined
        ? `${number(m.gbytes_per_s)} GB/s`
        : m?.ns_per_token !== undefined
          ? `${number(m.ns_per_token)} ns/token`
          : '';
  const parameters = (params) =>
    Object.entries(params ?? {})
      .map(([name, value]) => `${name}=${value}`)
      .join(' ');
  const ceilings = Object.entries(gemmCeilings(documents.ceilings)).map(
    ([dtype, gflops]) => `${dtype} ${number(gflops)} GFLOP/s`,
  );
  return `${table(
    ['part', 'what', 'ours', '', 'reference', '', 'ratio'],
    rows.map(({ part, name, params, ours, reference, ratio }) => [
      part,
      `${name} ${parameters(params)}`,
      duration(ours?.seconds),
      rate(ours),
      duration(reference?.seconds),
      rate(reference),
      ratio ? ratioText(ratio) : '',
    ]),
  )}\nGEMM ceilings: ${ceilings.join(', ')}`;
}
