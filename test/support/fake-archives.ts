/** Archives as `setup` takes them, and manifests that pin these. */
import { createHash } from 'node:crypto';
import { crc32, deflateRawSync } from 'node:zlib';
import type { LibTorchManifest } from '../../src/libtorch/libtorch.js';

export const LIBRARY_NAMES = ['libgomp.so.1', 'libc10.so', 'libtorch_cpu.so', 'libtorch.so'];

export interface FakeEntry {
  name: string;
  data: string | Buffer;
  deflate?: boolean;
  /** High half of the external attributes. */
  unixMode?: number;
  /** Recorded instead of the true CRC. */
  crc?: number;
}

/** A zip archive with the given entries. */
export function makeZip(entries: FakeEntry[]): Buffer {
  const locals: Buffer[] = [];
  const directory: Buffer[] = [];
  let offset = 0;
  for (const { name, data, deflate = true, unixMode = 0o100644, crc } of entries) {
    const content = Buffer.from(data);
    const packed = deflate ? deflateRawSync(content) : content;
    const nameBytes = Buffer.from(name);
    const common = Buffer.alloc(26);
    common.writeUInt16LE(20, 0);
    common.writeUInt16LE(deflate ? 8 : 0, 4);
    common.writeUInt32LE(crc ?? crc32(content), 10);
    common.writeUInt32LE(packed.length, 14);
    common.writeUInt32LE(content.length, 18);
    common.writeUInt16LE(nameBytes.length, 22);
    const local = Buffer.concat([Buffer.from('PK\x03\x04'), common, nameBytes, packed]);
    const tail = Buffer.alloc(14);
    tail.writeUInt32LE(unixMode * 0x10000, 6);
    tail.writeUInt32LE(offset, 10);
    directory.push(Buffer.concat([Buffer.from('PK\x01\x02\x14\x03'), common, tail, nameBytes]));
    locals.push(local);
    offset += local.length;
  }
  const directoryBytes = Buffer.concat(directory);
  const end = Buffer.alloc(18);
  end.writeUInt16LE(entries.length, 4);
  end.writeUInt16LE(entries.length, 6);
  end.writeUInt32LE(directoryBytes.length, 8);
  end.writeUInt32LE(offset, 12);
  return Buffer.concat([...locals, directoryBytes, Buffer.from('PK\x05\x06'), end]);
}

/** A wheel like PyTorch's: libraries, headers, version, licence, and Python code that is not wanted. */
export function makeWheel(version: string, libraries = LIBRARY_NAMES): Buffer {
  return makeZip([
    ...libraries.map((name) => ({
      name: `torch/lib/${name}`,
      data: `library ${name}`,
      unixMode: 0o100755,
    })),
    { name: 'torch/lib/large.bin', data: Buffer.alloc(3 << 20, 7) },
    { name: 'torch/lib/stored.bin', data: Buffer.alloc(2 << 20, 9), deflate: false },
    { name: 'torch/include/ATen/ATen.h', data: '#pragma once\n' },
    { name: 'torch/include/empty.h', data: '', deflate: false },
    { name: 'torch/share/cmake/Torch/TorchConfig.cmake', data: '# cmake\n' },
    { name: 'torch/version.py', data: `__version__ = '${version}'\n` },
    { name: 'torch/nn/functional.py', data: 'pass\n' },
    { name: 'torch-1.dist-info/licenses/LICENSE', data: 'BSD\n' },
    { name: 'torch-1.dist-info/RECORD', data: 'torch/version.py\n' },
  ]);
}

/** A wheel like those of NVIDIA. */
export function makeNvidiaWheel(name: string, library: string): Buffer {
  return makeZip([
    { name: `nvidia/cu13/lib/${library}`, data: `library ${library}` },
    { name: `nvidia/cu13/include/${name}.h`, data: '#pragma once\n' },
    { name: 'nvidia/cu13/__init__.py', data: '' },
    { name: `nvidia_${name}-1.dist-info/licenses/License.txt`, data: 'NVIDIA\n' },
    { name: `nvidia_${name}-1.dist-info/RECORD`, data: '' },
  ]);
}

/** A manifest whose cu130 variant consists of these archives, which no source but `--from` and mirrors has. */
export function makeCudaManifest(wheels: Record<string, Buffer>): LibTorchManifest {
  const manifest = makeManifest(Buffer.alloc(0));
  manifest.variants.cu130 = {
    version: '2.14.1',
    available: true,
    cuda: true,
    directory: 'torch',
    unpackedSize: 0,
    archives: Object.entries(wheels).map(([file, wheel]) => ({
      file,
      root: file.startsWith('nvidia') ? 'nvidia' : 'torch',
      size: wheel.length,
      sha256: createHash('sha256').update(wheel).digest('hex'),
      url: `http://127.0.0.1:9/${file}`,
    })),
  };
  return manifest;
}

/** A manifest that pins `wheel`, whose URL leads nowhere (port 9 of this machine) and which pip does not know. */
export function makeManifest(
  wheel: Buffer,
  overrides: { url?: string; sha256?: string } = {},
): LibTorchManifest {
  return {
    version: '2.13.0',
    supported: { minimum: '2.11', maximum: '2.14' },
    defaultVariant: 'cpu',
    variants: {
      cpu: {
        version: '2.13.0',
        available: true,
        unpackedSize: 0,
        archives: [
          {
            file: 'torch-2.13.0.whl',
            root: 'torch',
            size: wheel.length,
            sha256: overrides.sha256 ?? createHash('sha256').update(wheel).digest('hex'),
            url: overrides.url ?? 'http://127.0.0.1:9/torch-2.13.0.whl',
          },
        ],
      },
      cu130: {
        version: '2.14.1',
        available: false,
        unavailableReason: 'not pinned yet',
        unpackedSize: 0,
        archives: [],
      },
    },
  };
}
