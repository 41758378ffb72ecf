import { readFileSync } from 'node:fs';

/** Version of this package: the one of its package.json. Read through this file's own place, which bundlers trace. */
export const VERSION: string = (
  JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { version: string }
).version;
