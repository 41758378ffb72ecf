import { readFileSync, readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';

it('the sampler depends on nothing but itself, the types, the errors, the reading of arguments, JSON and disposal', () => {
  const folder = fileURLToPath(new URL('../../../src/sampler/', import.meta.url));
  const files = readdirSync(folder);
  expect(files).toContain('index.ts');
  for (const file of files) {
    const source = readFileSync(folder + file, 'utf8');
    for (const [, module] of source.matchAll(/(?:from|import)\s*\(?\s*'([^']+)'/g)) {
      expect(module, file).toMatch(/^(\.\/[a-z-]+\.js|\.\.\/(types|errors|arguments|json|disposal)\.js)$/);
    }
  }
  const reading = readFileSync(`${folder}../arguments.ts`, 'utf8');
  expect([...reading.matchAll(/from '([^']+)'/g)].map(([, module]) => module)).toEqual(['./errors.js']);
  const errors = readFileSync(`${folder}../errors.ts`, 'utf8');
  expect([...errors.matchAll(/from '([^']+)'/g)].map(([, module]) => module)).toEqual(['./json.js']);
  for (const file of ['types.ts', 'json.ts', 'disposal.ts']) {
    expect(readFileSync(`${folder}../${file}`, 'utf8')).not.toMatch(/^import /m);
  }
});
