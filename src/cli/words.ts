/** Words that flags take, where the parser knows no choices: for suggestions and for completion. */
import { KNOWN_MODELS } from '../model/known-models.js';
import { AUTO_VARIANT } from '../libtorch/variant.js';
import { PRESET_NAMES } from '../sampler/presets.js';
import { MICRO_FLOW_FORMS, SCHEDULE_FORMS } from '../sampler/settings-text.js';
import type { Flag } from './flags.js';
import { nearest } from './suggest.js';

/** Models that are known by a name, without files. */
export const MODEL_NAMES: readonly string[] = [...KNOWN_MODELS, 'flux-tiny'];

/** Of a form, what is typed as it stands: `static:` of `static:<shift>`. */
const beginning = (form: string) => form.replace(/<.*/, '');

/** By flag, or by command and flag. What a word ends in a colon after, is followed by numbers. */
const WORDS: ReadonlyMap<string, readonly string[]> = new Map(
  Object.entries({
    preset: PRESET_NAMES,
    device: ['cpu', 'cuda'],
    schedule: SCHEDULE_FORMS.map(beginning),
    'micro-flow': MICRO_FLOW_FORMS.map(beginning),
    'plan model': MODEL_NAMES,
    'setup variant': ['cpu', 'cu130', AUTO_VARIANT],
  }),
);

/** What other programs call them. */
const SYNONYMS: ReadonlyMap<string, string> = new Map(
  Object.entries({
    bf16: 'bfloat16',
    fp16: 'float16',
    half: 'float16',
    fp32: 'float32',
    full: 'float32',
    gpu: 'cuda',
    cuda: 'cu130',
    q8_0: 'int8',
    '4x': 'jit-4x',
    '7x': 'jit-7x',
  }),
);

/** The words that a flag of a command takes; none: any, such as a path. */
export function wordsOf(
  command: string,
  { name, choices }: Pick<Flag, 'name' | 'choices'>,
): readonly string[] {
  return choices ?? WORDS.get(`${command} ${name}`) ?? WORDS.get(name) ?? [];
}

/** Of these words the one that was meant by another. */
export function meantBy(typed: string, words: readonly string[]): string | undefined {
  const withoutNumbers = (word: string) => word.replace(/:.*/, '');
  const said = withoutNumbers(typed).toLowerCase();
  const known = words.map(withoutNumbers);
  const synonym = SYNONYMS.get(said);
  const meant = synonym !== undefined && known.includes(synonym) ? synonym : nearest(said, known);
  return meant === withoutNumbers(typed) ? undefined : meant;
}

/** Flags of other programs (sd-cli, diffusers) that have another name here. */
const OTHER_FLAGS: ReadonlyMap<string, string> = new Map(
  Object.entries({
    output: 'out',
    size: 'width',
    resolution: 'width',
    'cfg-scale': 'guidance',
    'guidance-scale': 'guidance',
    'batch-count': 'num-images',
    'batch-size': 'num-images',
    'num-steps': 'steps',
    'sample-steps': 'steps',
    'num-inference-steps': 'steps',
    'max-sequence-length': 'text-tokens',
    precision: 'dtype',
    type: 'dtype',
    'offload-to-cpu': 'stream-weights',
  }),
);

/** Of these flags the one that was meant by another. */
export function flagMeantBy(typed: string, flags: readonly string[]): string | undefined {
  const other = OTHER_FLAGS.get(typed.replaceAll('_', '-'));
  return other !== undefined && flags.includes(other) ? other : nearest(typed, flags);
}
