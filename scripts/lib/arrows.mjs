// Rooms and arrows: which folder of native/ and src/ may use which. An arrow is one #include or import that leaves its
// room. test/unit/arrows-native.test.ts and test/unit/arrows.test.ts hold the code to the tables below;
// `node scripts/arrows.mjs` prints what is there.
import { readFileSync, readdirSync } from 'node:fs';
import { dirname, extname, join, posix } from 'node:path';

/** @typedef {'native' | 'typescript'} Kind */
/** @typedef {{ file: string, target: string, from: string, to: string }} Arrow paths from the repository's root */

/**
 * What each room may use, itself aside. From the top of the house down: an arrow from a room to one above it cannot be
 * allowed without closing a circle. A file beside the rooms of src/ is a room of its own name.
 * @type {Record<Kind, Record<string, string[]>>}
 */
export const ALLOWED = {
  native: {
    loader: [],
    // The JavaScript bindings of libjit_flux_core.so and libjit_flux_weights.so, and what both share.
    addon: [
      'node',
      'models/*',
      'jit',
      'residency',
      'layers',
      'runtime',
      'describe',
      'weights',
      'kernels',
      'base',
    ],
    weights_addon: ['node', 'convert', 'describe', 'weights', 'base'],
    node: ['describe', 'weights', 'base'],
    // A model never uses another.
    'models/*': ['residency', 'layers', 'runtime', 'describe', 'weights', 'kernels', 'base'],
    residency: ['layers', 'runtime', 'describe', 'weights', 'kernels', 'base'],
    jit: ['runtime', 'kernels', 'base'],
    layers: ['runtime', 'kernels', 'base'],
    // The host side of libjit_flux_cuda.so.
    cuda: ['runtime', 'kernels', 'base'],
    runtime: ['kernels', 'base'],
    // Without LibTorch from here down: files in another format, what models are made of, formats of files.
    convert: ['describe', 'weights', 'base'],
    describe: ['weights', 'base'],
    weights: ['base'],
    'kernels/cpu': ['kernels'],
    'kernels/cuda': ['kernels'],
    kernels: ['base'],
    base: [],
  },
  typescript: {
    index: ['pipeline', 'convert', 'model', 'engine', 'libtorch', 'sampler', 'text', 'image', 'diagnostics', 'logging', 'arguments', 'errors', 'types', 'disposal'], // prettier-ignore
    cli: ['pipeline', 'convert', 'model', 'engine', 'libtorch', 'sampler', 'text', 'image', 'files', 'diagnostics', 'logging', 'arguments', 'errors', 'types', 'json'], // prettier-ignore
    pipeline: ['model', 'engine', 'sampler', 'text', 'image', 'files', 'diagnostics', 'logging', 'arguments', 'callbacks', 'abort', 'errors', 'types', 'json'], // prettier-ignore
    convert: ['model', 'engine', 'files', 'arguments', 'errors', 'types'],
    model: ['engine', 'sampler', 'text', 'files', 'arguments', 'errors', 'types'],
    engine: ['libtorch', 'sampler', 'files', 'logging', 'arguments', 'callbacks', 'abort', 'errors', 'types'],
    libtorch: ['files', 'arguments', 'callbacks', 'errors'],
    // Published as jit-flux/sampler too: pure, nothing but arithmetic.
    sampler: ['arguments', 'errors', 'types', 'json', 'disposal'],
    text: ['files', 'abort', 'errors'],
    image: ['files', 'arguments', 'abort', 'errors'],
    files: ['abort', 'errors'],
    diagnostics: ['errors', 'types'],
    logging: ['arguments', 'callbacks', 'errors', 'types'],
    // Reading what callers hand over.
    arguments: ['errors'],
    callbacks: ['abort'],
    abort: ['errors'],
    errors: ['json'],
    types: [],
    // What a context of node:vm lacks.
    disposal: [],
    // What results are in JSON.
    json: [],
  },
};

/** Rooms of native/ whose code runs without LibTorch too: no header of it, and none of ours above them. */
export const WITHOUT_LIBTORCH = [
  'loader',
  'weights_addon',
  'node',
  'convert',
  'describe',
  'weights',
  'kernels/cpu',
  'kernels/cuda',
  'kernels',
  'base',
];

const SOURCES = {
  native: { folder: 'native', extensions: ['.h', '.c', '.cc', '.cu', '.cuh'] },
  typescript: { folder: 'src', extensions: ['.ts', '.cts'] },
};

/**
 * The room of a file, its path as from the repository's root.
 * @param {string} file
 * @param {Kind} kind
 * @returns {string}
 */
export function roomOf(file, kind) {
  const parts = file.split('/').slice(1);
  if (parts.length === 1) return parts[0].replace(/\.\w+$/, '');
  const [room, folder] = parts;
  const nested = parts.length > 2 && kind === 'native' && (room === 'models' || room === 'kernels');
  return nested ? `${room}/${folder}` : room;
}

/**
 * The rooms that there are.
 * @param {string} root the repository
 * @param {Kind} kind
 * @returns {string[]}
 */
export function roomsOf(root, kind) {
  return [...new Set(sourcesOf(root, kind).map((file) => roomOf(file, kind)))].sort();
}

/**
 * Every source file, as a path from the repository's root.
 * @param {string} root
 * @param {Kind} kind
 * @returns {string[]}
 */
export function sourcesOf(root, kind) {
  const { folder, extensions } = SOURCES[kind];
  return readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((path) => extensions.includes(extname(path)))
    .map((path) => `${folder}/${path}`)
    .sort();
}

/**
 * Every include or import of one source file by another, within a room too.
 * @param {string} root
 * @param {Kind} kind
 * @returns {Arrow[]}
 */
export function uses(root, kind) {
  const files = sourcesOf(root, kind);
  const known = new Set(files);
  return files.flatMap((file) =>
    targetsOf(readFileSync(join(root, file), 'utf8'), file, kind)
      .filter((target) => known.has(target))
      .map((target) => ({ file, target, from: roomOf(file, kind), to: roomOf(target, kind) })),
  );
}

/**
 * The uses that leave their room.
 * @param {string} root
 * @param {Kind} kind
 * @returns {Arrow[]}
 */
export function arrows(root, kind) {
  return uses(root, kind).filter(({ from, to }) => from !== to);
}

/**
 * Paths from the repository's root that a source file names.
 * @param {string} source its text
 * @param {string} file its path
 * @param {Kind} kind
 * @returns {string[]}
 */
function targetsOf(source, file, kind) {
  /** @param {RegExp} pattern */
  const found = (pattern) => [...source.matchAll(pattern)].map(([, path]) => path);
  if (kind === 'native')
    return found(/^[ \t]*#[ \t]*include[ \t]+"([^"]+)"/gm).map((path) => `native/${path}`);
  return [
    // import ... from '...', export ... from '...', over several lines too; import '...'; import('...')
    ...found(/^(?:import|export)\b[^'";]*?\bfrom\s+'(\.[^']+)'/gm),
    ...found(/^import\s+'(\.[^']+)'/gm),
    ...found(/\bimport\(\s*'(\.[^']+)'\s*\)/g),
    ...found(/\brequire\(\s*'(\.[^']+)'\s*\)/g),
  ].map((path) => posix.join(dirname(file), path).replace(/\.(c?)js$/, '.$1ts'));
}

/**
 * Headers of LibTorch included by rooms that have to do without it, each as a line that names file and header.
 * @param {string} root
 * @returns {string[]}
 */
export function libtorchIncludes(root) {
  return sourcesOf(root, 'native')
    .filter((file) => WITHOUT_LIBTORCH.includes(roomOf(file, 'native')))
    .flatMap((file) =>
      [
        ...readFileSync(join(root, file), 'utf8').matchAll(
          /^[ \t]*#[ \t]*include[ \t]+[<"]((?:ATen|c10|torch|caffe2)\/[^>"]+)[>"]/gm,
        ),
      ].map(([, header]) => `${file} includes ${header}`),
    );
}

/**
 * What a room may use, by the table.
 * @param {string} room
 * @param {Kind} kind
 * @returns {string[] | undefined} undefined: the table does not know the room
 */
function allowedFor(room, kind) {
  const table = ALLOWED[kind];
  return table[room] ?? table[room.replace(/\/.*/, '/*')];
}

/**
 * Arrows that the table does not allow, each as a line that names file, target and arrow, and rooms it does not know.
 * @param {string} root
 * @param {Kind} kind
 * @returns {string[]}
 */
export function violations(root, kind) {
  const strangers = roomsOf(root, kind).filter((room) => allowedFor(room, kind) === undefined);
  const wrong = arrows(root, kind).filter(({ from, to }) => {
    const allowed = allowedFor(from, kind) ?? [];
    return !allowed.includes(to) && !allowed.includes(to.replace(/\/.*/, '/*'));
  });
  return [
    ...strangers.map((room) => `${room}: no such room in scripts/lib/arrows.mjs`),
    ...wrong.map(({ file, target, from, to }) => `${file} uses ${target}: ${from} -> ${to}`),
  ];
}

/**
 * Circles in a graph: its strongly connected parts of more than one node.
 * @param {Iterable<readonly [string, string]>} edges
 * @returns {string[][]}
 */
export function circles(edges) {
  /** @type {Map<string, Set<string>>} */
  const next = new Map();
  for (const [from, to] of edges) {
    if (!next.has(from)) next.set(from, new Set());
    next.get(from)?.add(to);
  }
  /** @param {string} start */
  const reach = (start) => {
    const seen = new Set();
    const open = [start];
    for (let node = open.pop(); node !== undefined; node = open.pop()) {
      for (const to of next.get(node) ?? []) {
        if (seen.has(to)) continue;
        seen.add(to);
        open.push(to);
      }
    }
    return seen;
  };
  const reached = new Map([...next.keys()].map((node) => [node, reach(node)]));
  const parts = [...reached]
    .filter(([node, there]) => there.has(node))
    .map(([node, there]) => [...there].filter((other) => reached.get(other)?.has(node)).sort());
  return [...new Map(parts.map((part) => [part.join(' '), part])).values()];
}

/**
 * The arrows between rooms with their numbers, as lines of text.
 * @param {string} root
 * @param {Kind} kind
 * @returns {string}
 */
export function arrowList(root, kind) {
  const all = arrows(root, kind);
  const lines = roomsOf(root, kind).map((room) => {
    /** @type {Record<string, number>} */
    const counts = {};
    for (const { from, to } of all) if (from === room) counts[to] = (counts[to] ?? 0) + 1;
    const list = Object.entries(counts).map(([to, count]) => `${to} ${count}`);
    return `${room} -> ${list.sort().join(', ') || 'nothing'}`;
  });
  const pairs = new Set(all.map(({ from, to }) => `${from} ${to}`));
  return [...lines, `${lines.length} rooms, ${pairs.size} arrows, ${all.length} uses`].join('\n');
}
