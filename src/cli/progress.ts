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

  if (!context.stderr.isTTY) {
    let stage = -1;
    return {
      step(event) {
        advance(event.activeTokens, event.milliseconds);
        if (event.stage !== stage) {
          stage = event.stage;
          const tokens = `${event.activeTokens} of ${plan.totalTokens} tokens`;
          context.note(`Step ${event.step + 1} of ${plan.steps}: stage ${stage}, ${tokens}`);
        }
        if (event.step + 1 === plan.steps) {
          context.note(`Sampled ${plan.steps} steps in ${formatDuration(spent)}`);
        }
      },
      close() {},
    };
  }

  const bar = await createBar(
    context,
    'Stage {stage} {bar} {value}/{total} | {active}/{tokens} tokens | {ms} ms/step | ETA {left}',
  );
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
          bar = bars(`${capitalize(p.phase)} {bar} {amount} of {size} | ETA {eta_formatted}`);
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

async function createBar(context: Context, format: string): Promise<SingleBar> {
  return (await barFactory(context))(format);
}

async function barFactory(context: Context): Promise<(format: string) => SingleBar> {
  const { default: progress } = await import('cli-progress');
  return (format) =>
    new progress.SingleBar(
      // The cursor stays visible, so that a killed process leaves the terminal as it was.
      { format, stream: context.stderr, hideCursor: false, barsize: 30, gracefulExit: false },
      progress.Presets.shades_classic,
    );
}

function capitalize(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
