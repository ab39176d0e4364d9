'use strict';
/* Numbers as text, digit for digit as the text table writes them. */

const NOTHING = '–';

/* `rounded` came from a rounding that takes ties up; of an exact tie, the even one, as Python rounds. */
function evenTie(rounded, exact) {
  const kept = rounded.length;
  const cut = exact.slice(0, kept);
  const rest = exact.slice(kept).replace('.', '');
  return /^50*$/.test(rest) && '02468'.includes(cut[kept - 1]) ? cut : rounded;
}

function fixed(value, digits) {
  const rounded = value.toFixed(digits);
  if (!value.toFixed(digits + 1).endsWith('5')) return rounded;
  return evenTie(rounded, value.toFixed(60));
}

function scientific(value, digits) {
  const [mantissa, exponent] = value.toExponential(digits).split('e');
  const [exact, exactExponent] = value.toExponential(60).split('e');
  return [exponent === exactExponent ? evenTie(mantissa, exact) : mantissa, Number(exponent)];
}

/* Four significant digits with the unit that keeps them readable: `13.42 us`. */
function formatTime(seconds) {
  if (seconds === 0) return '0 us';
  const [digits, exponent] = scientific(Math.abs(seconds), 3);
  const thousands = Math.max(-3, Math.min(0, Math.floor(exponent / 3)));
  const shift = exponent - 3 * thousands;
  const value = (Number(digits) * 10 ** shift).toFixed(Math.max(0, 3 - shift));
  return `${seconds < 0 ? '-' : ''}${value} ${{ '0': 's', '-1': 'ms', '-2': 'us', '-3': 'ns' }[thousands]}`;
}

/* Four significant digits, zeros at the end left out, as Python's `.4g` writes them. */
function formatNumber(value) {
  if (value === 0) return '0';
  const [digits, exponent] = scientific(value, 3);
  if (exponent < -4 || exponent >= 4) return Number(digits) + exponentText(exponent);
  return String(Number(`${digits}e${exponent}`));
}

const exponentText = (exponent) => `e${exponent < 0 ? '-' : '+'}${String(Math.abs(exponent)).padStart(2, '0')}`;

const formatRatio = (value) => `${fixed(value, 2)}x`;
const formatPercent = (value) => `${fixed(value, 0)}%`;
const formatHalf = (value) => `±${fixed(100 * value, 2)}%`;
const formatClock = (value) => fixed(value, 0);
const formatCount = (value) => String(value).replace(/\B(?=(\d{3})+$)/g, ',');
const formatDecibel = (value) => fixed(value, 1);

function formatError(value) {
  if (typeof value === 'string') return value;
  const [digits, exponent] = scientific(value, 1);
  return digits + exponentText(exponent);
}

function plural(count, one, many) {
  return `${formatCount(count)} ${count === 1 ? one : many || `${one}s`}`;
}
