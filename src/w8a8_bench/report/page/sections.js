/* The sections below the verdict, each from the rows that the filters select. */

/* Cells of a heat map: the mean of a kernel at a size, and over all. */
function meansOf(rows, valueOf, mean = geometricMean) {
  const table = byKernelAndSize(rows, valueOf);
  const sizes = [...new Set([...table.values()].flatMap((one) => [...one.keys()]))].sort((a, b) => a - b);
  const summary = (values) => (values && values.length ? { mean: mean(values), values } : null);
  return {
    sizes,
    kernels: [...table.keys()],
    cells: (kernel, size) => summary(table.get(kernel).get(size)),
    total: (kernel) => summary([...table.get(kernel).values()].flat()),
  };
}

function describeMean(format) {
  return (parent, one) => {
    add(parent, 'p', {}, one.values.length === 1 ? format(one.mean) : `${format(one.mean)}: mean of ${plural(one.values.length, 'shape')}`);
    if (one.values.length > 1) add(parent, 'p', {}, `${format(Math.min(...one.values))} to ${format(Math.max(...one.values))}`);
  };
}

function drawSpeedup(rows, withBaseline, chosen) {
  const found = speeds(rows);
  if (!found.size) return hideSection('speedup');
  const map = meansOf([...found.keys()], (row) => found.get(row));
  const shapes = Math.max(...map.kernels.map((kernel) => map.total(kernel).values.length));
  map.kernels.sort((a, b) => compareRanks(map.total(a).values, map.total(b).values, shapes) || a - b);
  const several = new Set(rows.map(layerOf)).size > 1;
  const what = hasBaseline() ? 'Speed-up over bf16' : 'Speed beside the fastest kernel of each shape';
  const note = [
    `${several ? 'Geometric mean over the selected layers' : 'Ratio of samples of the same block'}, by ${current.axis}.`,
    ' Kernels without a time at every shape stand below, with the number of theirs.',
    ' A click on a letter draws its kernel in color or in grey.',
  ];
  if (!hasBaseline()) note.unshift('These records have no bf16 baseline. ');
  return section('speedup', what, note, (body) => drawMap(body, {
    ...map, chosen, corner: `kernel \\ ${current.axis}`,
    total: (kernel) => {
      const all = map.total(kernel);
      return { ...all, note: all.values.length < shapes ? `of ${all.values.length}` : '' };
    },
    text: (one) => formatRatio(one.mean), tone: toneOfSpeed, describe: describeMean(formatRatio),
  }));
}

/* The fastest kernel of every shape, and how many may be as fast: those whose interval of the median meets its own. */
function drawBest(rows, chosen) {
  const timed = rows.filter((row) => value(row, 'seconds') !== null);
  const byShape = groupBy(timed, (row) => current.rows.comparison[row]);
  if (![...byShape.values()].some((group) => group.length > 1)) return hideSection('best');
  const found = speeds(rows);
  const layers = [...new Set(timed.map(layerOf))].sort((a, b) => a - b);
  const sizes = [...new Set(timed.map(xOf))].sort((a, b) => a - b);
  const winners = new Map();
  for (const group of byShape.values()) {
    group.sort((a, b) => value(a, 'seconds') - value(b, 'seconds'));
    const [best] = group;
    const reach = value(best, 'seconds_high');
    const ties = group.slice(1).filter((row) => reach !== null && value(row, 'seconds_low') !== null && value(row, 'seconds_low') <= reach);
    const close = [best, ...ties].filter((row) => AS_FAST * value(row, 'seconds') <= value(best, 'seconds'));
    const row = close.reduce((a, b) => (current.badges[kernelOf(b)].order < current.badges[kernelOf(a)].order ? b : a));
    winners.set(`${layerOf(best)} ${xOf(best)}`, { row, ties: [best, ...ties].filter((one) => one !== row) });
  }
  const note = `The kernel with the least time, and its ${hasBaseline() ? 'speed-up over bf16' : 'time'}. “+2”: two more may be as fast, since 95% intervals meet; of those within ${percentText(1 - AS_FAST)}, the one with the best mean over all shapes stands here.`;
  return section('best', `Best kernel by layer and ${current.axis}`, note, (body) => {
    const used = [...new Set([...winners.values()].map((one) => kernelOf(one.row)))].sort((a, b) => current.badges[a].rank - current.badges[b].rank);
    addLegend(body, used);
    for (const part of partsOf(sizes, 7)) drawBestTable(body, layers, part, winners, found);
  });
}

function drawBestTable(body, layers, sizes, winners, found) {
  const lines = addMap(body, [`layer \\ ${current.axis}`, ...sizes]);
  for (const layer of layers) {
    const line = add(lines, 'tr');
    add(add(line, 'th', { scope: 'row' }), 'span', { class: 'layer' }, current.layerTitles[layer]);
    for (const size of sizes) {
      const winner = winners.get(`${layer} ${size}`);
      const cell = add(line, 'td', {}, winner ? null : NOTHING);
      if (!winner) continue;
      const speed = found.get(winner.row);
      addBadge(cell, kernelOf(winner.row), true);
      cell.append(hasBaseline() && speed !== undefined ? formatRatio(speed) : formatTime(value(winner.row, 'seconds')));
      if (winner.ties.length) add(cell, 'small', {}, ` +${winner.ties.length}`);
      if (speed !== undefined && hasBaseline()) {
        const [color, share] = toneOfSpeed({ mean: speed });
        cell.style.setProperty('--tone', `var(--${color})`);
        cell.style.setProperty('--share', `${Math.round(share)}%`);
      }
      cell.addEventListener('pointermove', (event) => tip.show(event, (parent) => {
        describeRow(parent, winner.row);
        if (winner.ties.length) add(parent, 'p', {}, 'perhaps as fast:');
        for (const row of winner.ties) add(parent, 'p', {}, `${current.kernels[kernelOf(row)].text} ${formatTime(value(row, 'seconds'))}`);
      }));
      cell.addEventListener('pointerleave', () => tip.hide());
    }
  }
}

function drawTime(rows, chosen) {
  const known = Object.entries(CURVES).filter(([name, curve]) => name !== 'cost' && current.times[state.measure] && current.times[state.measure][curve.column]);
  if (!known.length) return hideSection('time');
  if (!known.some(([name]) => name === state.y)) state.y = known[0][0];
  const curve = CURVES[state.y];
  const meaning = current.measures.find((one) => one.name === state.measure).meaning;
  const marks = state.measure === current.measures[0].name && current.cliffs.row.length > 0;
  const note = [`${state.measure}: ${meaning}. Bars are 95% intervals, mostly smaller than the dots. `];
  if (marks && state.y !== 'limit') {
    const ring = document.createElement('span');
    ring.className = 'mark';
    note.push(ring, ' is a cliff: padding to a larger m is faster.');
  }
  return section('time', `${curve.name} over ${current.axis}`, note, (body) => {
    const controls = add(body, 'div', { class: 'controls' });
    addSwitch(controls, 'curve', 'What the curves show', known.map(([name, one]) => [name, one.name]), state.y, (name) => {
      state.y = name;
      draw();
    });
    const drawn = [...chosen].filter((kernel) => rows.some((row) => kernelOf(row) === kernel && value(row, curve.column) !== null));
    addLegend(body, drawn.sort((a, b) => current.badges[a].rank - current.badges[b].rank));
    drawCurves(body, rows, curve, chosen, { marks });
  });
}

function drawLimits(rows, chosen) {
  const timed = rows.filter((row) => value(row, 'tflops') !== null);
  if (!timed.length) return hideSection('roofline');
  const known = Boolean(current.times[state.measure].limit);
  const note = known
    ? ['Roofs are those of the highest SM clock and the nominal memory bandwidth. Percent of the limit is the larger of two: of the compute peak at the clock measured, and of the speed of a kernel that only reads the inputs from memory (measured on an H200; elsewhere bytes over nominal bandwidth).']
    : ['The records do not say what this device can reach (its clock, multiprocessors and bandwidth), so there are no roofs and no limits.'];
  return section('roofline', 'Roofline', note, (body) => {
    const drawn = [...chosen].filter((kernel) => timed.some((row) => kernelOf(row) === kernel));
    addLegend(body, drawn.sort((a, b) => current.badges[a].rank - current.badges[b].rank));
    drawRoofline(body, timed, chosen);
    if (!known) return;
    add(body, 'h3', {}, `Percent of the limit by kernel and ${current.axis}`);
    add(body, 'p', { class: 'note' }, 'Geometric mean over the selected layers. m: memory sets the limit, c: arithmetic does, mc: one or the other, by shape.');
    const map = meansOf(timed, (row) => value(row, 'limit'));
    const bounds = byKernelAndSize(timed, (row) => value(row, 'memory_bound'));
    const note = (kernel, size) => {
      const all = size === null ? [...bounds.get(kernel).values()].flat() : bounds.get(kernel).get(size);
      return (all.includes(1) ? 'm' : '') + (all.includes(0) ? 'c' : '');
    };
    map.kernels.sort((a, b) => map.total(b).mean - map.total(a).mean);
    drawMap(body, {
      ...map, chosen, corner: `kernel \\ ${current.axis}`,
      cells: (kernel, size) => map.cells(kernel, size) && { ...map.cells(kernel, size), note: note(kernel, size) },
      total: (kernel) => ({ ...map.total(kernel), note: note(kernel, null) }),
      text: (one) => formatPercent(one.mean), tone: toneOfShare, describe: describeMean(formatPercent),
    });
  });
}

/* Whose accuracy is shown first: schemes differ most on it. */
const WORST_DATA = 'outliers';

function drawSchemes(rows, chosen) {
  const datas = Object.keys(current.sqnr);
  if (!datas.length) return hideSection('accuracy');
  if (!datas.includes(state.data)) state.data = datas.includes(WORST_DATA) ? WORST_DATA : datas[0];
  const found = speeds(rows);
  const known = [...found.keys()].filter((row) => current.sqnr[state.data][row] !== null);
  const points = [...groupBy(known, kernelOf)].map(([kernel, all]) => {
    const levels = all.map((row) => current.sqnr[state.data][row]);
    return {
      kernel, count: all.length, speed: geometricMean(all.map((row) => found.get(row))),
      accuracy: levels.reduce((sum, one) => sum + one, 0) / levels.length, low: Math.min(...levels), high: Math.max(...levels),
    };
  });
  const note = 'What quantizing weights and activations by a scheme leaves of the product, against the speed of the kernels that run it: up and to the right is better. Bars reach over the shapes.';
  return section('accuracy', 'Speed against accuracy of the schemes', note, (body) => {
    if (datas.length > 1) {
      addSwitch(add(body, 'div', { class: 'controls' }), 'data-choice', 'Data', datas.map((name) => [name, name]), state.data, (name) => {
        state.data = name;
        draw();
      });
    }
    if (!points.length) return add(body, 'p', { class: 'empty' }, 'The selected cells have no accuracy of their scheme.');
    points.sort((a, b) => current.badges[a.kernel].rank - current.badges[b.kernel].rank);
    const over = hasBaseline() ? 'speed-up over bf16' : 'speed beside the fastest';
    drawAccuracy(body, points, chosen, over);
    return makeTable(body, {
      items: points, size: 20,
      columns: [
        { title: 'kernel', shape: 'name', key: (p) => current.kernels[p.kernel].text, fill: (cell, p) => fillKernel(cell, p.kernel) },
        { title: 'scheme', shape: 'label', key: (p) => current.kernels[p.kernel].scheme, text: (p) => current.kernels[p.kernel].scheme },
        { title: `mean SQNR, ${state.data} data`, shape: 'number', key: (p) => p.accuracy, text: (p) => `${formatDecibel(p.accuracy)} dB` },
        { title: over, shape: 'number', key: (p) => p.speed, text: (p) => formatRatio(p.speed) },
        { title: 'shapes', shape: 'number', key: (p) => p.count, text: (p) => formatCount(p.count) },
      ],
    });
  });
}

function fillKernel(cell, kernel) {
  addBadge(cell, kernel, false);
  addKernel(cell, current.kernels[kernel].text);
}

function drawQuantization(rows, chosen) {
  const dynamic = rows.filter((row) => isOk(row) && current.kernels[kernelOf(row)].dynamic);
  if (!dynamic.length) return hideSection('quantization');
  const known = dynamic.filter((row) => value(row, 'quantization_cost_seconds') !== null);
  const note = 'What quantizing the activations inside the timed region adds to the same kernel on activations that were quantized before, from samples of the same block. Quantization alone takes another time, since the GEMM after it finds A in the L2.';
  return section('quantization', 'Cost of quantizing activations', note, (body) => {
    if (!known.length) return add(body, 'p', { class: 'empty' }, 'No cost: the same kernels were not measured on prequantized activations beside these.');
    const map = meansOf(known, (row) => (100 * value(row, 'quantization_cost_seconds')) / value(row, 'seconds'), (all) => all.reduce((a, b) => a + b, 0) / all.length);
    map.kernels.sort((a, b) => map.total(a).mean - map.total(b).mean);
    add(body, 'h3', {}, `Share of the whole time by kernel and ${current.axis}`);
    drawMap(body, {
      ...map, chosen, corner: `kernel \\ ${current.axis}`, text: (one) => formatPercent(one.mean),
      tone: (one) => ['slower', 85 * Math.max(0, Math.min(1, one.mean / 60))], describe: describeMean(formatPercent),
    });
    const colored = new Set([...chosen, ...map.kernels.slice(0, 6)]);
    add(body, 'h3', { class: 'gap' }, `Time added, over ${current.axis}`);
    addLegend(body, map.kernels.filter((kernel) => colored.has(kernel)));
    return drawCurves(body, known, CURVES.cost, colored);
  });
}

function drawCliffs(rows) {
  const selected = new Set(rows);
  const { cliffs } = current;
  const items = [...cliffs.row.keys()].filter((cliff) => selected.has(cliffs.row[cliff]));
  if (!cliffs.row.length) return hideSection('cliffs');
  const headline = current.measures[0].name;
  const time = (row) => value(row, 'seconds', headline);
  items.sort((a, b) => cliffs.ratio[b] - cliffs.ratio[a]);
  const note = `Sizes at which padding the tokens up to a larger m that was measured is faster by more than ${percentText(DATA.thresholds.repeatability)}, more than the noise floor and beyond the intervals, by ${headline}. What the padding itself costs is not in it.`;
  return section('cliffs', 'Cliffs', note, (body) => makeTable(body, {
    items, size: 12,
    columns: [
      { title: 'kernel', shape: 'name', key: (c) => current.kernels[kernelOf(cliffs.row[c])].text, fill: (cell, c) => fillKernel(cell, kernelOf(cliffs.row[c])) },
      { title: 'layer', shape: 'label', key: (c) => current.layerTitles[layerOf(cliffs.row[c])], text: (c) => current.layerTitles[layerOf(cliffs.row[c])] },
      { title: 'm', shape: 'number', key: (c) => sizesOf(cliffs.row[c])[0], text: (c) => String(sizesOf(cliffs.row[c])[0]) },
      { title: 'time', shape: 'number', key: (c) => time(cliffs.row[c]), text: (c) => formatTime(time(cliffs.row[c])) },
      { title: 'pad to m', shape: 'number', key: (c) => sizesOf(cliffs.padded[c])[0], text: (c) => String(sizesOf(cliffs.padded[c])[0]) },
      { title: 'time there', shape: 'number', key: (c) => time(cliffs.padded[c]), text: (c) => formatTime(time(cliffs.padded[c])) },
      { title: 'faster', shape: 'number', key: (c) => cliffs.ratio[c], text: (c) => formatRatio(cliffs.ratio[c]) },
      { title: '95% interval', shape: 'number', key: (c) => cliffs.low[c], text: (c) => `${formatRatio(cliffs.low[c])} to ${formatRatio(cliffs.high[c])}` },
    ],
  }));
}

function drawStatuses(rows) {
  const groups = groupBy(rows.filter((row) => !isOk(row)), (row) => `${current.rows.status[row]} ${current.rows.reason[row]}`);
  if (!groups.size) return hideSection('statuses');
  const items = [...groups.values()].map((alike) => ({
    status: current.statuses[current.rows.status[alike[0]]], reason: current.reasons[current.rows.reason[alike[0]]],
    rows: alike, kernels: [...new Set(alike.map(kernelOf))],
  }));
  const fault = (group) => current.faults.includes(group.status);
  items.sort((a, b) => fault(b) - fault(a) || b.rows.length - a.rows.length);
  const broken = items.filter(fault).reduce((sum, group) => sum + group.rows.length, 0);
  const note = `Cells without a time, by status and reason.${broken ? ` ${plural(broken, 'cell is a fault', 'cells are faults')}: the kernel is broken there.` : ''}`;
  return section('statuses', 'What did not run, and why', note, (body) => makeTable(body, {
    items, size: 20,
    columns: [
      { title: 'status', key: (g) => g.status, text: (g) => g.status },
      { title: 'reason', shape: 'reason', key: (g) => g.reason, text: (g) => g.reason || NOTHING },
      { title: 'cells', shape: 'number', key: (g) => g.rows.length, text: (g) => formatCount(g.rows.length) },
      {
        title: 'kernels', shape: 'name', key: (g) => g.kernels.length,
        fill: (cell, g) => {
          g.kernels.slice(0, 4).forEach((kernel) => addKernel(add(cell, 'div'), current.kernels[kernel].text));
          if (g.kernels.length > 4) add(cell, 'div', {}, `and ${g.kernels.length - 4} more`);
        },
      },
      { title: current.axis, shape: 'label', key: (g) => xOf(g.rows[0]), text: (g) => sizesText(g.rows.map(xOf)) },
    ],
  }));
}

function sizesText(sizes) {
  const different = [...new Set(sizes)].sort((a, b) => a - b);
  return different.length > 8 ? `${different.length} sizes, ${different[0]} to ${different[different.length - 1]}` : different.join(', ');
}

function drawCells(rows) {
  const number = (title, column, format, measure) => ({
    title, shape: 'number', key: (row) => value(row, column, measure),
    text: (row) => (value(row, column, measure) === null ? NOTHING : format(value(row, column, measure))),
  });
  const known = (column, measure = state.measure) => Boolean(current.times[measure] && current.times[measure][column]);
  const columns = [
    { title: 'kernel', shape: 'name', key: (row) => current.kernels[kernelOf(row)].text, fill: (cell, row) => fillKernel(cell, kernelOf(row)) },
    ...(current.layerNames.some(Boolean) ? [{ title: 'layer', shape: 'label', key: (row) => current.layerNames[layerOf(row)], text: (row) => current.layerNames[layerOf(row)] }] : []),
    ...['m', 'n', 'k'].map((size, index) => ({ title: size, shape: 'number', key: (row) => sizesOf(row)[index], text: (row) => String(sizesOf(row)[index]) })),
    { title: 'status', key: (row) => current.statuses[current.rows.status[row]], text: (row) => current.statuses[current.rows.status[row]] },
    number(state.measure || 'time', 'seconds', formatTime),
    number('±95%', 'half_width', formatHalf),
    ...(known('seconds', `${state.measure}_quant`) ? [number('quant', 'seconds', formatTime, `${state.measure}_quant`)] : []),
    ...(known('seconds', `${state.measure}_gemm`) ? [number('gemm', 'seconds', formatTime, `${state.measure}_gemm`)] : []),
    ...(known('quantization_cost_seconds') ? [number('cost', 'quantization_cost_seconds', formatTime)] : []),
    ...current.measures.filter((one) => one.name !== state.measure).map((one) => number(one.name, 'seconds', formatTime, one.name)),
    ...(known('clock_mhz') ? [number('MHz', 'clock_mhz', formatClock)] : []),
    ...(known('tflops') ? [number('TFLOP/s', 'tflops', formatNumber)] : []),
    ...(known('speedup') ? [number('vs bf16', 'speedup', formatRatio)] : []),
    ...(known('limit') ? [number('of limit', 'limit', formatPercent), {
      title: 'bound', key: (row) => value(row, 'memory_bound'), text: (row) => ({ 0: 'compute', 1: 'memory' }[value(row, 'memory_bound')] || NOTHING),
    }] : []),
    { title: 'error', shape: 'number', key: (row) => Number(current.rows.error[row] ?? NaN) || null, text: (row) => (current.rows.error[row] === null ? NOTHING : formatError(current.rows.error[row])) },
    ...Object.keys(current.sqnr).map((name) => ({
      title: `SQNR ${name}`, shape: 'number', key: (row) => current.sqnr[name][row],
      text: (row) => (current.sqnr[name][row] === null ? NOTHING : `${formatDecibel(current.sqnr[name][row])} dB`),
    })),
    ...(rows.some(reasonOf) ? [{ title: 'reason, flags', shape: 'reason', key: reasonOf, text: reasonOf }] : []),
    ...(current.configs.length > 1 ? [{ title: 'configuration', shape: 'label screen-only', key: (row) => current.configs[current.rows.config[row]], text: (row) => current.configs[current.rows.config[row]] }] : []),
  ];
  const note = `Every cell that the filters select, ${state.measure || 'without a time'} first. Ratios are of samples of the same block; error is of the answer against float64. --format csv writes all of it with every digit.`;
  return section('cells', 'All cells', note, (body) => makeTable(body, {
    items: rows, columns, shape: 'long',
    search: (row) => [current.kernels[kernelOf(row)].text, current.layerTitles[layerOf(row)], shapeText(row), current.statuses[current.rows.status[row]], reasonOf(row)].join(' '),
  }));
}

function reasonOf(row) {
  return [current.flags[current.rows.flags[row]], current.reasons[current.rows.reason[row]]].filter(Boolean).join(': ');
}

function drawEnvironment() {
  section('environment', 'Environment, clocks and noise', '', (body) => {
    const groups = add(body, 'div', { class: 'facts' });
    for (const { title, facts } of current.facts) {
      if (!facts.length) continue;
      const group = add(groups, 'div');
      add(group, 'h3', {}, title);
      const list = add(group, 'dl');
      for (const [name, text] of facts) {
        add(list, 'dt', {}, name);
        add(list, 'dd', { class: name === 'command' ? 'command' : null }, text);
      }
    }
    const { comparisons } = current;
    const items = [...comparisons.noise.keys()].filter((one) => comparisons.noise[one] !== null);
    if (!items.length) return;
    makeTable(body, {
      items, size: 10, caption: 'The baseline against its own duplicate: what differs is noise',
      columns: [
        { title: 'layer', shape: 'label', key: (c) => current.layerTitles[comparisons.layer[c]], text: (c) => current.layerTitles[comparisons.layer[c]] },
        ...['m', 'n', 'k'].map((size) => ({ title: size, shape: 'number', key: (c) => comparisons[size][c], text: (c) => String(comparisons[size][c]) })),
        { title: 'ratio', shape: 'number', key: (c) => comparisons.noise[c], text: (c) => `${fixed(comparisons.noise[c], 4)}x` },
        { title: '95% interval', shape: 'number', key: (c) => comparisons.noise_low[c], text: (c) => (comparisons.noise_low[c] === null ? NOTHING : `${fixed(comparisons.noise_low[c], 4)} to ${fixed(comparisons.noise_high[c], 4)}`) },
        { title: 'blocks', shape: 'number', key: (c) => comparisons.blocks[c], text: (c) => String(comparisons.blocks[c]) },
      ],
    });
  });
}
