export {
  encodePng,
  METADATA_KEYWORD,
  readPngText,
  type PngMetadata,
  type PngText,
  type RgbImage,
} from './png.js';
export { psnr, ssim } from './compare.js';
export { encodePngAsync } from './png-thread.js';
export { assertWritable, freePath, writeFileAtomic, writeFileOrElsewhere } from '../files/write-file.js';
