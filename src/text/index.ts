export { Tokenizer, type EncodedPrompt } from './tokenizer.js';
