// The form of a result: every key that may be there, figures that are numbers, ratios where something is compared. A run
// checks the file that it wrote, so that a section which measures nothing any more, or something else, does not pass.
import { z } from 'zod';
import { CPU_CLASSES } from './lib/cpu-class.mjs';

/** In the order in which they run; later ones may use what earlier ones found. */
export const SECTIONS = /** @type {const} */ ([
  'native',
  'forward',
  'growth',
  'peer',
  'sampler',
  'load',
  'javascript',
  'parts',
  'autoencoder',
  'snapshot',
]);
/** Those that need a program which nobody has to have, and run where it is given. */
export const OPTIONAL_SECTIONS = /** @type {const} */ (['sdcpp']);

/** A time, a rate, a size: finite, as JSON has no others, and above zero. */
const positive = z.number().positive();
const count = z.int().positive();
/** What may be zero or below: differences of noisy figures. */
const finite = z.number();
const grid = z.tuple([count, count]);

const spread = z.strictObject({ median: positive, low: positive, high: positive, samples: count });
const failed = z.strictObject({ error: z.string().min(1) });

/**
 * A part that may have failed while others did not.
 * @template {z.ZodType} T
 * @param {T} schema
 */
const orFailed = (schema) => z.union([schema, failed]);

/**
 * The same with keys that are there in any case.
 * @template {z.core.$ZodLooseShape} Always
 * @template {z.core.$ZodLooseShape} Measured
 * @param {Always} always
 * @param {Measured} measured
 */
const rowOrFailed = (always, measured) =>
  z.union([
    z.strictObject({ ...always, ...measured }),
    z.strictObject({ ...always, error: z.string().min(1) }),
  ]);

const peerInfo = z.record(
  z.string(),
  orFailed(
    z.strictObject({
      torch: z.string(),
      threads: count,
      cpuCapability: z.string(),
      python: z.string().optional(),
    }),
  ),
);
const notes = z.array(z.string());
const implementation = z.enum(['aten', 'pytorch', 'diffusers', 'released']);
const type = z.enum(['float32', 'bfloat16', 'int8']);
const check = z.strictObject({
  type: type.optional(),
  implementation,
  difference: finite.nonnegative(),
  largest: finite.nonnegative(),
});

const nativeMeasurement = z.strictObject({
  name: z.string(),
  seconds: positive,
  gflops: positive.optional(),
  flops: positive.optional(),
  gbytes_per_s: positive.optional(),
  bytes: positive.optional(),
  ns_per_token: positive.optional(),
});
const nativeRow = z
  .strictObject({
    section: z.string(),
    name: z.string(),
    params: z.record(z.string(), z.union([z.string(), z.number()])),
    ours: nativeMeasurement,
    reference: nativeMeasurement.optional(),
    ratio: spread.optional(),
    difference: finite.nonnegative().optional(),
  })
  .refine((row) => (row.reference === undefined) === (row.ratio === undefined), {
    message: 'a reference needs a ratio',
  });
const nativeDocument = z.strictObject({
  section: z.string(),
  isa: z.string(),
  threads: count,
  mode: z.enum(['smoke', 'quick', 'full']),
  memory: z.enum(['arena', 'fresh']),
  rows: z.array(nativeRow).min(1),
  ceilings: z.record(z.string(), z.union([positive, z.string()])).optional(),
  slope: z.record(z.string(), finite).optional(),
});

const sectionSchemas = {
  native: {
    documents: z.strictObject({
      ceilings: orFailed(nativeDocument),
      kernels: orFailed(nativeDocument).optional(),
      attention: orFailed(nativeDocument),
      'jit-operators': orFailed(nativeDocument),
    }),
  },
  forward: {
    ceilings: orFailed(z.record(z.string(), positive)),
    cases: z
      .array(
        rowOrFailed(
          { model: z.string(), grid },
          {
            unavailable: z.array(z.strictObject({ kind: type, reason: z.string() })),
            rows: z
              .array(
                z.strictObject({
                  kind: type,
                  share: positive,
                  tokens: count,
                  seconds: spread,
                  flops: positive,
                  gflops: positive,
                  ceiling: positive.optional(),
                  ofCeiling: positive.optional(),
                  againstFloat32: spread,
                  againstDense: spread,
                  eagerSeconds: spread.optional(),
                  againstEager: spread.optional(),
                  differenceToFloat32: finite.nonnegative().optional(),
                }),
              )
              .min(1),
          },
        ),
      )
      .min(1),
  },
  growth: {
    model: z.string(),
    type,
    textTokens: count,
    axes: z
      .array(
        rowOrFailed(
          { axis: z.enum(['tokens', 'images', 'threads']) },
          {
            points: z
              .array(z.strictObject({ value: count, seconds: spread, flops: positive, gflops: positive }))
              .min(1),
          },
        ),
      )
      .min(1),
  },
  peer: {
    peers: peerInfo,
    notes,
    checkouts: z.record(z.string(), orFailed(z.strictObject({ version: z.string() }))),
    cases: z
      .array(
        rowOrFailed(
          { model: z.string(), grid },
          {
            unavailable: z.array(z.strictObject({ type, reason: z.string() })),
            checks: z.array(check.required({ type: true })).min(1),
            rows: z
              .array(
                z.strictObject({
                  type: z.enum(['float32', 'bfloat16', 'best']),
                  implementation,
                  oursType: type.optional(),
                  referenceType: type.optional(),
                  ours: spread.extend({ conditionSeconds: positive.optional() }),
                  reference: spread,
                  ratio: spread,
                }),
              )
              .min(1),
          },
        ),
      )
      .min(1),
  },
  sampler: {
    type,
    whole: orFailed(
      z.strictObject({
        model: z.string(),
        grid,
        rows: z
          .array(z.strictObject({ run: z.string(), seconds: spread, speedup: spread, flopRatio: positive }))
          .min(1),
      }),
    ),
    against: orFailed(
      z.strictObject({
        model: z.string(),
        grid,
        type,
        peers: peerInfo,
        notes,
        failed: z.record(z.string(), failed),
        checks: z.array(check),
        rows: z.array(z.strictObject({ implementation, ours: spread, reference: spread, ratio: spread })),
      }),
    ),
    composed: orFailed(
      z.strictObject({
        model: z.string(),
        grid,
        steps: z.array(z.strictObject({ share: positive, tokens: count, seconds: spread })).min(1),
        runs: z
          .array(
            z.strictObject({ preset: z.string(), seconds: spread, speedup: spread, flopRatio: positive }),
          )
          .min(1),
        operators: z
          .array(
            z.strictObject({
              preset: z.string(),
              tokens: count,
              gather: spread,
              step: spread,
              transition: spread,
              forward: spread,
              share: positive,
            }),
          )
          .min(1),
      }),
    ),
  },
  load: {
    archive: z.strictObject({ bytes: positive }),
    time: orFailed(
      z.strictObject({
        peers: peerInfo,
        notes,
        ours: spread,
        references: z.array(z.strictObject({ implementation, seconds: spread, ratio: spread })).min(1),
      }),
    ),
    memory: z
      .array(
        z.union([
          rowOrFailed(
            { kind: type },
            {
              fileBytes: positive,
              peak: positive,
              afterLoad: finite,
              resident: finite,
              ownResident: positive,
              engine: positive,
              prepareSeconds: finite,
              readSeconds: positive,
              ofFile: positive,
            },
          ),
          z.strictObject({ kind: type, fileBytes: positive, unavailable: z.string() }),
        ]),
      )
      .min(1),
  },
  javascript: (() => {
    const perStep = z.strictObject({ activeMsPerStep: spread, cpuMsPerStep: spread, wallMsPerStep: spread });
    const lag = z.strictObject({ p50: positive, p99: positive, max: positive, ticks: count });
    return {
      grid,
      preset: z.string(),
      sampler: perStep,
      bare: perStep,
      lag: z.strictObject({
        resolutionMs: positive,
        idle: lag,
        running: lag,
        added: z.strictObject({ p50: finite, p99: finite }),
      }),
    };
  })(),
  parts: {
    widths: z.enum(['flux', 'tiny']),
    peers: peerInfo,
    cases: z
      .array(
        rowOrFailed(
          { part: z.enum(['t5', 'clip', 'decoder', 'encoder']), type, size: count },
          { ours: spread, reference: spread, ratio: spread, difference: finite.nonnegative() },
        ),
      )
      .min(1),
    png: z.strictObject({ pixels: count, seconds: spread }),
  },
  autoencoder: {
    widths: z.enum(['flux', 'tiny']),
    rows: z
      .array(
        rowOrFailed(
          { what: z.enum(['decode', 'encode']), dtype: type, pixels: count, tiling: z.boolean() },
          { seconds: positive, peak: positive, estimate: positive.optional() },
        ),
      )
      .min(1),
  },
  sdcpp: {
    model: z.string(),
    pixels: count,
    textTokens: count,
    rows: z
      .array(
        rowOrFailed(
          { implementation: z.enum(['jit-flux', 'stable-diffusion.cpp']), type: z.string() },
          { seconds: spread },
        ),
      )
      .min(1),
  },
  snapshot: {
    model: z.string(),
    size: count,
    dtype: type,
    preset: z.string(),
    runs: z
      .array(
        rowOrFailed(
          { encoders: z.enum(['kept', 'released']) },
          {
            fileBytes: positive,
            phases: z
              .array(
                z.strictObject({
                  after: z.string(),
                  seconds: finite.nonnegative(),
                  resident: positive,
                  own: positive,
                  mapped: positive,
                  peak: positive,
                }),
              )
              .min(1),
            largestOwn: positive,
            parts: z
              .array(
                z.strictObject({
                  part: z.string(),
                  seconds: finite.nonnegative(),
                  steps: count.optional(),
                  activeTokens: count.optional(),
                  totalTokens: count.optional(),
                }),
              )
              .min(1),
          },
        ),
      )
      .min(1),
  },
};

const section = (/** @type {z.core.$ZodLooseShape} */ shape) =>
  z.union([
    z.strictObject({ ...shape, seconds: positive }),
    z.strictObject({ error: z.string().min(1), seconds: positive }),
  ]);

const documentSchema = z.strictObject({
  machine: z.strictObject({
    date: z.iso.datetime(),
    commit: z.string(),
    modified: z.boolean(),
    mode: z.enum(['smoke', 'quick', 'full']),
    cpu: z.string(),
    cpuFamily: z.string(),
    flags: z.array(z.string()),
    cpuClass: z.enum(CPU_CLASSES),
    cores: count,
    memoryGiB: positive,
    kernel: z.string(),
    node: z.string(),
    engine: orFailed(
      z.strictObject({
        version: z.string(),
        libtorch: z.string(),
        isa: z.string(),
        cpuCapability: z.string(),
      }),
    ),
    threads: count,
  }),
  targets: z
    .array(
      z.strictObject({
        name: z.string(),
        value: finite.nullable(),
        target: positive,
        unit: z.string(),
        direction: z.enum(['>=', '<=']),
        met: z.boolean(),
        detail: z.string().optional(),
        reason: z.string().optional(),
      }),
    )
    .min(1),
  failures: z.array(z.strictObject({ where: z.string(), reason: z.string() })),
  seconds: positive,
  sections: z.strictObject({
    native: section(sectionSchemas.native).optional(),
    forward: section(sectionSchemas.forward).optional(),
    growth: section(sectionSchemas.growth).optional(),
    peer: section(sectionSchemas.peer).optional(),
    sampler: section(sectionSchemas.sampler).optional(),
    load: section(sectionSchemas.load).optional(),
    javascript: section(sectionSchemas.javascript).optional(),
    parts: section(sectionSchemas.parts).optional(),
    autoencoder: section(sectionSchemas.autoencoder).optional(),
    snapshot: section(sectionSchemas.snapshot).optional(),
    sdcpp: section(sectionSchemas.sdcpp).optional(),
  }),
});

/**
 * What is wrong with a result, as it is read from its file; nothing if it has the right form. Failures that it reports
 * are not wrong. Where a section ran without one, each of its targets must have a figure.
 * @param {any} document
 * @param {{ mode: import('./lib/models.mjs').Mode, sections: readonly string[] }} expected
 * @returns {string[]}
 */
export function problemsOf(document, { mode, sections }) {
  const parsed = documentSchema.safeParse(document);
  if (!parsed.success) return deepest(parsed.error.issues).map(wording);
  const problems = sections
    .filter((name) => !(name in parsed.data.sections))
    .map((name) => `sections.${name} is missing`);
  if (parsed.data.machine.mode !== mode) problems.push(`machine.mode is not ${mode}`);
  if (parsed.data.failures.length > 0 || sections.length < SECTIONS.length) return problems;
  const without = parsed.data.targets.filter(({ value }) => value === null);
  return [...problems, ...without.map(({ name, reason }) => `target ${name} has no figure: ${reason}`)];
}

/**
 * A union says only that nothing fitted: what did not fit in its first form, which is that of a success, says more.
 * @param {readonly z.core.$ZodIssue[]} issues
 * @param {PropertyKey[]} [below]
 * @returns {{ path: PropertyKey[], message: string }[]}
 */
function deepest(issues, below = []) {
  return issues.flatMap((issue) => {
    const path = [...below, ...issue.path];
    const [first] = issue.code === 'invalid_union' ? issue.errors : [];
    return first?.length ? deepest(first, path) : [{ path, message: issue.message }];
  });
}

/** @type {(issue: { path: PropertyKey[], message: string }) => string} */
const wording = ({ path, message }) => `${path.map(String).join('.') || 'the document'}: ${message}`;
