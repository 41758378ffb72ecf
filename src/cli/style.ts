/** Colours, few and by convention: NO_COLOR, FORCE_COLOR, and none where there is no terminal. */
import { styleText } from 'node:util';

/** What a text is: an error, a warning, a result, or what is only said by the way. */
export type Style = 'red' | 'yellow' | 'bold' | 'dim';

/**
 * A text in a style.
 * @param stream what it will be written to
 * @param color what was asked for; undefined: the stream and the environment decide
 */
export function styled(style: Style, text: string, stream: object, color: boolean | undefined): string {
  if (color === false) return text;
  if (color === true) return styleText(style, text, { validateStream: false });
  return isStream(stream) ? styleText(style, text, { stream }) : text;
}

function isStream(stream: object): stream is NodeJS.WritableStream {
  return 'on' in stream && 'write' in stream;
}
