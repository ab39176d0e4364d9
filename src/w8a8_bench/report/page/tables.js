/* Long tables: sorted, searched and shown a page at a time, so that 20,000 rows are no burden. */

const PAGE_ROWS = 50;
const PRINTED_ROWS = 500;

/* `columns` are {title, text, key, shape}: `text(item)` is shown, `key(item)` sorted by. Keeps its place while it lives. */
function makeTable(body, { columns, items, caption, size: shown = PAGE_ROWS, search = null, shape = '' }) {
  const size = state.printing ? PRINTED_ROWS : shown; // paper has no next page to click on
  const view = { page: 0, column: null, falling: false, words: '' };
  const controls = search ? add(body, 'div', { class: 'controls' }) : null;
  const table = add(add(body, 'div', { class: 'scroll', tabindex: '0' }), 'table', { class: `list ${shape}`.trim() });
  if (caption) add(table, 'caption', {}, caption);
  const head = add(add(table, 'thead'), 'tr');
  const rows = add(table, 'tbody');
  const pages = add(body, 'div', { class: 'pages' });
  let kept = items;

  function select() {
    const words = view.words.toLowerCase().split(/\s+/).filter(Boolean);
    kept = words.length ? items.filter((item) => words.every((word) => search(item).toLowerCase().includes(word))) : [...items];
    if (view.column !== null) {
      const { key } = columns[view.column];
      const turn = view.falling ? -1 : 1;
      kept.sort((a, b) => compareKeys(key(a), key(b), turn));
    }
    view.page = Math.min(view.page, Math.max(0, Math.ceil(kept.length / size) - 1));
  }

  function show() {
    head.replaceChildren();
    columns.forEach((column, index) => {
      const cell = add(head, 'th', { scope: 'col', class: column.shape });
      if (index === view.column) cell.setAttribute('aria-sort', view.falling ? 'descending' : 'ascending');
      const mark = index === view.column ? (view.falling ? ' ↓' : ' ↑') : '';
      const button = add(cell, 'button', { type: 'button', class: 'sort' }, column.title + mark);
      button.addEventListener('click', () => {
        [view.falling, view.column, view.page] = [index === view.column && !view.falling, index, 0];
        select();
        show();
        head.children[index].firstChild.focus();
      });
    });
    rows.replaceChildren();
    for (const item of kept.slice(view.page * size, (view.page + 1) * size)) {
      const line = add(rows, 'tr');
      for (const column of columns) {
        const cell = add(line, 'td', { class: column.shape });
        if (column.fill) column.fill(cell, item);
        else cell.append(column.text(item));
      }
    }
    pages.replaceChildren();
    const first = view.page * size;
    const last = Math.min(kept.length, first + size);
    add(pages, 'span', { 'data-count': kept.length }, kept.length ? `${formatCount(first + 1)} to ${formatCount(last)} of ${formatCount(kept.length)}` : 'nothing matches');
    if (kept.length <= size) return;
    const step = (title, page, possible) => {
      const button = add(pages, 'button', { type: 'button', disabled: !possible }, title);
      button.addEventListener('click', () => {
        view.page = page;
        show();
      });
    };
    const end = Math.ceil(kept.length / size) - 1;
    step('First', 0, view.page > 0);
    step('Previous', view.page - 1, view.page > 0);
    step('Next', view.page + 1, view.page < end);
    step('Last', end, view.page < end);
  }

  if (search) {
    const field = add(add(controls, 'label', { class: 'field' }, 'Search'), 'input', { type: 'search', size: 30, placeholder: 'kernel, layer, status, reason', value: state.search || '' });
    view.words = state.search || '';
    field.addEventListener('input', () => {
      [view.words, view.page] = [field.value, 0];
      state.search = field.value;
      select();
      show();
    });
  }
  select();
  show();
}

/* Numbers by size, text by letters, what is missing last. */
function compareKeys(a, b, turn) {
  if (a === null || b === null) return (a === null) - (b === null);
  return turn * (typeof a === 'number' && typeof b === 'number' ? a - b : String(a).localeCompare(String(b), 'en', { numeric: true }));
}
