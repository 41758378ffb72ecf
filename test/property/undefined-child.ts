/**
 * The process in which every target of a family is called with one option after another as `undefined`, and without it:
 * `undefined-child.js <family> <seed> <runs>`, of which the last two say nothing. Writes to standard output what differed.
 */
import { writeSync } from 'node:fs';
import { types } from 'node:util';

import { disposables } from '../support/hostile/cases.js';
import { openApi } from '../support/hostile/api.js';
import type { Failure, Family, Target } from '../support/hostile/family.js';

const name = process.argv[2]!;
const api = await openApi();

type Fields = Record<string, unknown>;
type Path = readonly [argument: number, ...names: string[]];

/** Objects that are written down as such. What classes make, and descriptions of models, are values. */
function isOptions(value: unknown): value is Fields {
  if (typeof value !== 'object' || value === null || types.isProxy(value)) return false;
  return Object.getPrototypeOf(value) === Object.prototype && !('kind' in value && 'info' in value);
}

/** Every option in a list of arguments. */
function optionsOf(args: readonly unknown[]): Path[] {
  const within = (value: unknown, path: Path): Path[] =>
    isOptions(value)
      ? Object.keys(value).flatMap((key) => [[...path, key] as const, ...within(value[key], [...path, key])])
      : [];
  return args.flatMap((arg, i) => within(arg, [i]));
}

/** The arguments with one option changed in place. */
function changed(args: readonly unknown[], path: Path, change: (holder: Fields, key: string) => void): void {
  let holder = args as unknown as Fields;
  for (const key of path.slice(0, -1)) holder = holder[key] as Fields;
  change(holder, path.at(-1) as string);
}

const { family } = (await import(`./families/${name}.js`)) as { family: Family<unknown> };
const world = await family.open(api);

/** What came of a call: the error's code and message, or nothing. */
async function outcome(target: Target<unknown>, change: (args: unknown[]) => void): Promise<string> {
  await family.mend?.(world);
  const good = await target.good(world);
  change(good);
  try {
    const result: unknown = await target.call(world, good);
    for (const one of disposables(result)) await one.dispose();
    return 'a result';
  } catch (error) {
    const { code, message } = error as { code?: string; message: string };
    return `${code ?? 'an error'}: ${message}`;
  } finally {
    for (const one of disposables(good)) await one.dispose();
  }
}

const failures: Failure[] = [];
let cases = 0;
let refused = 0;
// Puts fields of a picture in the place of its own: they are no options.
const REPLACES_FIELDS = 'toPNGAsync of what was changed';
for (const target of family.targets) {
  if (target.name === REPLACES_FIELDS) continue;
  for (const path of optionsOf(await target.good(world))) {
    const option = path.slice(1).join('.');
    writeSync(3, `${JSON.stringify({ target: target.name, option })}\n`);
    cases++;
    const asUndefined = await outcome(target, (args) =>
      changed(args, path, (holder, key) => (holder[key] = undefined)),
    );
    if (asUndefined === 'a result') continue;
    // One that must be given, or that another needs.
    refused++;
    const absent = await outcome(target, (args) => changed(args, path, (holder, key) => delete holder[key]));
    if (asUndefined !== absent) {
      failures.push({
        target: target.name,
        what: `absent: ${absent}; undefined: ${asUndefined}`,
        changes: option,
      });
    }
  }
}
await family.close?.(world);
process.stdout.write(JSON.stringify({ cases, refused, failures }));
