/** Something the caller should know although the request was carried out. */
export interface GenerateWarning {
  /**
   * `'PROMPT_TRUNCATED'`: the text was too long, its end was ignored. `'UNKNOWN_WORDS'`: the model's vocabulary lacks
   * some words. `'GUIDANCE_IGNORED'`: guidance was given, but the model takes none. `'MODEL_UNCERTAIN'`: the files
   * contradict each other, or say too little, about which model it is.
   */
  code: 'PROMPT_TRUNCATED' | 'UNKNOWN_WORDS' | 'GUIDANCE_IGNORED' | 'MODEL_UNCERTAIN';
  message: string;
  /** Index of the prompt it is about. */
  prompt?: number;
  /** Text encoder it is about, where a model has several. */
  encoder?: 'clip' | 't5';
  /** Tokens that were cut off. */
  truncated?: number;
  /** Words that the model does not know; at most 100 of them. */
  words?: string[];
  /** All words that it knows, of a model that knows few. */
  vocabulary?: string[];
  /** Prompts that it was made for. */
  examples?: string[];
}
