#!/usr/bin/env node
// One picture from the bundled model, from a fresh clone on: `npm run demo -- "a red circle above a blue square"`.
// Arguments after the prompt go to `jit-flux generate`.
import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { bootstrap } from './lib/bootstrap.mjs';
import { ROOT, UserError, log, main, run } from './lib/tools.mjs';

const DEFAULT_PROMPT = 'a red circle left of a striped blue square on a grey background';
const DEFAULT_SEED = '7';

await main(async () => {
  const args = process.argv.slice(2);
  const isPromptGiven = args[0] !== undefined && !args[0].startsWith('-');
  const prompt = (isPromptGiven ? args.shift() : undefined) ?? DEFAULT_PROMPT;
  await bootstrap();
  const model = join(ROOT, 'models', 'flux-tiny');
  if (!args.some((arg) => /^--model(=|$)/.test(arg))) {
    if (!existsSync(model)) throw new UserError(`The bundled model is missing: ${model}`);
    args.push('--model', model);
  }
  if (!args.some((arg) => /^--seed(=|$)/.test(arg))) args.push('--seed', DEFAULT_SEED);
  let output = outputOf(args);
  if (output === undefined) {
    output = 'demo.png';
    args.push('-o', join(ROOT, output));
  }
  run(process.execPath, [join(ROOT, 'dist', 'cli', 'main.js'), 'generate', prompt, ...args], {
    name: 'generate',
  });
  log(`picture: ${resolve(ROOT, output)}`);
});

/** @param {string[]} args */
function outputOf(args) {
  const index = args.findIndex((arg) => arg === '-o' || arg === '--out');
  return index >= 0 ? args[index + 1] : args.find((arg) => arg.startsWith('--out='))?.slice(6);
}
