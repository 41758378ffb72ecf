#!/usr/bin/env node
// From a fresh clone to a working checkout: tools, npm ci, TypeScript, LibTorch, native libraries. Idempotent; what is up
// to date is left alone.
import { bootstrap } from './lib/bootstrap.mjs';
import { log, main } from './lib/tools.mjs';

await main(async () => {
  await bootstrap();
  log('ready');
});
