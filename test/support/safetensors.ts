/** A small safetensors reader for fixtures. The package's own reader is native; tests must not depend on it. */

import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { isAbsolute } from 'node:path';
import { fileURLToPath } from 'node:url';

/** Absolute path of a file below test/fixtures. */
export function fixturePath(name: string): string {
  return fileURLToPath(new URL(`../fixtures/${name}`, import.meta.url));
}

/**
 * Absolute path of a file of the golden data that is not in the repository for its size, or undefined where the folder
 * shared/ is not beside it. Tests that need one are skipped there.
 */
export function sharedFixture(name: string): string | undefined {
  const path = fileURLToPath(new URL(`../../../shared/fixtures/${name}`, import.meta.url));
  return existsSync(path) ? path : undefined;
}

interface Entry {
  dtype: string;
  shape: number[];
  data_offsets: [number, number];
}

export interface RawTensor {
  dtype: string;
  shape: number[];
  data: Uint8Array;
}

/** The tensors of one file; element access by name and type, copied out of the file's buffer. */
export class SafeTensors {
  readonly #entries: Record<string, Entry>;
  readonly #data: Buffer;

  private constructor(entries: Record<string, Entry>, data: Buffer) {
    this.#entries = entries;
    this.#data = data;
  }

  /** @param name path below test/fixtures, or an absolute path */
  static open(name: string): SafeTensors {
    const file = readFileSync(isAbsolute(name) ? name : fixturePath(name));
    const headerSize = Number(file.readBigUInt64LE(0));
    const header = JSON.parse(file.toString('utf8', 8, 8 + headerSize)) as Record<string, Entry>;
    delete header['__metadata__'];
    return new SafeTensors(header, file.subarray(8 + headerSize));
  }

  get names(): string[] {
    return Object.keys(this.#entries);
  }

  has(name: string): boolean {
    return name in this.#entries;
  }

  shape(name: string): number[] {
    return this.#entry(name).shape;
  }

  dtype(name: string): string {
    return this.#entry(name).dtype;
  }

  /** The tensor as it lies in the file. */
  raw(name: string): RawTensor {
    return { dtype: this.dtype(name), shape: this.shape(name), data: new Uint8Array(this.#bytes(name)) };
  }

  /** All tensors by name, to be changed and written again with {@link writeSafeTensors}. */
  all(): Map<string, RawTensor> {
    return new Map(this.names.map((name) => [name, this.raw(name)]));
  }

  /** F32, F64, F16 or BF16, as float32. */
  float32(name: string): Float32Array {
    const { dtype } = this.#entry(name);
    const bytes = this.#bytes(name);
    switch (dtype) {
      case 'F32':
        return new Float32Array(bytes);
      case 'F64':
        return Float32Array.from(new Float64Array(bytes));
      case 'BF16':
        return new Float32Array(Uint32Array.from(new Uint16Array(bytes), (h) => (h << 16) >>> 0).buffer);
      case 'F16':
        return Float32Array.from(new Uint16Array(bytes), fromHalf);
      default:
        throw new Error(`${name} is ${dtype}, not a floating type`);
    }
  }

  /** F64, or F32 widened. */
  float64(name: string): Float64Array {
    return this.dtype(name) === 'F64'
      ? new Float64Array(this.#bytes(name))
      : Float64Array.from(this.float32(name));
  }

  /** I64, whose values must fit 32 bits. */
  int32(name: string): Int32Array {
    if (this.dtype(name) !== 'I64') throw new Error(`${name} is not I64`);
    return Int32Array.from(new BigInt64Array(this.#bytes(name)), Number);
  }

  /** BOOL, one byte each. */
  bool(name: string): Uint8Array {
    if (this.dtype(name) !== 'BOOL') throw new Error(`${name} is not BOOL`);
    return new Uint8Array(this.#bytes(name));
  }

  #entry(name: string): Entry {
    const entry = this.#entries[name];
    if (entry === undefined) throw new Error(`No tensor ${name}`);
    return entry;
  }

  #bytes(name: string): ArrayBuffer {
    const [begin, end] = this.#entry(name).data_offsets;
    return Uint8Array.from(this.#data.subarray(begin, end)).buffer;
  }
}

function fromHalf(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction === 0 ? sign * Infinity : NaN;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

export function writeSafeTensors(target: string, tensors: ReadonlyMap<string, RawTensor>): void {
  const header: Record<string, Entry> = {};
  let end = 0;
  for (const [name, { dtype, shape, data }] of tensors) {
    header[name] = { dtype, shape, data_offsets: [end, (end += data.length)] };
  }
  writeFileSync(target, Buffer.concat([encodeHeader(header), ...[...tensors.values()].map((t) => t.data)]));
}

function encodeHeader(header: Record<string, Entry>): Buffer {
  const text = Buffer.from(JSON.stringify(header));
  const padded = Buffer.concat([text, Buffer.alloc((8 - (text.length % 8)) % 8, ' ')]);
  const size = Buffer.alloc(8);
  size.writeBigUInt64LE(BigInt(padded.length));
  return Buffer.concat([size, padded]);
}

/** Writes a copy of a fixture without the tensors that `drop` names. */
export function copyWithout(name: string, target: string, drop: (tensor: string) => boolean): void {
  const file = readFileSync(fixturePath(name));
  const headerSize = Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.toString('utf8', 8, 8 + headerSize)) as Record<string, Entry>;
  // Offsets stay as they are: the format allows bytes that no tensor uses.
  const kept = Object.fromEntries(Object.entries(header).filter(([tensor]) => !drop(tensor)));
  writeFileSync(target, Buffer.concat([encodeHeader(kept), file.subarray(8 + headerSize)]));
}
