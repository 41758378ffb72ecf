import { invalidArgument } from '../errors.js';
import { refuse } from './refused.js';

/**
 * A flag that takes one of a few words. The parser's own message about others names neither a code nor what was meant.
 * @param name without the dashes
 */
export function choiceFlag<
  const Choice extends string,
  const Default extends NoInfer<Choice> | undefined = undefined,
>(
  name: string,
  choices: readonly Choice[],
  o: { describe: string; default?: Default },
): {
  choices: readonly Choice[];
  requiresArg: true;
  describe: string;
  coerce: (typed: unknown) => Choice | Default;
} {
  return {
    choices,
    requiresArg: true,
    ...o,
    coerce: (typed) => {
      const word: unknown = Array.isArray(typed) ? typed.at(-1) : typed;
      if (word === undefined || choices.includes(word as Choice)) return word as Choice | Default;
      const all =
        choices.length === 1 ? choices[0]! : `${choices.slice(0, -1).join(', ')} or ${choices.at(-1)}`;
      return refuse(invalidArgument(name, all, word));
    },
  };
}
