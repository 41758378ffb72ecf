/** Progress on stderr: a bar on a terminal, a few plain lines elsewhere. */
import type { SingleBar } from 'cli-progress';

import type { JitPlan } from '../types.js';
import type { Context } from './command.js';
import { formatBytes, formatDuration } from './format.js';

/** Shows how far a generation is. */
export interface GenerationProgress {
  step(event: { step: number; stage: number; activeTokens: number; milliseconds: number }): void;
  /** Takes the bar down; must be called whatever happens. */
  close(): void;
}

/** @param o.enabled false (`--quiet`) shows nothing */
export async function generationProgress(
  context: Context,
  plan: JitPlan,
  o: { enabled: boolean },
): Promise<GenerationProgress> {
  if (!o.enabled) return { step() {}, close() {} };
  const weight = plan.tokensPerStep.reduce((sum, tokens) => sum + tokens, 0);
  let spent = 0;
  let doneWeight = 0;
  // Steps with few tokens are fast: the estimate goes by tokens, not by steps.
  const advance = (tokens: number, milliseconds: number): string => {
    spent += milliseconds;
    doneWeight += tokens;
    return formatDuration((spent / doneWeight) * (weight - doneWeight));
  };

  if (!context.stderr.isTTY || context.verbose) {
    let stage = -1;
    return {
      step(event) {
        advance(event.activeTokens, event.milliseconds);
        if (event.stage !== stage || context.verbose) {
          stage = event.stage;
          const tokens = `${event.activeTokens} of ${plan.totalTokens} tokens`;
          const time = context.verbose ? `, ${formatDuration(event.milliseconds)}` : '';
          context.note(`Step ${event.step + 1} of ${plan.steps}: stage ${stage}, ${tokens}${time}`);
        }
        if (event.step + 1 === plan.steps) {
          context.note(`Sampled ${plan.steps} steps in ${formatDuration(spent)}`);
        }
      },
      close() {},
    };
  }

  const [steps, tokens] = [String(plan.steps).length, String(plan.totalTokens).length];
  const bar = (await barFactory(context))([
    ['Stage {stage} ', 8],
    ['{bar} {value}/{total}', 2 + 2 * steps],
    [' | ETA {left}', 6 + LONGEST.duration],
    [' | {ms} ms/step', 11 + LONGEST.milliseconds],
    [' | {active}/{tokens} tokens', 11 + 2 * tokens],
  ]);
  let started = false;
  return {
    step(event) {
      const payload = {
        stage: event.stage,
        active: event.activeTokens,
        tokens: plan.totalTokens,
        ms: event.milliseconds.toFixed(event.milliseconds < 10 ? 1 : 0),
        left: advance(event.activeTokens, event.milliseconds),
      };
      if (started) bar.update(event.step + 1, payload);
      else bar.start(plan.steps, event.step + 1, payload);
      started = true;
    },
    close() {
      if (started) bar.stop();
    },
  };
}

/** Shows the phases of a download. */
export interface TransferProgress {
  update(p: {
    phase: string;
    done: number;
    total: number;
    archives?: number;
    source?: string;
    holder?: { pid: number; host: string };
  }): void;
  close(): void;
}

/** @param o.enabled false (`--quiet`) shows nothing */
export async function transferProgress(context: Context, o: { enabled: boolean }): Promise<TransferProgress> {
  if (!o.enabled) return { update() {}, close() {} };
  const tty = context.stderr.isTTY === true;
  let phase: string | undefined;
  let tenth = 0;
  let bar: SingleBar | undefined;
  const bars = tty ? await barFactory(context) : undefined;
  const finish = () => {
    bar?.stop();
    bar = undefined;
  };
  return {
    update(p) {
      if (p.phase !== phase) {
        finish();
        phase = p.phase;
        tenth = 0;
        const many = (p.archives ?? 1) > 1 && p.total > 0;
        const what = many ? `${p.archives} archives, ${formatBytes(p.total)}` : p.source;
        const who = p.holder && ` (process ${p.holder.pid} on ${p.holder.host} is at it)`;
        if (!bars || p.total === 0)
          context.note(capitalize(p.phase) + (what === undefined ? '' : ` ${what}`) + (who ?? ''));
        else {
          const size = formatBytes(p.total);
          bar = bars([
            [`${capitalize(p.phase)} `, p.phase.length + 1],
            ['{bar} {amount} of {size}', 5 + LONGEST.amount + size.length],
            [' | ETA {eta_formatted}', 6 + LONGEST.duration],
          ]);
          bar.start(p.total, 0, { amount: formatBytes(0), size: formatBytes(p.total) });
        }
      }
      const reached = p.total > 0 ? Math.floor((10 * p.done) / p.total) : 0;
      if (!bars && (p.archives ?? 1) > 1 && reached > tenth) {
        tenth = reached;
        context.note(`${capitalize(p.phase)} ${10 * tenth} %`);
      }
      bar?.update(p.done, { amount: formatBytes(p.done), size: formatBytes(p.total) });
    },
    close: finish,
  };
}

/** Characters of what changes. */
const LONGEST = { duration: 11, milliseconds: 5, amount: 8 };
/** Of the bar itself. */
const WIDEST_BAR = 30;
const NARROWEST_BAR = 10;
/** Of a terminal that does not tell. */
const USUAL_COLUMNS = 80;

/** A part of a line with a bar, and how many characters it takes without the bar. The first two matter most. */
type BarPart = readonly [format: string, characters: number];

/** As much of the line as fits a terminal. */
function fitBar(parts: readonly BarPart[], columns: number): { format: string; barsize: number } {
  const kept: BarPart[] = [];
  // The cursor needs a place, too.
  let left = columns - 1 - NARROWEST_BAR;
  for (const part of parts) {
    if (kept.length >= 2 && part[1] > left) break;
    kept.push(part);
    left -= part[1];
  }
  const barsize = Math.max(1, Math.min(WIDEST_BAR, left + NARROWEST_BAR));
  return { format: kept.map(([format]) => format).join(''), barsize };
}

async function barFactory(context: Context): Promise<(parts: readonly BarPart[]) => SingleBar> {
  const { default: progress } = await import('cli-progress');
  return (parts) => {
    const { format, barsize } = fitBar(parts, context.stderr.columns ?? USUAL_COLUMNS);
    return new progress.SingleBar(
      // The cursor stays visible, so that a killed process leaves the terminal as it was.
      {
        format: context.dim(format),
        stream: context.stderr,
        hideCursor: false,
        barsize,
        gracefulExit: false,
      },
      progress.Presets.shades_classic,
    );
  };
}

function capitalize(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
