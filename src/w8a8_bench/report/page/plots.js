/* Heat maps, curves over m, roofline, speed against accuracy. */

/* A table of kernels by size; `tone` colors a value. Rows are ordered by `kernels`; clicking a badge draws it or not. */
function drawMap(body, { kernels, sizes, cells, total, text, tone, describe, corner, chosen }) {
  const parts = partsOf(sizes);
  for (const part of parts) {
    const totals = sizes.length > 1 && part === parts[parts.length - 1];
    const rows = addMap(body, [corner, ...part], totals);
    for (const kernel of kernels) {
      const on = chosen.has(kernel);
      const line = add(rows, 'tr', { class: on ? 'selected' : null });
      const title = add(line, 'th', { scope: 'row' });
      const badge = addBadge(title, kernel, on, 'button', {
        type: 'button', 'aria-pressed': String(on), title: on ? 'Draw in grey' : 'Draw in color',
        'data-kernel': kernel,
      });
      badge.addEventListener('click', () => toggleKernel(kernel, chosen));
      addKernel(title, current.kernels[kernel].text);
      for (const size of part) addCell(line, cells(kernel, size), { text, tone, describe });
      if (totals) addCell(line, total(kernel), { text, tone, describe, shape: 'total' });
    }
  }
}

/* The body of a table with these titles above its columns; `totals`: one more over all of them. */
function addMap(body, titles, totals = false) {
  const table = add(add(body, 'div', { class: 'scroll', tabindex: '0' }), 'table', { class: 'map' });
  const head = add(add(table, 'thead'), 'tr');
  for (const title of titles) add(head, 'th', { scope: 'col' }, String(title));
  if (totals) add(head, 'th', { scope: 'col', class: 'total' }, 'all');
  return add(table, 'tbody');
}

/* The sizes that each table has as columns: all in one on a screen, which scrolls; on paper as many as it is wide. */
function partsOf(sizes, most = 12) {
  if (!state.printing || sizes.length <= most) return [sizes];
  return Array.from({ length: Math.ceil(sizes.length / most) }, (_, part) => sizes.slice(part * most, (part + 1) * most));
}

function addCell(line, one, { text, tone, describe, shape }) {
  const cell = add(line, 'td', { class: shape }, one === null ? NOTHING : text(one));
  if (one === null) return;
  const [color, share] = tone(one);
  cell.style.setProperty('--tone', `var(--${color})`);
  cell.style.setProperty('--share', `${Math.round(share)}%`);
  if (one.note) add(cell, 'small', {}, ` ${one.note}`);
  if (describe) {
    cell.addEventListener('pointermove', (event) => tip.show(event, (parent) => describe(parent, one)));
    cell.addEventListener('pointerleave', () => tip.hide());
  }
}

function toggleKernel(kernel, chosen) {
  state.chosen = new Set(chosen);
  if (!state.chosen.delete(kernel)) state.chosen.add(kernel);
  draw();
  const again = document.querySelector(`#speedup [data-kernel="${kernel}"]`);
  if (again) again.focus({ preventScroll: true });
}

/* Faster blue, slower orange, in steps of the logarithm: full at 3x and at a third. */
function toneOfSpeed(one) {
  const strength = Math.min(1, Math.abs(Math.log(one.mean)) / Math.log(3));
  return [one.mean >= 1 ? 'faster' : 'slower', 85 * strength];
}

const toneOfShare = (one) => ['level', 80 * Math.min(1, one.mean / 100)];

function addLegend(body, kernels) {
  const list = add(body, 'ul', { class: 'legend' });
  for (const kernel of kernels) {
    const item = add(list, 'li');
    addBadge(item, kernel, true);
    addKernel(item, current.kernels[kernel].text);
  }
  return list;
}

/* What the curves may show: a title, the column of the times, its ends, and its scale. */
const CURVES = {
  speedup: { name: 'Speed-up', title: 'speed-up over bf16', column: 'speedup', low: 'speedup_low', high: 'speedup_high', tick: (v) => `${tickNumber(v)}x`, even: 1 },
  seconds: { name: 'Time', title: 'time', column: 'seconds', low: 'seconds_low', high: 'seconds_high', log: true, tick: tickTime },
  tflops: { name: 'TFLOP/s', title: 'TFLOP/s', column: 'tflops', log: true, tick: tickNumber },
  limit: { name: 'Percent of limit', title: 'percent of the limit', column: 'limit', tick: (v) => `${tickNumber(v)}%` },
  cost: { name: 'Cost', title: 'time that quantization adds', column: 'quantization_cost_seconds', low: 'quantization_cost_seconds_low', high: 'quantization_cost_seconds_high', tick: (v) => (v === 0 ? '0' : v < 0 ? `-${tickTime(-v)}` : tickTime(v)), even: 0 },
};

/* Value and interval of a row on a curve. TFLOP/s and percent of the limit vary as one over the time. */
function pointOf(row, curve) {
  const middle = value(row, curve.column);
  if (curve.low) return { row, x: xOf(row), y: middle, low: value(row, curve.low), high: value(row, curve.high) };
  const [seconds, low, high] = ['seconds', 'seconds_low', 'seconds_high'].map((column) => value(row, column));
  const known = low !== null && low > 0 && high !== null;
  return { row, x: xOf(row), y: middle, low: known ? (middle * seconds) / high : null, high: known ? (middle * seconds) / low : null };
}

/* A plot a layer: a curve a kernel. */
function drawCurves(body, rows, curve, chosen, { marks = false } = {}) {
  const drawable = rows.filter((row) => value(row, curve.column) !== null);
  const byLayer = groupBy(drawable, layerOf);
  const layers = [...byLayer.keys()].sort((a, b) => a - b);
  const shown = state.allLayers ? layers : layers.slice(0, MOST_PLOTS);
  const plots = add(body, 'div', { class: 'plots' });
  const { columns, width } = gridOf(shown.length);
  plots.style.setProperty('--columns', columns);
  for (const layer of shown) {
    const points = byLayer.get(layer).map((row) => pointOf(row, curve));
    drawLayer(plots, layer, groupBy(points, (p) => kernelOf(p.row)), curve, chosen, width, marks);
  }
  if (shown.length < layers.length) {
    const more = add(add(body, 'p', { class: 'pages more' }), 'button', { type: 'button' }, `Show all ${layers.length} layers`);
    more.addEventListener('click', () => {
      state.allLayers = true;
      draw();
    });
    add(more.parentNode, 'span', {}, `The first ${shown.length} are drawn; or choose one above.`);
  }
}

const MOST_PLOTS = 12;

function drawLayer(plots, layer, curves, curve, chosen, width, marks) {
  const figure = add(plots, 'figure');
  const caption = add(figure, 'figcaption', {}, current.layerTitles[layer]);
  const { axis } = current.comparisons.layers[layer];
  const box = { left: 46, right: width - 26, top: 24, bottom: 222 };
  const points = [...curves.values()].flat();
  const ends = points.flatMap((p) => [p.y, p.low ?? p.y, p.high ?? p.y]).filter((one) => !curve.log || one > 0);
  const xs = [...new Set(points.map((p) => p.x))].sort((a, b) => a - b);
  const x = makeScale(xs[0], xs[xs.length - 1], box.left + 8, box.right - 8, 2);
  let [low, high] = [Math.min(...ends), Math.max(...ends)];
  if (curve.even !== undefined) [low, high] = [Math.min(low, curve.even), Math.max(high, curve.even)];
  else if (!curve.log) low = 0;
  if (curve.log) [low, high] = [low / 1.12, high * 1.12];
  else high += (high - low) * 0.06 || 1;
  const y = makeScale(low, high, box.bottom, box.top, curve.log ? 10 : 0);
  const svg = add(figure, 'svg', { viewBox: `0 0 ${width} 260`, role: 'img', 'aria-label': `${curve.title} over ${axis}, ${current.layerTitles[layer]}` });
  drawAxes(svg, {
    x, y, box, xTicks: xs, yTicks: curve.log ? logTicks(low, high) : evenTicks(low, high), tickY: curve.tick,
    tickX: String, xTitle: axis, yTitle: curve.title,
  });
  if (curve.even !== undefined) add(svg, 'line', { class: 'even', x1: box.left, x2: box.right, y1: y(curve.even), y2: y(curve.even) });
  const order = [...curves.keys()].sort((a, b) => (chosen.has(a) ? 1 : 0) - (chosen.has(b) ? 1 : 0));
  const labels = [];
  const placed = [];
  for (const kernel of order) {
    const on = chosen.has(kernel);
    const line = curves.get(kernel).sort((a, b) => a.x - b.x).map((p) => ({ ...p, left: x(p.x), top: y(p.y) }));
    placed.push(...line);
    const badge = current.badges[kernel];
    const hue = on ? badge.hue : 'hue-none';
    const dash = on ? (baselineKernel(kernel) ? '1 3' : DASHES[badge.turn]) : null;
    add(svg, 'path', { class: `line ${hue}`, d: `M${line.map((p) => `${p.left.toFixed(1)} ${p.top.toFixed(1)}`).join('L')}`, 'stroke-dasharray': dash });
    if (!on) continue;
    for (const p of line) {
      if (p.low !== null && p.high !== null) add(svg, 'path', { class: `bar ${hue}`, d: bar(p.left, y(p.low), y(p.high)) });
      add(svg, 'circle', { class: `dot ${hue} ${badge.turn ? 'hollow' : ''}`, cx: p.left.toFixed(1), cy: p.top.toFixed(1), r: 2.75 });
      if (marks && current.cliffAt.has(p.row)) add(svg, 'circle', { class: 'cliff', cx: p.left.toFixed(1), cy: p.top.toFixed(1), r: 5.5 });
    }
    const last = line[line.length - 1];
    labels.push({ letter: badge.letter, hue, top: last.top, left: last.left });
  }
  drawEndLabels(svg, labels, box);
  const grey = order.filter((kernel) => !chosen.has(kernel)).length;
  if (grey) add(caption, 'span', {}, `${grey} more in grey`);
  followPointer(svg, placed);
}

/* The interval of a point: a line with a cap at each end. */
function bar(left, bottom, top) {
  const [a, b, x] = [bottom, top, left].map((one) => one.toFixed(1));
  return `M${x} ${a}V${b}M${left - 2.5} ${a}h5M${left - 2.5} ${b}h5`;
}

/* Letters at the ends of curves, pushed apart if they would overlap. */
function drawEndLabels(svg, labels, box) {
  labels.sort((a, b) => a.top - b.top);
  const gap = 11;
  labels.forEach((label, index) => {
    label.place = index ? Math.max(label.top, labels[index - 1].place + gap) : label.top;
  });
  let floor = box.bottom;
  for (const label of [...labels].reverse()) {
    label.place = Math.min(label.place, floor);
    floor = label.place - gap;
  }
  for (const label of labels) {
    add(svg, 'text', { class: `end ${label.hue}`, x: label.left + 9, y: label.place + 3.5 }, label.letter);
  }
}

/* The tip of the point that is nearest to the pointer, within 40 pixels. */
function followPointer(svg, points) {
  const focus = add(svg, 'circle', { class: 'focus', r: 5.5, visibility: 'hidden' });
  svg.addEventListener('pointermove', (event) => {
    const box = svg.getBoundingClientRect();
    const ratio = svg.viewBox.baseVal.width / box.width;
    const [left, top] = [(event.clientX - box.left) * ratio, (event.clientY - box.top) * ratio];
    let nearest = null;
    let least = 40 ** 2;
    for (const point of points) {
      const distance = (point.left - left) ** 2 + (point.top - top) ** 2;
      if (distance < least) [nearest, least] = [point, distance];
    }
    focus.setAttribute('visibility', nearest ? 'visible' : 'hidden');
    if (!nearest) {
      tip.hide();
      return;
    }
    focus.setAttribute('cx', nearest.left);
    focus.setAttribute('cy', nearest.top);
    tip.show(event, nearest.describe || ((parent) => describeRow(parent, nearest.row)));
  });
  svg.addEventListener('pointerleave', () => {
    focus.setAttribute('visibility', 'hidden');
    tip.hide();
  });
}

/* Every cell over its operations a byte, below the roofs of its format. Dots of a kernel are one path: 20,000 of them
   as elements would be slow. */
function drawRoofline(body, rows, chosen) {
  const points = rows.map((row) => ({ row, x: current.rows.intensity[row], y: value(row, 'tflops') })).filter((p) => p.y !== null);
  if (!points.length) return false;
  const { roofs, bandwidth } = current;
  const formats = new Set(points.map((p) => current.kernels[kernelOf(p.row)].format));
  const drawn = [...groupBy(roofs.filter((roof) => formats.has(roof.format)), (roof) => roof.tflops)]
    .map(([tflops, alike]) => ({ tflops, names: alike.map((roof) => roof.format) }));
  const figure = add(body, 'figure');
  const { width } = gridOf(1);
  const height = Math.round(Math.max(300, Math.min(520, width * 0.5)));
  const box = { left: 46, right: width - (drawn.length ? 92 : 12), top: 24, bottom: height - 38 };
  const xs = points.map((p) => p.x);
  const ys = points.map((p) => p.y);
  const least = (values) => values.reduce((a, b) => Math.min(a, b));
  const most = (values) => values.reduce((a, b) => Math.max(a, b));
  const peak = drawn.length ? Math.max(...drawn.map((roof) => roof.tflops)) : most(ys);
  const x = makeScale(least(xs) / 1.3, Math.max(most(xs), bandwidth ? peak / bandwidth : 0) * 1.5, box.left, box.right, 10);
  const y = makeScale(least(ys) / 1.5, Math.max(peak, most(ys)) * 1.2, box.bottom, box.top, 10);
  const svg = add(figure, 'svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': 'Roofline: TFLOP/s over operations a byte' });
  drawAxes(svg, {
    x, y, box, xTicks: logTicks(x.low, x.high), yTicks: logTicks(y.low, y.high),
    xTitle: 'operations a byte (inputs read once, output written once)', yTitle: 'TFLOP/s',
  });
  for (const { tflops } of drawn) {
    const ridge = bandwidth ? tflops / bandwidth : x.low;
    const start = Math.max(x.low, ridge);
    const slope = bandwidth && ridge > x.low ? `M${x(Math.max(x.low, y.low / bandwidth))} ${y(Math.max(x.low * bandwidth, y.low))}L` : 'M';
    add(svg, 'path', { class: 'roof', d: `${slope}${x(start)} ${y(tflops)}L${box.right} ${y(tflops)}` });
  }
  const placed = points.map((p) => ({ ...p, left: x(p.x), top: y(p.y) }));
  const byKernel = groupBy(placed, (p) => kernelOf(p.row));
  const size = points.length > 3000 ? 3 : 5;
  const order = [...byKernel.keys()].sort((a, b) => (chosen.has(a) ? 1 : 0) - (chosen.has(b) ? 1 : 0));
  for (const kernel of order) {
    const hue = chosen.has(kernel) ? current.badges[kernel].hue : 'hue-none';
    const d = byKernel.get(kernel).map((p) => `M${p.left.toFixed(1)} ${p.top.toFixed(1)}h0`).join('');
    add(svg, 'path', { class: `dots ${hue}`, d, 'stroke-width': size });
  }
  let free = Infinity; // where the label of the roof below begins
  for (const { tflops, names } of [...drawn].sort((a, b) => a.tflops - b.tflops)) {
    const at = Math.min(y(tflops), free - 16);
    add(svg, 'text', { class: 'roof-label', x: box.right + 6, y: at - 2 }, names.join(', '));
    add(svg, 'text', { class: 'roof-label', x: box.right + 6, y: at + 11 }, `${formatNumber(tflops)} TFLOP/s`);
    free = at - 12;
  }
  if (drawn.length && bandwidth) {
    // Above the slope, where it leaves room to the left.
    const left = Math.sqrt(Math.max(x.low, y.low / bandwidth) * (peak / bandwidth));
    add(svg, 'text', { class: 'roof-label', x: x(left) - 6, y: y(left * bandwidth) - 6, 'text-anchor': 'end' }, `${formatNumber(bandwidth)} TB/s`);
  }
  followPointer(svg, placed);
  return true;
}

/* A point a kernel: what its scheme keeps of the product, and how fast it is. */
function drawAccuracy(body, points, chosen, measureOfSpeed) {
  const figure = add(body, 'figure');
  const { width } = gridOf(1);
  const height = Math.round(Math.max(280, Math.min(420, width * 0.42)));
  const box = { left: 46, right: width - 30, top: 24, bottom: height - 38 };
  const spread = (values) => [Math.min(...values), Math.max(...values)];
  const [left, right] = spread(points.flatMap((p) => [p.low, p.high]));
  const [bottom, top] = spread([...points.map((p) => p.speed), 1]);
  const x = makeScale(left - 1, right + 1, box.left, box.right, 0);
  const y = makeScale(bottom - 0.06, top + 0.12, box.bottom, box.top, 0);
  const svg = add(figure, 'svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': 'Speed against accuracy of the schemes' });
  drawAxes(svg, {
    x, y, box, xTicks: evenTicks(x.low, x.high), yTicks: evenTicks(y.low, y.high), tickY: (v) => `${tickNumber(v)}x`,
    xTitle: 'signal to quantization noise, dB (more is more accurate)', yTitle: measureOfSpeed,
  });
  add(svg, 'line', { class: 'even', x1: box.left, x2: box.right, y1: y(1), y2: y(1) });
  const placed = points.map((p) => ({ ...p, left: x(p.accuracy), top: y(p.speed) }));
  for (const p of placed) {
    const on = chosen.has(p.kernel);
    const { hue, turn, letter } = current.badges[p.kernel];
    const shade = on ? hue : 'hue-none';
    if (p.high > p.low) add(svg, 'path', { class: `bar ${shade}`, d: `M${x(p.low)} ${p.top}H${x(p.high)}` });
    add(svg, 'circle', { class: `dot ${shade} ${turn ? 'hollow' : ''}`, cx: p.left, cy: p.top, r: 4.5 });
    add(svg, 'text', { class: `end ${shade}`, x: p.left + 8, y: p.top - 5 }, letter);
    p.describe = (parent) => {
      addKernel(parent, current.kernels[p.kernel].text);
      add(parent, 'p', {}, `${formatDecibel(p.accuracy)} dB (${formatDecibel(p.low)} to ${formatDecibel(p.high)} over shapes)`);
      add(parent, 'p', {}, `${formatRatio(p.speed)}, geometric mean of ${plural(p.count, 'shape')}`);
    };
  }
  followPointer(svg, placed);
}
