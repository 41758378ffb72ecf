/**
 * What a tokenizer is made of, as bytes that threads share. To clone a vocabulary for a thread holds up the event loop for
 * tens of milliseconds; here it is written as JSON, a piece in every turn, once for all threads.
 */
import { setImmediate } from 'node:timers/promises';

import { ERROR_CODES, JitFluxError } from '../errors.js';
import type { TokenizerSource } from './types.js';

/** Words, merges and the like that one turn writes. A millisecond's work. */
const ENTRIES_A_TURN = 2000;

const written = new WeakMap<TokenizerSource, Promise<SharedArrayBuffer>>();

/**
 * The bytes of a tokenizer's source, written when they are first asked for and kept as long as it lives.
 * @throws (rejects) ERR_JITFLUX_OUT_OF_MEMORY
 */
export function sharedSource(source: TokenizerSource): Promise<SharedArrayBuffer> {
  let bytes = written.get(source);
  if (bytes === undefined) {
    bytes = write(source);
    written.set(source, bytes);
    // Who asks is told; the next one tries again.
    bytes.catch(() => written.delete(source));
  }
  return bytes;
}

/** On the thread. */
export function readSharedSource(bytes: SharedArrayBuffer): TokenizerSource {
  return JSON.parse(Buffer.from(bytes).toString('utf8')) as TokenizerSource;
}

async function write(source: TokenizerSource): Promise<SharedArrayBuffer> {
  const pieces: Buffer[] = [];
  let size = 0;
  for (const text of jsonPieces(source)) {
    const piece = Buffer.from(text, 'utf8');
    pieces.push(piece);
    size += piece.length;
    // Most are a bracket or the name of a field.
    if (piece.length > ENTRIES_A_TURN) await setImmediate();
  }
  try {
    const bytes = new SharedArrayBuffer(size);
    const view = new Uint8Array(bytes);
    let at = 0;
    for (const piece of pieces) {
      view.set(piece, at);
      at += piece.length;
    }
    return bytes;
  } catch (cause) {
    const { name } = source;
    throw new JitFluxError(
      ERROR_CODES.OUT_OF_MEMORY,
      `There is no memory for the ${size} bytes of ${name} that threads share`,
      { path: name, bytes: size },
      { cause },
    );
  }
}

/** The JSON of plain data, in pieces of a bounded number of entries. */
function* jsonPieces(value: unknown): Generator<string> {
  if (Array.isArray(value)) {
    yield '[';
    for (let at = 0; at < value.length; at += ENTRIES_A_TURN) {
      if (at > 0) yield ',';
      yield JSON.stringify(value.slice(at, at + ENTRIES_A_TURN)).slice(1, -1);
    }
    yield ']';
  } else if (typeof value === 'object' && value !== null) {
    const fields = value as Record<string, unknown>;
    const names = Object.keys(fields);
    yield '{';
    if (names.length > ENTRIES_A_TURN) {
      // A vocabulary, which is of numbers.
      const entry = (name: string) => `${JSON.stringify(name)}:${JSON.stringify(fields[name])}`;
      for (let at = 0; at < names.length; at += ENTRIES_A_TURN) {
        yield at > 0 ? ',' : '';
        yield names
          .slice(at, at + ENTRIES_A_TURN)
          .map(entry)
          .join(',');
      }
    } else {
      const given = names.filter((name) => fields[name] !== undefined);
      for (const [i, name] of given.entries()) {
        yield `${i > 0 ? ',' : ''}${JSON.stringify(name)}:`;
        yield* jsonPieces(fields[name]);
      }
    }
    yield '}';
  } else {
    yield JSON.stringify(value);
  }
}
