#!/usr/bin/env node
// src/ to dist/, with the declarations for `require`.
import { compileTypeScript } from './lib/steps.mjs';
import { main } from './lib/tools.mjs';

await main(async () => {
  compileTypeScript();
});
