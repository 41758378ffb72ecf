export {
  convertModel,
  type ConversionProgress,
  type ConvertedFile,
  type ConvertOptions,
  type ConvertResult,
} from './convert.js';
