export { Tokenizer, type EncodedPrompt } from './tokenizer.js';
export {
  findTokenizer,
  loadClipTokenizer,
  loadT5Tokenizer,
  type TokenizerKind,
} from './snapshot-tokenizers.js';
