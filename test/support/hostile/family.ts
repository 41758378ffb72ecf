/** A family of exported functions that are called with hostile arguments in a process of their own. */
import { writeSync } from 'node:fs';
import { inspect } from 'node:util';
import fc from 'fast-check';

import type * as MainModule from '../../../src/index.js';
import type * as SamplerModule from '../../../src/sampler/index.js';
import { type Actions, change, type Change, changes, disposables } from './cases.js';
import { CALLBACK, type OwnValues } from './values.js';

/** What the package exports, as its users import it. */
export type Main = typeof MainModule;
export type Sampler = typeof SamplerModule;
export interface Api {
  main: Main;
  sampler: Sampler;
  /** Of the repository. */
  root: string;
  /** A folder for what is written. */
  scratch: string;
}

/** One function, constructor or method. */
export interface Target<World> {
  /** As test/property/exports.test.ts names it: `Tensor.from`, `Tensor#clone`, `new JitSampler`. */
  readonly name: string;
  /** Arguments that are taken, with every option. Fresh ones for every call. */
  good(world: World): unknown[] | Promise<unknown[]>;
  call(world: World, args: unknown[]): unknown;
  /** Whether it promises a result: then it never throws. */
  readonly async?: boolean;
  /** Whether an error of a callback of ours passes through. Default false. */
  readonly passes?: boolean;
  /** Whether good arguments are refused on this machine, which has no GPU. */
  readonly refuses?: boolean;
  /** Whether it runs code of others, whose failures are ERR_JITFLUX_NATIVE. */
  readonly runsPrograms?: boolean;
  /** What `disposes the model` means. */
  model?(world: World): { dispose(): unknown } | undefined;
  /** Whether cases of it take so long that there shall be few. */
  readonly slow?: number;
  /** Cases that must not be run, with the reason. If it throws, the arguments are none that it is about. */
  skip?(args: readonly unknown[]): string | undefined;
}

export interface Family<World> {
  /** Everything that targets need; called once, and again after a case has destroyed something. */
  open(api: Api): Promise<World> | World;
  /** Makes whole again what a case has disposed. */
  mend?(world: World): Promise<void> | void;
  close?(world: World): Promise<void> | void;
  readonly targets: readonly Target<World>[];
  /** Own values, by name. */
  own?(world: World): OwnValues;
  readonly ownNames?: readonly string[];
}

/** A case that did not end as it must. */
export interface Failure {
  target: string;
  what: string;
  changes: string;
}

/** Milliseconds after which a call counts as hanging. */
const PATIENCE = 30_000;

/** Thrown by callbacks of good arguments, on purpose: whoever calls them passes it on. */
export class Deliberate extends Error {}

function show(value: unknown): string {
  try {
    return fc.stringify(value).slice(0, 600);
  } catch {
    return '(cannot be shown)';
  }
}

/** Why an error is none that a caller may meet; undefined if it is. */
export function complaint(
  error: unknown,
  { main }: Pick<Api, 'main'>,
  { passes = false, runsPrograms = false }: Pick<Target<never>, 'passes' | 'runsPrograms'>,
): string | undefined {
  // Of a callback, or of waiting for what it returned.
  if (passes && error instanceof Deliberate) return undefined;
  if (passes && error instanceof TypeError && /hostile value|has been revoked/.test(error.message))
    return undefined;
  if (error instanceof Error && error.message === CALLBACK) return undefined;
  // Of calling what is no function that can be called.
  if (
    error instanceof TypeError &&
    /^Class constructor|^Cannot perform 'apply' on a proxy/.test(error.message)
  )
    return undefined;
  if (!(error instanceof main.JitFluxError)) {
    const stack = error instanceof Error ? String(error.stack).split('\n').slice(0, 6).join('\n') : '';
    return `rejected with ${safeInspect(error)}${stack ? `\n${stack}` : ''}`;
  }
  if (!Object.values(main.ERROR_CODES).includes(error.code)) return `unknown code ${String(error.code)}`;
  if (error.code === main.ERROR_CODES.NATIVE && !runsPrograms)
    return `an unexpected native failure: ${error.message}`;
  if (typeof error.message !== 'string' || error.message === '') return 'an error without a message';
  if (error.message.length > 4000) return `a message of ${error.message.length} characters`;
  if (/\[object Object\]|undefined is not|not iterable|of undefined|of null/.test(error.message)) {
    return `a message that tells nothing: ${error.message}`;
  }
  try {
    JSON.stringify(error.details);
  } catch (cause) {
    return `details that are no JSON: ${safeInspect(cause)} (${error.message})`;
  }
  return undefined;
}

function safeInspect(value: unknown): string {
  try {
    return inspect(value, { depth: 0 }).split('\n')[0]!.slice(0, 300);
  } catch {
    return 'something that cannot be shown';
  }
}

function within<T>(promise: Promise<T>, milliseconds: number): Promise<T | typeof HANGING> {
  let timer: NodeJS.Timeout | undefined;
  const end = new Promise<typeof HANGING>((resolve) => {
    timer = setTimeout(() => resolve(HANGING), milliseconds);
  });
  return Promise.race([promise, end]).finally(() => clearTimeout(timer));
}
const HANGING = Symbol('hanging');

/** Disposes what a call has returned, and whatever else is in it. */
async function cleanUp(result: unknown): Promise<void> {
  for (const one of disposables(result)) await one.dispose();
}

function isSkipped<World>(target: Target<World>, args: readonly unknown[]): boolean {
  try {
    return target.skip?.(args) !== undefined;
  } catch {
    return false;
  }
}

/** Runs the cases of a family and reports those that failed, each kind once. */
export async function runFamily<World>(
  family: Family<World>,
  o: { api: Api; seed: number; runs: number; only?: string | undefined; at?: number | undefined },
): Promise<{ cases: number; refused: number; failures: Failure[] }> {
  const { api, seed } = o;
  let world = await family.open(api);
  const weight = (t: Target<World>) => 1 / (t.slow ?? 1);
  const targets = family.targets.filter(({ name }) => o.only === undefined || name === o.only);
  const total = targets.reduce((sum, t) => sum + weight(t), 0);
  const failures = new Map<string, Failure>();
  const stray: unknown[] = [];
  process.on('unhandledRejection', (reason) => stray.push(reason));
  process.on('uncaughtException', (error) => stray.push(error));
  let cases = 0;
  let refused = 0;
  for (const target of targets) {
    const runs = Math.max(4, Math.round((o.runs * weight(target)) / total));
    const list = fc.sample(changes(family.ownNames ?? []), { seed, numRuns: runs });
    const { passes = false } = target;
    // Good arguments are taken, or the property says nothing.
    await outcome(target, [], -1);
    for (const [at, one] of list.entries())
      if (o.at === undefined || o.at === at) await outcome(target, one, at);

    async function outcome(t: Target<World>, list: readonly Change[], at: number): Promise<void> {
      const printed = show(list);
      // Before the call: whoever reads it knows what crashed or hung.
      writeSync(3, `${JSON.stringify({ target: t.name, at, changes: printed })}\n`);
      const note = (what: string) => {
        const key = `${t.name} ${what.replace(/\d+/g, 'n').slice(0, 160)}`;
        if (!failures.has(key)) failures.set(key, { target: t.name, what, changes: `#${at} ${printed}` });
      };
      await family.mend?.(world);
      const own = family.own?.(world) ?? {};
      const good = await t.good(world);
      const others: Promise<unknown>[] = [];
      const actions: Actions = {
        disposeModel: () => void t.model?.(world)?.dispose(),
        startAnother: () => {
          others.push(
            (async () => cleanUp(await t.call(world, await t.good(world))))().catch((error: unknown) => {
              const why = complaint(error, api, t);
              if (why) note(`the one started by a getter: ${why}`);
            }),
          );
        },
      };
      const args = change(good, list, own, actions);
      if (isSkipped(t, args)) return void (await cleanUp(good));
      cases++;
      let result: unknown;
      try {
        result = t.call(world, args);
      } catch (error) {
        if (list.length === 0 && !t.refuses)
          note(`good arguments: ${safeInspect(error)} ${(error as Error).stack}`);
        else if (t.async) note(`threw instead of rejecting: ${safeInspect(error)}`);
        const why = complaint(error, api, t);
        if (why) note(why);
        refused++;
      }
      if (t.async && result !== undefined) {
        const settled = await within(
          (async () => result)().then(
            (value) => ({ value }),
            (error: unknown) => ({ error }),
          ),
          PATIENCE,
        );
        if (settled === HANGING) note('never settled');
        else if ('error' in settled) {
          if (list.length === 0 && !t.refuses && !(passes && settled.error instanceof Deliberate)) {
            note(`good arguments: ${safeInspect(settled.error)}`);
          }
          const why = complaint(settled.error, api, t);
          if (why) note(why);
          refused++;
        } else await cleanUp(settled.value);
      } else await cleanUp(result);
      if ((await within(Promise.allSettled(others), PATIENCE)) === HANGING) note('another never settled');
      await cleanUp(good);
      if (stray.length > 0) {
        for (const reason of stray.splice(0)) {
          note(
            `left behind: ${safeInspect(reason)} ${(reason as Error)?.stack?.split('\n').slice(0, 5).join('\n')}`,
          );
        }
        await family.close?.(world);
        world = await family.open(api);
      }
    }
  }
  await family.close?.(world);
  // A rejection that nobody handled shows in a later turn.
  await new Promise((resolve) => setTimeout(resolve, 50));
  for (const reason of stray) {
    failures.set(String(reason), {
      target: '(at the end)',
      what: `left behind: ${safeInspect(reason)}`,
      changes: '',
    });
  }
  return { cases, refused, failures: [...failures.values()] };
}
