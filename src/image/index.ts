export {
  encodePng,
  METADATA_KEYWORD,
  readPngText,
  type PngMetadata,
  type PngText,
  type RgbImage,
} from './png.js';
export { psnr, ssim } from './compare.js';
export { contactSheet, type ContactSheetOptions } from './contact-sheet.js';
export {
  encodeImage,
  formatForPath,
  formatOfContent,
  readImageFacts,
  SIGNATURE_BYTES,
  type EncodeImageOptions,
  type ImageFacts,
  type ImageFormat,
} from './formats.js';
export { encodePngAsync } from './png-thread.js';
export { assertWritable, freePath, writeFileAtomic, writeFileOrElsewhere } from '../files/write-file.js';
