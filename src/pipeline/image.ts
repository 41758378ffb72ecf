import { checkBoolean, checkConstruction, OURS, reading, readOptions } from '../arguments.js';
import { jsonInteger } from '../json.js';
import { encodePng, encodePngAsync, type PngMetadata, type RgbImage } from '../image/index.js';

/** Options of {@link DecodedImage.toPNG}. */
export interface PngOptions {
  /** Whether the file says how the picture was made. Default true. */
  metadata?: boolean | undefined;
}

/** What a {@link GeneratedImage} is made of. */
interface ImageContent {
  image: RgbImage;
  prompt: string;
  seed: number | bigint;
  metadata: PngMetadata;
}

/** Make pictures. */
const MAKERS = 'FluxPipeline.generate or decode';

/** @internal */
export let decodedImageOf: (image: RgbImage) => DecodedImage;
/** @internal */
export let generatedImageOf: (content: ImageContent) => GeneratedImage;

/** A picture that has been decoded. */
export class DecodedImage implements RgbImage {
  readonly width: number;
  readonly height: number;
  /** 8-bit RGB, row by row from the top left. */
  readonly data: Uint8Array;
  /** Written into the PNG. Of a generated picture: everything that it follows from (docs/research.md). */
  readonly metadata: PngMetadata;

  protected constructor(key: unknown, image: RgbImage, metadata: PngMetadata) {
    checkConstruction(key, new.target.name, MAKERS);
    this.width = image.width;
    this.height = image.height;
    this.data = image.data;
    this.metadata = metadata;
  }

  static {
    decodedImageOf = (image) => new DecodedImage(OURS, image, {});
  }

  /**
   * The picture as a PNG file with its metadata. Equal pictures give equal bytes. Encodes synchronously (30 ms for
   * 256x256, 150 ms for 1024x1024); a server uses {@link toPNGAsync}.
   */
  toPNG(o: PngOptions = {}): Uint8Array {
    return encodePng(this, this.#metadata(readOptions(o, { metadata: true })));
  }

  /**
   * The same bytes, encoded on a thread of their own.
   * @throws ERR_JITFLUX_ABORTED
   */
  async toPNGAsync(o: PngOptions & { signal?: AbortSignal | undefined } = {}): Promise<Uint8Array> {
    const { signal, ...options } = readOptions(o, { metadata: true, signal: true });
    return encodePngAsync(this, this.#metadata(options), { signal });
  }

  /** Without pixels. */
  toJSON(): Pick<DecodedImage, 'width' | 'height' | 'metadata'> {
    const { width, height, metadata } = this;
    return { width, height, metadata };
  }

  #metadata({ metadata = true }: PngOptions): PngMetadata {
    return checkBoolean('metadata', metadata) ? reading('metadata', () => this.metadata) : {};
  }
}

/** A generated picture and how to make it again. */
export class GeneratedImage extends DecodedImage {
  readonly prompt: string;
  /** Seed of this picture: a request for one picture with this seed gives it again. */
  readonly seed: number | bigint;

  private constructor(key: typeof OURS, o: ImageContent) {
    checkConstruction(key, new.target.name, MAKERS);
    super(key, o.image, o.metadata);
    this.prompt = o.prompt;
    this.seed = o.seed;
  }

  static {
    generatedImageOf = (content) => new GeneratedImage(OURS, content);
  }

  /** What JSON has of it: everything but the pixels, which are for {@link toPNG}. A seed beyond 2^53 - 1 is a string. */
  override toJSON(): Pick<GeneratedImage, 'width' | 'height' | 'prompt' | 'metadata'> & {
    seed: number | string;
  } {
    const { width, height, prompt, seed, metadata } = this;
    return { width, height, prompt, seed: jsonInteger(seed), metadata };
  }
}
