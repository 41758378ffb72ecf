export { Tokenizer } from './tokenizer.js';
export type { EncodedPrompt } from './types.js';
export {
  findTokenizer,
  loadClipTokenizer,
  loadT5Tokenizer,
  type TokenizerKind,
} from './snapshot-tokenizers.js';
