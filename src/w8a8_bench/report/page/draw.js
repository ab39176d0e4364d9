/* Elements, badges, the tip at the pointer, and axes. Text from records only ever becomes text nodes. */

const SVG = 'http://www.w3.org/2000/svg';

function add(parent, tag, attributes = {}, ...content) {
  const element = parent.namespaceURI === SVG || tag === 'svg'
    ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, one] of Object.entries(attributes)) {
    if (one !== null && one !== undefined && one !== false) element.setAttribute(name, one === true ? '' : one);
  }
  element.append(...content.filter((one) => one !== null && one !== undefined));
  parent.append(element);
  return element;
}

/* A kernel's name, which may break after an underscore and nowhere else. */
function addKernel(parent, text, attributes = {}) {
  const span = add(parent, 'span', { class: 'kernel', ...attributes });
  text.split(/(?<=[_,[])/).forEach((word, index) => {
    if (index) add(span, 'wbr');
    span.append(word);
  });
  return span;
}

/* The letter of a kernel; one that is hollow shares its hue with another. */
function addBadge(parent, kernel, on, tag = 'span', attributes = {}) {
  const { letter, hue, turn } = current.badges[kernel];
  const shape = `badge ${on ? `on ${hue} ${turn ? 'hollow' : ''}` : ''}`.trim();
  return add(parent, tag, { class: shape, ...attributes }, letter);
}

const DASHES = [null, '6 3', '2 3'];

const tip = {
  element: document.getElementById('tip'),
  show(event, fill) {
    this.element.replaceChildren();
    fill(this.element);
    this.element.hidden = false;
    const box = this.element.getBoundingClientRect();
    const left = event.clientX + 14 + box.width > innerWidth ? event.clientX - box.width - 14 : event.clientX + 14;
    const top = event.clientY + 14 + box.height > innerHeight ? event.clientY - box.height - 14 : event.clientY + 14;
    this.element.style.left = `${Math.max(4, left)}px`;
    this.element.style.top = `${Math.max(4, top)}px`;
  },
  hide() {
    this.element.hidden = true;
  },
};

/* Lines of text about a row, for the tip. */
function describeRow(parent, row) {
  const kernel = current.kernels[kernelOf(row)];
  addKernel(parent, kernel.text);
  const say = (text) => text && add(parent, 'p', {}, text);
  const [m, n, k] = sizesOf(row);
  say(`m=${m} n=${n} k=${k}  ${current.layerTitles[layerOf(row)]}`);
  const seconds = value(row, 'seconds');
  if (seconds === null) return;
  say(`${formatTime(seconds)}${within(value(row, 'seconds_low'), value(row, 'seconds_high'), formatTime)}`);
  const tflops = value(row, 'tflops');
  const speedup = value(row, 'speedup');
  const words = [tflops !== null ? `${formatNumber(tflops)} TFLOP/s` : ''];
  if (speedup !== null) {
    words.push(`${formatRatio(speedup)} bf16${within(value(row, 'speedup_low'), value(row, 'speedup_high'), formatRatio)}`);
  }
  say(words.filter(Boolean).join(' · '));
  if (value(row, 'limit') !== null) {
    say(`${formatPercent(value(row, 'limit'))} of the limit, which ${value(row, 'memory_bound') ? 'memory' : 'arithmetic'} sets`);
  }
  if (value(row, 'clock_mhz') !== null) say(`${formatClock(value(row, 'clock_mhz'))} MHz`);
  const cliff = current.cliffAt.get(row);
  if (cliff !== undefined && state.measure === current.measures[0].name) {
    say(`cliff: padded to m=${sizesOf(current.cliffs.padded[cliff])[0]} it is ${formatRatio(current.cliffs.ratio[cliff])} as fast`);
  }
}

function within(low, high, format) {
  return low === null || high === null ? '' : ` (${format(low)} to ${format(high)})`;
}

/* A scale from values to pixels, with ticks. `base` is 2 or 10 for a logarithm, 0 for none. */
function makeScale(low, high, from, to, base) {
  const turn = base ? Math.log : (x) => x;
  if (base ? !(low > 0) : false) low = high / 1000;
  if (low === high) [low, high] = base ? [low / 1.5, high * 1.5] : [low - 1, high + 1];
  const start = turn(low);
  const span = turn(high) - start;
  const scale = (x) => from + ((turn(base ? Math.max(x, low / 1e6) : x) - start) / span) * (to - from);
  scale.low = low;
  scale.high = high;
  return scale;
}

/* Ticks of a logarithmic scale: powers of ten alone over many decades; the fewer decades, the more ticks in each. */
function logTicks(low, high) {
  const decades = Math.log10(high / low);
  const digits = decades > 3.2 ? [1] : decades > 1.6 ? [1, 3] : decades > 1.1 ? [1, 2, 5] : decades > 0.55 ? [1, 1.5, 2, 3, 5, 7] : [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9];
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
    for (const digit of digits) {
      const tick = Number(`${digit}e${power}`);
      if (tick >= low * 0.999 && tick <= high * 1.001) ticks.push(tick);
    }
  }
  return ticks;
}

function evenTicks(low, high) {
  const rough = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((one) => one * power >= rough) * power;
  const ticks = [];
  for (let index = Math.ceil(low / step); index * step <= high * 1.0001; index++) ticks.push(index * step);
  return ticks;
}

/* A short tick label: `20 us`, `1.5`. */
function tickTime(seconds) {
  const [unit, size] = [['s', 1], ['ms', 1e-3], ['us', 1e-6]].find(([, one]) => seconds >= one * 0.999) || ['ns', 1e-9];
  return `${Number((seconds / size).toPrecision(3))} ${unit}`;
}

const tickNumber = (one) => String(Number(one.toPrecision(4)));

/* Axes with grid lines and titles; x labels that would touch the one before are left out. */
function drawAxes(svg, { x, y, xTicks, yTicks, xTitle, yTitle, box, tickX = tickNumber, tickY = tickNumber }) {
  for (const tick of yTicks) {
    add(svg, 'line', { class: 'grid', x1: box.left, x2: box.right, y1: y(tick), y2: y(tick) });
    add(svg, 'text', { x: box.left - 6, y: y(tick) + 3.5, 'text-anchor': 'end' }, tickY(tick));
  }
  add(svg, 'line', { class: 'axis', x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom });
  let edge = -Infinity;
  for (const tick of xTicks) {
    const label = tickX(tick);
    const half = label.length * 3.3;
    add(svg, 'line', { class: 'axis', x1: x(tick), x2: x(tick), y1: box.bottom, y2: box.bottom + 4 });
    if (x(tick) - half < edge + 5) continue;
    add(svg, 'text', { x: x(tick), y: box.bottom + 16, 'text-anchor': 'middle' }, label);
    edge = x(tick) + half;
  }
  add(svg, 'text', { class: 'title', x: (box.left + box.right) / 2, y: box.bottom + 31, 'text-anchor': 'middle' }, xTitle);
  add(svg, 'text', { class: 'title', x: 0, y: box.top - 9 }, yTitle);
}

/* Columns for so many plots, and the width of one, so that text is drawn at its own size. */
function gridOf(count) {
  if (state.printing) return count > 1 ? { columns: 2, width: 340 } : { columns: 1, width: 700 };
  const most = Math.max(1, Math.floor((state.width + GAP) / (350 + GAP)));
  // Four plots in rows of three leave a hole: two rows of two.
  const columns = count === 4 && most === 3 ? 2 : Math.max(1, Math.min(most, count));
  return { columns, width: Math.max(280, (state.width - GAP * (columns - 1)) / columns) };
}

const GAP = 22;
