#!/usr/bin/env node
// Prints which room of the house uses which, how often, and what the tables of scripts/lib/arrows.mjs do not allow.
//   node scripts/arrows.mjs [native | typescript]
import { arrowList, violations } from './lib/arrows.mjs';
import { ROOT, UserError, main } from './lib/tools.mjs';

await main(async () => {
  const named = process.argv.slice(2);
  const kinds = named.length === 0 ? ['native', 'typescript'] : named;
  for (const kind of kinds) {
    if (kind !== 'native' && kind !== 'typescript') throw new UserError(`Unknown argument: ${kind}`);
    const wrong = violations(ROOT, kind);
    console.log(`${kind}\n${arrowList(ROOT, kind)}`);
    for (const line of wrong) console.log(`not allowed: ${line}`);
    if (wrong.length > 0) process.exitCode = 1;
    console.log('');
  }
});
