// Elements made of text, never of markup: what stands in a name, an id or a payload was chosen by somebody else.

/** An element with properties, attributes (names with a dash, and role) and children: elements or text. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes('-') || name === 'role') made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

/** Foreign text on one line, with everything to be seen in it that is not seen: controls, line ends, turned text. */
export function visible(text) {
  return String(text).replace(UNSEEN, (found) => `\\u{${found.codePointAt(0).toString(16)}}`);
}

/** A span of foreign text, which cannot turn around what stands beside it. */
export function foreign(text) {
  return element('span', { className: 'foreign' }, visible(text));
}

/** A table. Columns are {title, cell(row), number}: a cell is an element or text. */
export function table(columns, rows, empty) {
  if (!rows.length) return element('p', { className: 'muted' }, empty);
  const head = element('tr', {}, ...columns.map(({ title, number }) => element('th', { scope: 'col', className: number ? 'number' : '' }, title)));
  const body = rows.map((row) => element('tr', {}, ...columns.map(({ cell, number }) => element('td', { className: number ? 'number' : 'foreign' }, cell(row)))));
  return element('table', {}, element('thead', {}, head), element('tbody', {}, ...body));
}

/** The pairs of a list of facts: [word, value, tone]. */
export function facts(list, pairs) {
  list.replaceChildren(...pairs.map(([word, value, tone = '']) => {
    const shown = element('dd', {}, value);
    shown.dataset.tone = tone;
    return element('div', {}, element('dt', {}, word), shown);
  }));
}

/** Say something below a form; a tone of `down` for what went wrong. */
export function say(place, text, tone = '') {
  place.textContent = text;
  place.dataset.tone = tone;
}

const grouped = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1 });

/** A count, short where it is long. */
export function count(value) {
  if (value > 0 && value < 10 && !Number.isInteger(value)) return value.toFixed(1);
  return value < 100_000 ? grouped.format(value) : short.format(value);
}

/** A time span, from seconds. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return '–';
  if (seconds < 1) return `${(seconds * 1000).toFixed(seconds < 0.01 ? 1 : 0)} ms`;
  if (seconds < 90) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172_800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86_400)} d`;
}

/** A number of bytes. */
export function bytes(value) {
  const step = value < 1024 ? 0 : Math.min(3, Math.floor(Math.log2(value) / 10));
  return `${(value / 1024 ** step).toFixed(step && value / 1024 ** step < 10 ? 1 : 0)} ${['B', 'KiB', 'MiB', 'GiB'][step]}`;
}
