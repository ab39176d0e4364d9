/* The records inside this page: what is selected of them, and averages over it. */

const DATA = JSON.parse(document.getElementById('data').textContent);

const state = { set: 0, measure: null, filters: {}, chosen: null, y: 'speedup', allLayers: false, theme: 'auto', printing: false };
let current = null; // the set that is shown, with what was prepared of it

/* Kernels whose share of the best one's speed is at least this are as fast, within so many percent. */
const AS_FAST = DATA.thresholds.as_fast;
const percentText = (share) => `${formatNumber(100 * share)}%`;

const FILTERS = [
  ['model', 'Model'], ['layer', 'Layer'], ['x', 'Size'], ['format', 'Format'], ['provider', 'Provider'],
  ['scheme', 'Scheme'], ['activations', 'Activations'],
];

/* Everything that does not change while filters do. */
function openSet(number) {
  const set = DATA.sets[number];
  const { comparisons, rows } = set;
  const count = rows.kernel.length;
  const axes = new Set(comparisons.layers.map((layer) => layer.axis));
  const axis = axes.size === 1 ? [...axes][0] : 'm';
  const several = new Set(comparisons.layers.map((layer) => layer.model)).size > 1;
  current = { ...set, number, count, axis, ok: set.statuses.indexOf('ok') };
  current.layerTitles = comparisons.layers.map((l) => (several ? [l.model, l.title].filter(Boolean).join(' ') : l.title));
  current.layerNames = comparisons.layers.map((l) => (several ? [l.model, l.name].filter(Boolean).join(' ') : l.name));
  current.columnOf = {
    model: (row) => comparisons.layers[comparisons.layer[rows.comparison[row]]].model,
    layer: (row) => current.layerTitles[comparisons.layer[rows.comparison[row]]],
    x: (row) => comparisons.x[rows.comparison[row]],
    format: (row) => set.kernels[rows.kernel[row]].format,
    provider: (row) => set.kernels[rows.kernel[row]].provider,
    scheme: (row) => set.kernels[rows.kernel[row]].scheme,
    activations: (row) => set.kernels[rows.kernel[row]].activations,
  };
  current.options = {};
  for (const [name] of FILTERS) {
    const values = new Set();
    for (let row = 0; row < count; row++) values.add(current.columnOf[name](row));
    current.options[name] = name === 'x' ? [...values].sort((a, b) => a - b) : [...values];
  }
  for (const columns of Object.values(current.times)) addLimit(columns);
  current.cliffAt = new Map(set.cliffs.row.map((row, cliff) => [row, cliff]));
  state.set = number;
  state.filters = {};
  state.chosen = null;
  state.allLayers = false;
  if (!set.measures.some((measure) => measure.name === state.measure)) {
    state.measure = set.measures.length ? set.measures[0].name : null;
  }
  rankKernels();
}

/* The nearer of both limits, and whether it is that of memory. */
function addLimit(columns) {
  const { percent_of_peak: peak = [], percent_of_reads: reads = [] } = columns;
  if (columns.limit || !(peak.length || reads.length)) return;
  const both = [...Array(current.count).keys()].map((row) => [peak[row] ?? null, reads[row] ?? null]);
  columns.limit = both.map(([a, b]) => (a === null && b === null ? null : Math.max(a ?? 0, b ?? 0)));
  columns.memory_bound = both.map(([a, b], row) => (columns.limit[row] === null ? null : Number((b ?? 0) > (a ?? 0))));
}

const baselineKernel = (kernel) => current.kernels[kernel].role === 'baseline';
const kernelOf = (row) => current.rows.kernel[row];
const layerOf = (row) => current.comparisons.layer[current.rows.comparison[row]];
const xOf = (row) => current.comparisons.x[current.rows.comparison[row]];
const sizesOf = (row) => ['m', 'n', 'k'].map((s) => current.comparisons[s][current.rows.comparison[row]]);
const isOk = (row) => current.rows.status[row] === current.ok;

/* A number of a row, null if there is none. */
function value(row, column, measure = state.measure) {
  const columns = current.times[measure];
  const values = columns && columns[column];
  return values ? values[row] : null;
}

/* `rows` pass all filters. `withBaseline` adds the baseline's rows, which need to pass only model, layer and x. */
function selectRows() {
  const wanted = Object.entries(state.filters);
  const place = wanted.filter(([name]) => ['model', 'layer', 'x'].includes(name));
  const passes = (row, tests) => tests.every(([name, text]) => String(current.columnOf[name](row)) === text);
  const rows = [];
  const withBaseline = [];
  for (let row = 0; row < current.count; row++) {
    if (!passes(row, place)) continue;
    const whole = passes(row, wanted);
    if (whole) rows.push(row);
    if (whole || baselineKernel(kernelOf(row))) withBaseline.push(row);
  }
  return { rows, withBaseline };
}

function geometricMean(values) {
  return values.length ? Math.exp(values.reduce((sum, one) => sum + Math.log(one), 0) / values.length) : null;
}

/* Whether speed-ups over the baseline are known; without it, speed is relative to the fastest kernel of each shape. */
function hasBaseline(measure = state.measure) {
  return Boolean(current.times[measure] && current.times[measure].speedup);
}

/* Speed of each row, to be averaged: over the baseline, or over the fastest kernel of the same shape. */
function speeds(rows) {
  if (hasBaseline()) return new Map(rows.map((row) => [row, value(row, 'speedup')]).filter(([, one]) => one !== null));
  const timed = rows.filter((row) => value(row, 'seconds') !== null);
  return new Map([...groupBy(timed, (row) => current.rows.comparison[row]).values()].flatMap((alike) => {
    const fastest = Math.min(...alike.map((row) => value(row, 'seconds')));
    return alike.map((row) => [row, fastest / value(row, 'seconds')]);
  }));
}

/* Items by key, both in the order in which they come. */
function groupBy(items, keyOf) {
  const groups = new Map();
  for (const item of items) {
    const key = keyOf(item);
    if (groups.has(key)) groups.get(key).push(item);
    else groups.set(key, [item]);
  }
  return groups;
}

/* Values of rows by kernel and size: {kernel: {x: [values]}}. */
function byKernelAndSize(rows, valueOf) {
  const known = rows.filter((row) => (valueOf(row) ?? null) !== null);
  const bySize = (some) => new Map([...groupBy(some, xOf)].map(([x, alike]) => [x, alike.map(valueOf)]));
  return new Map([...groupBy(known, kernelOf)].map(([kernel, some]) => [kernel, bySize(some)]));
}

/* Letters by speed over all shapes, the fastest A. Hues begin with the fastest of each provider and scheme, so that
   what is worth telling apart looks different. Both stay with a kernel whatever is filtered. */
function rankKernels() {
  const every = [...Array(current.count).keys()];
  const means = current.kernels.map(() => []);
  for (const [row, speed] of speeds(every)) means[kernelOf(row)].push(speed);
  const shapes = means.reduce((most, values) => Math.max(most, values.length), 0);
  const order = [...current.kernels.keys()].sort((a, b) => compareRanks(means[a], means[b], shapes) || a - b);
  const ranked = order.filter((kernel) => !baselineKernel(kernel));
  const first = firstOfKinds(ranked.filter((kernel) => means[kernel].length));
  const hues = [...first, ...ranked.filter((kernel) => !first.includes(kernel))];
  current.badges = [];
  for (const kernel of order) {
    const place = order.indexOf(kernel);
    const [rank, hue] = [ranked.indexOf(kernel), hues.indexOf(kernel)];
    current.badges[kernel] = baselineKernel(kernel)
      ? { letter: '16', hue: 'hue-baseline', turn: 0, rank: Infinity, order: place }
      : { letter: letters(rank), hue: `hue-${hue % 6}`, turn: Math.floor(hue / 6) % 3, rank, order: place };
  }
}

const eightBits = (kernel) => current.kernels[kernel].eight_bits;

/* The first 8-bit kernel of each provider, format, scheme and kind of activations. */
function firstOfKinds(kernels) {
  const kindOf = (kernel) => ['provider', 'format', 'scheme', 'activations'].map((name) => current.kernels[kernel][name]).join(' ');
  return [...groupBy(kernels.filter(eightBits), kindOf).values()].map(([first]) => first);
}

/* Kernels that ran at more shapes first, so that one easy shape makes no winner. */
function compareRanks(a, b, shapes) {
  const whole = (values) => (values.length === shapes ? 1 : values.length ? 0 : -1);
  return whole(b) - whole(a) || (geometricMean(b) || 0) - (geometricMean(a) || 0);
}

function letters(number) {
  return (number >= 26 ? letters(Math.floor(number / 26) - 1) : '') + String.fromCharCode(65 + (number % 26));
}

/* Kernels that are drawn in color: those that were clicked on. If none was, the fastest of each kind that is selected,
   six at most; if there are fewer than four kinds, the next fastest too, up to four; and the baseline. */
function chosenKernels(rows) {
  if (state.chosen) return state.chosen;
  const there = [...new Set(rows.filter(isOk).map(kernelOf))];
  const ranked = there.filter((kernel) => !baselineKernel(kernel)).sort((a, b) => current.badges[a].rank - current.badges[b].rank);
  const first = firstOfKinds(ranked).slice(0, 6);
  const further = ranked.filter((kernel) => !first.includes(kernel)).slice(0, Math.max(0, 4 - first.length));
  return new Set([...first, ...further, ...there.filter(baselineKernel)]);
}
