/** Every function of both entry points has a property: a new export without one fails here. */
import { expect, it } from 'vitest';

import * as main from '../../src/index.js';
import * as sampler from '../../src/sampler/index.js';
import { family as cli } from './families/cli.js';
import { family as engine } from './families/engine.js';
import { family as model } from './families/model.js';
import { family as pipeline } from './families/pipeline.js';
import { family as samplerFamily } from './families/sampler.js';
import { COMMANDS } from '../../src/cli/commands.js';
import { commandName, COMMON_FLAGS, flagsOf, LETTERS } from '../../src/cli/flags.js';

/** What no caller is to call: the documentation does not list it, and types say `@internal`. */
const INTERNAL = [
  // Private; test/unit/constructors.test.ts calls them.
  /^new (Tensor|Conditioning|FluxTransformer|ClipTextEncoder|T5Encoder|Autoencoder|TorchScriptModule)$/,
  /^new (FluxPipeline|EncodedPrompts|DecodedImage|GeneratedImage)$/,
  /^Tensor\.on$/,
  /^Random\.is$/,
  /#runJob$/,
];

/** What another target calls with the same arguments. */
const WITH: Record<string, string> = {
  // Of its subclass.
  'DecodedImage#toPNG': 'GeneratedImage#toPNG',
  'DecodedImage#toJSON': 'GeneratedImage#toJSON',
  'DecodedImage#toPNGAsync': 'GeneratedImage#toPNGAsync',
  'SamplerCore#[Symbol.dispose]': 'SamplerCore#dispose',
  // Of the sampler's base class.
  'JitSampler#[Symbol.asyncIterator]': 'new JitSampler',
  'JitSampler#dispose': 'new JitSampler',
  'JitSampler#[Symbol.dispose]': 'new JitSampler',
  'Tensor#[Symbol.dispose]': 'Tensor#dispose',
  'Conditioning#[Symbol.dispose]': 'Conditioning#dispose',
  'EncodedPrompts#[Symbol.dispose]': 'EncodedPrompts#dispose',
  'FluxPipeline#[Symbol.asyncDispose]': 'FluxPipeline#dispose',
  ...Object.fromEntries(
    [
      ['FluxTransformer', 'transformer'],
      ['ClipTextEncoder', 'clip'],
      ['T5Encoder', 't5'],
      ['Autoencoder', 'vae'],
      ['TorchScriptModule', 'script'],
    ].flatMap(([type, key]) =>
      ['dispose', '[Symbol.dispose]', '[Symbol.asyncDispose]'].map((method) => [
        `${type}#${method}`,
        `dispose of ${key}`,
      ]),
    ),
  ),
};

function isClass(value: unknown): value is { prototype: object } {
  return typeof value === 'function' && /^class\b/.test(Function.prototype.toString.call(value));
}

/** Names of an object's functions, whatever they are called by. */
function functionNames(holder: object): string[] {
  return Reflect.ownKeys(holder)
    .filter((key) => typeof Object.getOwnPropertyDescriptor(holder, key)?.value === 'function')
    .map((key) =>
      typeof key === 'symbol' ? `[${key.description?.replace('nodejs.', 'Symbol.')}]` : String(key),
    );
}

/** Methods of a class, also those that it inherits. */
function methodsOf(prototype: object): string[] {
  const names = new Set<string>();
  for (let at = prototype; at !== Object.prototype; at = Object.getPrototypeOf(at) as object) {
    for (const name of functionNames(at)) if (name !== 'constructor') names.add(name);
  }
  return [...names];
}

/** Functions, constructors and methods of an entry point, by the names that targets have. */
function functionsOf(entry: Record<string, unknown>): string[] {
  return Object.entries(entry).flatMap(([name, value]) => {
    if (isClass(value)) {
      if (value.prototype instanceof Error) return [`new ${name}`];
      return [
        `new ${name}`,
        ...functionNames(value).map((method) => `${name}.${method}`),
        ...methodsOf(value.prototype).map((method) => `${name}#${method}`),
      ];
    }
    if (typeof value === 'function') return [name];
    if (typeof value !== 'object' || value === null) return [];
    return functionNames(value).map((method) => `${name}.${method}`);
  });
}

const targets = new Set(
  [samplerFamily, engine, model, pipeline, cli].flatMap((family) => family.targets.map(({ name }) => name)),
);

it.each([
  ['jit-flux', main],
  ['jit-flux/sampler', sampler],
])('every export of %s is called with hostile arguments', (_, entry) => {
  const missing = functionsOf(entry)
    .filter((name) => !INTERNAL.some((pattern) => pattern.test(name)))
    .filter((name) => !targets.has(WITH[name] ?? name));
  expect(missing).toEqual([]);
});

it('what stands for another target is one', () => {
  expect(Object.values(WITH).filter((name) => !targets.has(name))).toEqual([]);
});

it('a new export is noticed', () => {
  const entry = {
    added: () => undefined,
    holder: { method: () => undefined },
    Added: class {
      act() {}
    },
  };
  expect(functionsOf(entry)).toEqual(['added', 'holder.method', 'new Added', 'Added#act']);
});

it('every option of every command is typed', () => {
  const letters = new Map([
    ...Object.entries(LETTERS).map(([flag, letter]) => [`-${letter}`, flag] as const),
    [`-${COMMON_FLAGS.verbose.alias}`, 'verbose'],
  ]);
  const typed = (command?: string): Set<string> =>
    new Set(
      cli.targets
        .filter(({ name }) => command === undefined || name.split(' ')[1] === command)
        .flatMap((target) => target.good({} as never) as unknown[])
        .map((word) => (typeof word === 'object' ? (word as { word: string }).word : (word as string)))
        .map((word) => letters.get(word) ?? word.replace(/^--(no-)?/, '').replace(/=.*/, '')),
    );
  const missing = COMMANDS.flatMap((command) => {
    const name = commandName(command);
    const words = typed(name);
    return [...flagsOf(command).keys()]
      .filter((flag) => !Object.hasOwn(COMMON_FLAGS, flag) && !words.has(flag))
      .map((flag) => `${name} --${flag}`);
  });
  expect(missing).toEqual([]);
  // Those of all commands with one of these.
  expect(Object.keys(COMMON_FLAGS).filter((flag) => !typed().has(flag))).toEqual([]);
});
