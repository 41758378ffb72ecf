import { buildNative } from './native.mjs';
import { ensureDependencies, ensureTools, ensureTypeScript } from './steps.mjs';

/** From nothing to a built checkout. */
export async function bootstrap() {
  ensureTools();
  ensureDependencies();
  ensureTypeScript();
  await buildNative();
}
