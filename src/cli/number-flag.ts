import { invalidArgument } from '../errors.js';
import { refuse } from './refused.js';

/**
 * A flag that takes a number. The parser's own make NaN of what is none, and nobody could say any more what was typed.
 * @param name without the dashes
 */
export function numberFlag<Default extends number | undefined = undefined>(
  name: string,
  o: { describe: string; default?: Default },
): {
  type: 'string';
  requiresArg: true;
  describe: string;
  coerce: (typed: unknown) => number | Default;
} {
  return {
    type: 'string',
    requiresArg: true,
    ...o,
    coerce: (typed) => {
      const text: unknown = Array.isArray(typed) ? typed.at(-1) : typed;
      if (typeof text !== 'string') return text as Default;
      const value = text.trim() === '' ? NaN : Number(text);
      if (Number.isNaN(value)) return refuse(invalidArgument(name, 'a number', text));
      return value;
    },
  };
}
