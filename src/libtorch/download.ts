/**
 * Downloads a file over HTTP(S) with resumption, redirects and proxies (HTTP_PROXY, HTTPS_PROXY, NO_PROXY). Node 20's
 * `fetch` ignores proxies, and a dependency for one download is not worth it.
 */
import type { FileHandle } from 'node:fs/promises';
import * as http from 'node:http';
import * as https from 'node:https';
import { isIP } from 'node:net';
import type { Duplex } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import * as tls from 'node:tls';

import { writeAll } from '../files/private-file.js';

const MAX_REDIRECTS = 5;
/** An offline machine must get to the next source soon. */
const CONNECT_TIMEOUT = 15_000;
const IDLE_TIMEOUT = 60_000;

export interface DownloadOptions {
  /** Expected size in bytes; anything longer is refused. */
  size: number;
  onProgress?: (done: number) => void;
  signal?: AbortSignal | undefined;
  env?: NodeJS.ProcessEnv;
}

/**
 * Downloads `url` into a file, continuing what is already there. On failure the part that has arrived stays for the next
 * attempt. The content is not verified here.
 *
 * @param file open for writing; stays open
 */
export async function download(url: string, file: FileHandle, options: DownloadOptions): Promise<void> {
  const { size, onProgress, signal } = options;
  const env = options.env ?? process.env;
  let offset = (await file.stat()).size;
  if (offset === size) return;
  if (offset > size) offset = 0;

  const response = await follow(new URL(url), offset === 0 ? {} : { range: `bytes=${offset}-` }, env, signal);
  const status = response.statusCode ?? 0;
  if (status === 206 && offset > 0) {
    const start = /^bytes (\d+)-/.exec(response.headers['content-range'] ?? '')?.[1];
    if (Number(start) !== offset) {
      response.destroy();
      throw new Error(`the server resumed at ${start ?? 'an unknown offset'} instead of ${offset}`);
    }
  } else if (status === 200) {
    offset = 0;
  } else {
    response.destroy();
    throw new Error(`HTTP ${status} ${response.statusMessage ?? ''}`.trim());
  }

  response.setTimeout(IDLE_TIMEOUT, () =>
    response.destroy(new Error(`no data for ${IDLE_TIMEOUT / 1000} s`)),
  );
  let done = offset;
  onProgress?.(done);
  const count = async function* (chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
    for await (const chunk of chunks) {
      done += chunk.length;
      if (done > size) throw new Error(`more than the expected ${size} bytes`);
      onProgress?.(done);
      yield chunk;
    }
  };
  await file.truncate(offset);
  const sink = async (chunks: AsyncIterable<Buffer>): Promise<void> => {
    for await (const chunk of chunks) {
      await writeAll(file, chunk, offset);
      offset += chunk.length;
    }
  };
  await pipeline(response, count, sink, signal ? { signal } : {});
  if (done !== size) throw new Error(`${done} of ${size} bytes received`);
}

/** The proxy for a URL from the environment, or undefined. Lower-case names win, as in curl. */
export function proxyFor(url: URL, env: NodeJS.ProcessEnv = process.env): URL | undefined {
  const setting =
    url.protocol === 'https:'
      ? env.https_proxy || env.HTTPS_PROXY || env.all_proxy || env.ALL_PROXY
      : env.http_proxy || env.HTTP_PROXY || env.all_proxy || env.ALL_PROXY;
  if (!setting) return undefined;
  const exceptions = (env.no_proxy || env.NO_PROXY || '').split(/[\s,]+/).filter(Boolean);
  const port = url.port || (url.protocol === 'https:' ? '443' : '80');
  for (const exception of exceptions) {
    if (exception === '*') return undefined;
    const [, host = '', exceptionPort] = /^\*?\.?(.*?)(?::(\d+))?$/.exec(exception.toLowerCase()) ?? [];
    if (exceptionPort !== undefined && exceptionPort !== port) continue;
    if (url.hostname === host || url.hostname.endsWith(`.${host}`)) return undefined;
  }
  return new URL(setting.includes('://') ? setting : `http://${setting}`);
}

async function follow(
  start: URL,
  headers: http.OutgoingHttpHeaders,
  env: NodeJS.ProcessEnv,
  signal: AbortSignal | undefined,
): Promise<http.IncomingMessage> {
  let url = start;
  for (let redirects = 0; ; redirects++) {
    const response = await get(url, headers, env, signal);
    const status = response.statusCode ?? 0;
    const location = response.headers.location;
    if (status < 300 || status >= 400 || location === undefined) return response;
    response.resume();
    if (redirects === MAX_REDIRECTS) throw new Error(`more than ${MAX_REDIRECTS} redirects`);
    const next = new URL(location, url);
    if (url.protocol === 'https:' && next.protocol !== 'https:')
      throw new Error(`redirected from HTTPS to ${next.protocol}`);
    url = next;
  }
}

async function get(
  url: URL,
  headers: http.OutgoingHttpHeaders,
  env: NodeJS.ProcessEnv,
  signal: AbortSignal | undefined,
): Promise<http.IncomingMessage> {
  if (url.protocol !== 'https:' && url.protocol !== 'http:')
    throw new Error(`unsupported protocol ${url.protocol}`);
  const options: https.RequestOptions = {
    headers: { 'user-agent': 'jit-flux', accept: '*/*', ...headers },
    timeout: CONNECT_TIMEOUT,
    agent: false,
    ...(signal ? { signal } : {}),
  };
  const proxy = proxyFor(url, env);
  if (proxy === undefined)
    return await send((url.protocol === 'https:' ? https : http).request(url, options));
  const authorization = proxyAuthorization(proxy);
  if (url.protocol === 'https:') {
    const tunnel = await connectThrough(proxy, `${url.hostname}:${url.port || 443}`, authorization, signal);
    const host = url.hostname;
    const socket = tls.connect({ socket: tunnel, host, ...(isIP(host) === 0 && { servername: host }) });
    // Any agent, also the one that `false` stands for, would open a connection of its own.
    return await send(https.request(url, { ...options, agent: undefined, createConnection: () => socket }));
  }
  const proxied = {
    ...options,
    host: proxy.hostname,
    port: proxy.port,
    path: url.href,
    headers: { ...options.headers, ...authorization, host: url.host },
  };
  return await send((proxy.protocol === 'https:' ? https : http).request(proxied));
}

function send(request: http.ClientRequest): Promise<http.IncomingMessage> {
  return new Promise((resolve, reject) => {
    const giveUp = (): void => {
      request.destroy(new Error(`no answer within ${CONNECT_TIMEOUT / 1000} s`));
    };
    request.once('timeout', giveUp);
    request.once('error', reject);
    request.once('response', (response) => {
      request.off('timeout', giveUp);
      resolve(response);
    });
    request.end();
  });
}

/** A tunnel to `authority` by HTTP CONNECT. */
function connectThrough(
  proxy: URL,
  authority: string,
  authorization: http.OutgoingHttpHeaders,
  signal: AbortSignal | undefined,
): Promise<Duplex> {
  return new Promise((resolve, reject) => {
    const request = (proxy.protocol === 'https:' ? https : http).request({
      host: proxy.hostname,
      port: proxy.port || (proxy.protocol === 'https:' ? 443 : 80),
      method: 'CONNECT',
      path: authority,
      headers: { host: authority, ...authorization },
      timeout: CONNECT_TIMEOUT,
      agent: false,
      ...(signal ? { signal } : {}),
    });
    request.once('connect', (response, socket) => {
      if (response.statusCode === 200) {
        resolve(socket);
      } else {
        socket.destroy();
        reject(new Error(`the proxy ${proxy.host} answered HTTP ${response.statusCode}`));
      }
    });
    request.once('error', (error) =>
      reject(new Error(`proxy ${proxy.host}: ${error.message}`, { cause: error })),
    );
    request.once('timeout', () => request.destroy(new Error(`no answer within ${CONNECT_TIMEOUT / 1000} s`)));
    request.end();
  });
}

function proxyAuthorization(proxy: URL): http.OutgoingHttpHeaders {
  if (proxy.username === '') return {};
  const credentials = `${decodeURIComponent(proxy.username)}:${decodeURIComponent(proxy.password)}`;
  return { 'proxy-authorization': `Basic ${Buffer.from(credentials).toString('base64')}` };
}
