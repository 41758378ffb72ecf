import { readFileSync } from 'node:fs';
import { fixturePath } from './safetensors.js';

/** A fixture manifest; the caller states the part of its type that it uses. */
export function readManifest<M>(name: string): M {
  return JSON.parse(readFileSync(fixturePath(name), 'utf8')) as M;
}
