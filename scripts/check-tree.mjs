#!/usr/bin/env node
// What may be tracked: no file over 1.5 MB but the bundled model's and the exceptions below, each with its reason.
//   node scripts/check-tree.mjs
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { ROOT, UserError, capture, main } from './lib/tools.mjs';

const LIMIT_BYTES = 1.5e6;
const BUNDLED_MODEL = 'models/flux-tiny/';
/** @type {Record<string, string>} */
const EXCEPTIONS = {
  'test/fixtures/e2e/e2e.jit4x_16x16.safetensors':
    'trajectory of the released JiT code, a tensor of every step',
  'test/fixtures/flux/flux-mini.safetensors': 'weights of the transformer that most golden tests run',
  'tools/flux-tiny/judge/detector.safetensors':
    'scores of the bundled model mean nothing without the detector that gave them; it is in half precision already',
};

await main(() => {
  const listed = capture('git', ['ls-files', '-z']);
  if (listed === undefined) {
    console.log('check-tree skipped: this is no git checkout');
    return;
  }
  const problems = [];
  const found = new Set();
  for (const path of listed.split('\0').filter(Boolean)) {
    const bytes = statSync(join(ROOT, path), { throwIfNoEntry: false })?.size ?? 0;
    if (bytes <= LIMIT_BYTES || path.startsWith(BUNDLED_MODEL)) continue;
    found.add(path);
    if (!(path in EXCEPTIONS))
      problems.push(`${path} has ${(bytes / 1e6).toFixed(1)} MB; the limit is ${LIMIT_BYTES / 1e6} MB`);
  }
  for (const path of Object.keys(EXCEPTIONS))
    if (!found.has(path)) problems.push(`${path} is an exception in scripts/check-tree.mjs and needs none`);
  if (problems.length > 0) throw new UserError(`\n${problems.map((problem) => `  - ${problem}`).join('\n')}`);
  console.log(`check-tree: ${found.size} files over ${LIMIT_BYTES / 1e6} MB, all with a reason`);
});
