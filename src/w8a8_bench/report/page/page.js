/* The page as a whole: head, verdict, filters, theme; and what draws it all anew. */

function section(name, title, note, fill) {
  const place = document.getElementById(name);
  place.hidden = false;
  place.querySelector('h2').textContent = title;
  const said = place.querySelector('.note');
  said.replaceChildren(...[note].flat().filter(Boolean));
  said.hidden = !said.childNodes.length;
  const body = place.querySelector('.body');
  body.replaceChildren();
  return fill(body);
}

const hideSection = (name) => {
  document.getElementById(name).hidden = true;
};

function draw() {
  tip.hide();
  // Asked for once: between changes of the page, every question for a size lays all of it out anew.
  state.width = document.querySelector('main').clientWidth;
  const { rows, withBaseline } = selectRows();
  const chosen = chosenKernels(withBaseline);
  drawHead();
  drawVerdict(rows);
  drawSpeedup(rows, withBaseline, chosen);
  drawBest(rows, chosen);
  drawTime(withBaseline, chosen);
  drawLimits(rows, chosen);
  drawSchemes(rows, chosen);
  drawQuantization(rows, chosen);
  drawCliffs(rows);
  drawStatuses(rows);
  drawCells(rows);
  drawEnvironment();
}

function drawHead() {
  document.getElementById('device').textContent = current.device;
  document.title = `W8A8 GEMM report: ${current.device}`;
  const fact = (title) => {
    const found = current.facts.flatMap((group) => group.facts).find(([name]) => name === title);
    return found && found[1];
  };
  const words = [];
  for (const [title, before] of [['torch', 'torch '], ['driver', 'driver '], ['timed data', 'data '], ['measured', '']]) {
    if (fact(title)) words.push(before + fact(title).replace('T', ' ').replace('+00:00', ' UTC'));
  }
  document.getElementById('subtitle').textContent = [...words, current.files.join(', ')].join(' · ');
  const mixed = document.getElementById('mixed');
  mixed.textContent = [DATA.sets.length > 1 && `These are the results of one of ${DATA.sets.length} sets that can't stand side by side, the one with the most cells unless another is chosen below.`, current.mixed].filter(Boolean).join(' ');
  mixed.hidden = !mixed.textContent;
  const warnings = document.getElementById('warnings');
  warnings.replaceChildren();
  for (const text of current.warnings) add(warnings, 'p', { class: 'warning' }, text);
}

/* Mean speed of every kernel over `rows`, the best first; those that ran at all shapes before others. */
function standings(rows) {
  const found = [...speeds(rows)].map(([row, speed]) => ({ row, speed })).filter(({ row }) => !baselineKernel(kernelOf(row)));
  const list = [...groupBy(found, ({ row }) => kernelOf(row))].map(([kernel, all]) => ({ kernel, all, speeds: all.map((one) => one.speed) }));
  const shapes = list.length ? Math.max(...list.map((one) => one.speeds.length)) : 0;
  list.sort((a, b) => compareRanks(a.speeds, b.speeds, shapes));
  return { list, shapes };
}

function drawVerdict(rows) {
  const lead = document.getElementById('lead');
  lead.replaceChildren();
  const { list, shapes } = standings(rows);
  const candidates = list.filter((one) => eightBits(one.kernel));
  const best = candidates[0] || list[0];
  const over = hasBaseline() ? 'bf16' : 'the fastest kernel of each shape';
  if (!best) lead.append('No selected cell has a time.');
  else {
    addKernel(lead, current.kernels[best.kernel].text);
    const ordered = [...best.all].sort((a, b) => a.speed - b.speed);
    const [low, high] = [ordered[0], ordered[ordered.length - 1]];
    lead.append(` is the fastest ${eightBits(best.kernel) ? '8-bit kernel' : 'kernel'}: `);
    add(lead, 'b', {}, formatRatio(geometricMean(best.speeds)));
    lead.append(` the speed of ${over}`);
    if (best.speeds.length > 1) {
      lead.append(`, the geometric mean over ${plural(best.speeds.length, 'shape')}, from `);
      add(lead, 'b', {}, formatRatio(low.speed));
      lead.append(` (${shapeText(low.row)}) to `);
      add(lead, 'b', {}, formatRatio(high.speed));
      lead.append(` (${shapeText(high.row)})`);
    }
    lead.append('.');
    const equal = candidates.slice(1).filter((one) => one.speeds.length === best.speeds.length && geometricMean(one.speeds) > geometricMean(best.speeds) * AS_FAST);
    if (equal.length === 1) {
      lead.append(' ');
      addKernel(lead, current.kernels[equal[0].kernel].text);
      lead.append(` is as fast within ${percentText(1 - AS_FAST)}.`);
    } else if (equal.length) lead.append(` ${formatCount(equal.length)} others are as fast within ${percentText(1 - AS_FAST)}.`);
    const slower = best.speeds.filter((speed) => speed < 1).length;
    if (hasBaseline() && slower) lead.append(` It is slower than bf16 at ${plural(slower, 'shape')}.`);
    if (best.speeds.length < shapes) lead.append(` Other kernels have times at ${plural(shapes, 'shape')}.`);
  }
  drawBestOfSchemes(candidates, shapes);
  drawTiles(rows);
}

/* Of every format and scheme the fastest kernel: what choosing a scheme costs or gains. */
function drawBestOfSchemes(candidates, shapes) {
  const table = document.getElementById('schemes');
  table.replaceChildren();
  const best = groupBy(candidates, ({ kernel }) => {
    const { format, scheme, activations } = current.kernels[kernel];
    return [format, scheme, activations === 'prequantized' ? '' : activations].filter(Boolean).join(' ');
  });
  table.hidden = best.size < 2;
  for (const [name, [one]] of best) {
    const line = add(table, 'tr');
    add(line, 'td', {}, name);
    add(line, 'td', { class: 'ratio number' }, formatRatio(geometricMean(one.speeds)));
    const cell = add(line, 'td');
    addBadge(cell, one.kernel, true);
    addKernel(cell, current.kernels[one.kernel].text);
    if (one.speeds.length < shapes) add(cell, 'small', {}, ` over ${one.speeds.length} of ${plural(shapes, 'shape')}`);
  }
}

function shapeText(row) {
  const [m, n, k] = sizesOf(row);
  return `m=${m} n=${n} k=${k}`;
}

function drawTiles(rows) {
  const tiles = document.getElementById('tiles');
  tiles.replaceChildren();
  const tile = (title, text, small) => {
    const box = add(tiles, 'div');
    add(box, 'dt', {}, title);
    const detail = add(box, 'dd', {}, text);
    if (small) add(detail, 'small', {}, small);
  };
  const ok = rows.filter(isOk);
  const shapes = new Set(rows.map((row) => current.rows.comparison[row]));
  tile('Shapes', formatCount(shapes.size), plural(new Set(rows.map(layerOf)).size, 'layer'));
  tile('Cells with a time', formatCount(ok.length), ok.length < rows.length ? `of ${formatCount(rows.length)}: ${formatCount(rows.length - ok.length)} did not run` : 'all of them');
  const halves = ok.map((row) => value(row, 'half_width')).filter((half) => half !== null).sort((a, b) => a - b);
  const unsettled = ok.filter((row) => current.flags[current.rows.flags[row]].includes('unsettled')).length;
  if (halves.length) {
    tile('95% interval', formatHalf(halves[Math.floor(halves.length / 2)]), `of the median; ${unsettled ? `${formatCount(unsettled)} unsettled` : `widest ${formatHalf(halves[halves.length - 1])}`}`);
  }
  const apart = [...shapes].map((one) => current.comparisons.noise[one]).filter((one) => one !== null).map((one) => Math.abs(one - 1)).sort((a, b) => a - b);
  if (apart.length) tile('Noise floor', `${fixed(100 * apart[apart.length - 1], 2)}%`, 'most that a kernel differs from itself');
  const clocks = ok.map((row) => value(row, 'clock_mhz')).filter((clock) => clock !== null).sort((a, b) => a - b);
  if (clocks.length) tile('SM clock', `${formatClock(clocks[Math.floor(clocks.length / 2)])} MHz`, `${formatClock(clocks[0])} to ${formatClock(clocks[clocks.length - 1])}`);
  const capped = ok.filter((row) => current.flags[current.rows.flags[row]].includes('power_capped')).length;
  if (capped) tile('Power cap', formatCount(capped), 'cells were timed at it');
}

/* A row of choices of which one holds. */
function addSwitch(parent, name, title, choices, chosen, choose) {
  const set = add(parent, 'fieldset', { class: 'switch', id: name });
  add(set, 'legend', {}, title);
  fillSwitch(set, name, choices, chosen, choose);
}

function fillSwitch(set, name, choices, chosen, choose) {
  for (const [one, text] of choices) {
    const label = add(set, 'label', {}, text);
    const radio = add(label, 'input', { type: 'radio', name, value: one });
    radio.checked = one === chosen;
    radio.addEventListener('change', () => {
      choose(one);
      const again = document.querySelector(`input[name="${name}"]:checked`);
      if (again) again.focus({ preventScroll: true });
    });
  }
}

function addFilter(form, id, title, choices, chosen, choose) {
  const select = add(add(form, 'label', { class: 'field' }, title), 'select', { id: `filter-${id}` });
  for (const [one, text] of choices) add(select, 'option', { value: one }, text);
  select.value = chosen;
  select.addEventListener('change', () => choose(select.value));
}

function drawFilters() {
  const form = document.getElementById('filters');
  form.replaceChildren();
  if (DATA.sets.length > 1) {
    addFilter(form, 'set', 'Results', DATA.sets.map((set, index) => [index, set.label]), state.set, (index) => {
      openSet(Number(index));
      drawFilters();
      draw();
    });
  }
  for (const [name, title] of FILTERS) {
    const options = current.options[name];
    if (options.length < 2) continue;
    const text = (one) => (name === 'x' ? String(one) : String(one) || 'none');
    addFilter(form, name, name === 'x' ? current.axis : title, [['', 'all'], ...options.map((one) => [one, text(one)])], state.filters[name] ?? '', (one) => {
      if (one === '') delete state.filters[name];
      else state.filters[name] = one;
      draw();
    });
  }
  if (current.measures.length > 1) {
    addFilter(form, 'measure', 'Measure', current.measures.map((one) => [one.name, one.name]), state.measure, (one) => {
      state.measure = one;
      rankKernels();
      draw();
    });
  }
  form.hidden = !form.childNodes.length;
}

const darkness = matchMedia('(prefers-color-scheme: dark)');

function showTheme() {
  document.documentElement.dataset.theme = state.theme === 'auto' ? (darkness.matches ? 'dark' : 'light') : state.theme;
}

function start() {
  fillSwitch(document.getElementById('theme'), 'theme', [['auto', 'Auto'], ['light', 'Light'], ['dark', 'Dark']], 'auto', (one) => {
    state.theme = one;
    showTheme();
  });
  darkness.addEventListener('change', showTheme);
  showTheme();
  document.getElementById('filters').addEventListener('submit', (event) => event.preventDefault());
  document.getElementById('footer').textContent = `Made by w8a8-bench ${DATA.version}. Everything is in this file; it loads nothing.`;
  const cells = DATA.sets.map((set) => set.rows.kernel.length);
  openSet(cells.indexOf(Math.max(...cells)));
  drawFilters();
  draw();
  for (const [event, printing] of [['beforeprint', true], ['afterprint', false]]) {
    addEventListener(event, () => {
      state.printing = printing;
      draw();
    });
  }
  let width = innerWidth;
  addEventListener('resize', () => {
    if (innerWidth === width) return;
    width = innerWidth;
    draw();
  });
}

start();
