/**
 * The Beta distribution in double precision: distribution function and its inverse. JiT places its noise levels at
 * Beta quantiles, and no Beta quantile function ships with JavaScript.
 */

import { checkNumber } from '../arguments.js';

/** Lanczos approximation of ln Gamma, g = 7, 9 terms: relative error about 1e-15 for x > 0. */
const LANCZOS = [
  0.99999999999980993, 676.5203681218851, -1259.1392167224028, 771.32342877765313, -176.61502916214059,
  12.507343278686905, -0.13857109526572012, 9.9843695780195716e-6, 1.5056327351493116e-7,
] as const;

/** Natural logarithm of the gamma function, for x > 0. */
export function logGamma(x: number): number {
  // Gamma(x) is 1/x there to double precision, and may be too large for a number.
  if (x < 1e-17) return -Math.log(x);
  // Reflection keeps the series in its accurate half plane.
  if (x < 0.5) return Math.log(Math.PI / Math.sin(Math.PI * x)) - logGamma(1 - x);
  const z = x - 1;
  let sum: number = LANCZOS[0];
  for (let i = 1; i < LANCZOS.length; i++) sum += LANCZOS[i]! / (z + i);
  const t = z + 7.5;
  return 0.5 * Math.log(2 * Math.PI) + (z + 0.5) * Math.log(t) - t + Math.log(sum);
}

function logBeta(a: number, b: number): number {
  return logGamma(a) + logGamma(b) - logGamma(a + b);
}

/**
 * Regularised incomplete beta function I_x(a, b): the distribution function of Beta(a, b) at x
 * (`scipy.special.betainc`).
 * @param x in [0, 1]
 * @param a first shape parameter, > 0
 * @param b second shape parameter, > 0
 */
export function regularizedBeta(x: number, a: number, b: number): number {
  checkShape('a', a);
  checkShape('b', b);
  checkNumber('x', x, 'a number in [0, 1]', isShare);
  return incompleteBeta(x, 1 - x, a, b, logBeta(a, b));
}

/** `y` is 1 - x, passed separately because the caller may know it more exactly. */
function incompleteBeta(x: number, y: number, a: number, b: number, lnBeta: number): number {
  if (x <= 0) return 0;
  if (y <= 0) return 1;
  const front = Math.exp(a * Math.log(x) + b * Math.log(y) - lnBeta);
  // The continued fraction converges quickly only below the mean; above it use I_x(a, b) = 1 - I_{1-x}(b, a).
  if (x < (a + 1) / (a + b + 2)) return (front * continuedFraction(x, a, b)) / a;
  return 1 - (front * continuedFraction(y, b, a)) / b;
}

/** Continued fraction of the incomplete beta function (DLMF 8.17.22), by the modified Lentz method. */
function continuedFraction(x: number, a: number, b: number): number {
  const tiny = 1e-300;
  const nonZero = (v: number) => (Math.abs(v) < tiny ? tiny : v);
  let c = 1;
  let d = 1 / nonZero(1 - ((a + b) * x) / (a + 1));
  let h = d;
  // O(sqrt(max(a, b))) terms are needed; the bound is far beyond that for the shapes that are accepted.
  for (let m = 1; m <= 10_000; m++) {
    const even = (m * (b - m) * x) / ((a + 2 * m - 1) * (a + 2 * m));
    d = 1 / nonZero(1 + even * d);
    c = nonZero(1 + even / c);
    h *= d * c;
    const odd = (-(a + m) * (a + b + m) * x) / ((a + 2 * m) * (a + 2 * m + 1));
    d = 1 / nonZero(1 + odd * d);
    c = nonZero(1 + odd / c);
    const factor = d * c;
    h *= factor;
    if (Math.abs(factor - 1) < 1e-16) break;
  }
  return h;
}

/**
 * Inverse of {@link regularizedBeta} in x: the quantile function of Beta(a, b) (`scipy.stats.beta.ppf`). Absolute
 * error below 1e-12 for shapes of moderate size.
 * @param p probability in [0, 1]
 * @param a first shape parameter, > 0
 * @param b second shape parameter, > 0
 */
export function betaQuantile(p: number, a: number, b: number): number {
  checkShape('a', a);
  checkShape('b', b);
  checkNumber('p', p, 'a number in [0, 1]', isShare);
  if (p === 0 || p === 1) return p;
  const lnBeta = logBeta(a, b);
  // Work on the side of x <= 1/2, where x itself (rather than 1 - x) carries the precision.
  return p <= incompleteBeta(0.5, 0.5, a, b, lnBeta)
    ? lowerQuantile(p, a, b, lnBeta)
    : 1 - lowerQuantile(1 - p, b, a, lnBeta);
}

/**
 * Quantile that is known to lie in (0, 1/2]. Newton's method in ln x (the density may be infinite or zero at 0, but
 * its product with x is neither), kept inside a shrinking bracket by bisection.
 */
function lowerQuantile(p: number, a: number, b: number, lnBeta: number): number {
  let low = Math.log(Number.MIN_VALUE);
  let high = Math.log(0.5);
  // Leading term of the series at 0: I_x(a, b) ~ x^a / (a B(a, b)).
  let t = (Math.log(p) + Math.log(a) + lnBeta) / a;
  if (t <= low) return Math.exp(t);
  if (t > high) t = high;
  for (let i = 0; i < 200; i++) {
    const x = Math.exp(t);
    const error = incompleteBeta(x, 1 - x, a, b, lnBeta) - p;
    if (error === 0) return x;
    if (error > 0) high = t;
    else low = t;
    const slope = Math.exp(a * t + (b - 1) * Math.log1p(-x) - lnBeta); // density * x
    let next = t - error / slope;
    if (!(next > low && next < high)) next = 0.5 * (low + high);
    if (Math.abs(next - t) < 1e-16 * Math.max(1, Math.abs(t))) return Math.exp(next);
    t = next;
  }
  return Math.exp(t);
}

const isShare = (n: number) => n >= 0 && n <= 1;

function checkShape(name: string, value: number): void {
  checkNumber(name, value, 'a finite number > 0', (n) => n > 0 && Number.isFinite(n));
}
