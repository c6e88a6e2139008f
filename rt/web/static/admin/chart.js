// Lines over the last two minutes on a canvas. Colours come from the style sheet, so that light and dark follow by themselves.

import { element } from './dom.js';
import { Surface } from './surface.js';

const SPAN = 120;
const GAP = 3.5;
const TOP = 16;
const BOTTOM = 3;

/** The next of 1, 2, 5, 10, 20, ... at or above a value: an axis that does not jump with every point. */
function rounded(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * ([1, 2, 5].find((step) => step * power >= value) ?? 10);
}

/** A card: a title, the number of now, the lines of several series, and what they are. */
export class Chart {
  #points = [];
  #surface;
  #series;
  #format;
  #floor;
  #amount = element('p', { className: 'amount' }, '–');
  #canvas = element('canvas', { role: 'img' });
  #legend = element('p', { className: 'legend' });
  #title;

  /** `series` are names of lines; `format` writes a value; `floor` is the least that the axis reaches. */
  constructor(card, { title, series, format, floor }) {
    this.#title = title;
    this.#series = series;
    this.#format = format;
    this.#floor = floor;
    card.replaceChildren(element('h2', {}, title), this.#amount, this.#canvas, this.#legend);
    this.#surface = new Surface(this.#canvas, (...drawing) => this.#draw(...drawing));
  }

  /** One moment: a value (or null) for each series, the number that is written large, and its unit. */
  add(at, values, amount, unit = '') {
    this.#points = this.#points.filter((point) => point.at > at - SPAN - GAP && point.at < at);
    this.#points.push({ at, values });
    this.#amount.replaceChildren(amount, element('span', { className: 'unit' }, unit));
    const words = this.#series.map((name, index) => `${name} ${values[index] === null ? '–' : this.#format(values[index])}`);
    this.#legend.replaceChildren(...words.map((text, index) => element('span', { className: `s${index + 1}` }, text)));
    this.#canvas.setAttribute('aria-label', `${this.#title}, the last two minutes; now ${words.join(', ')}`);
    this.#surface.redraw();
  }

  clear() {
    this.#points = [];
  }

  #draw(pen, width, height, style) {
    const seen = this.#points.flatMap(({ values }) => values).filter((value) => value !== null);
    const top = rounded(Math.max(this.#floor, ...seen));
    this.#axis(pen, width, height, style, top);
    const last = this.#points.at(-1)?.at ?? 0;
    const place = (at, value) => [width - 3 - (last - at) / SPAN * (width - 3), height - BOTTOM - value / top * (height - TOP - BOTTOM)];
    for (let index = this.#series.length - 1; index >= 0; index -= 1) {
      this.#line(pen, index, place, style.getPropertyValue(`--c${index + 1}`), height);
    }
  }

  #axis(pen, width, height, style, top) {
    pen.strokeStyle = style.getPropertyValue('--line');
    pen.fillStyle = style.getPropertyValue('--muted');
    pen.font = `11px ${style.getPropertyValue('--sans')}`;
    for (const y of [TOP, (TOP + height - BOTTOM) / 2, height - BOTTOM]) {
      pen.beginPath();
      pen.moveTo(0, Math.round(y) + 0.5);
      pen.lineTo(width, Math.round(y) + 0.5);
      pen.stroke();
    }
    pen.fillText(this.#format(top), 0, TOP - 4);
  }

  /** Runs of points without a hole between them; the first series is filled below. */
  #line(pen, index, place, color, height) {
    let run = [];
    let before = -Infinity;
    const runs = [run];
    for (const { at, values } of this.#points) {
      if (values[index] === null || at - before > GAP) runs.push((run = []));
      if (values[index] !== null) run.push(place(at, values[index]));
      before = at;
    }
    pen.strokeStyle = pen.fillStyle = color;
    pen.lineWidth = 1.6;
    pen.lineJoin = 'round';
    for (const points of runs.filter((found) => found.length)) {
      pen.beginPath();
      for (const [x, y] of points) pen.lineTo(x, y);
      pen.stroke();
      if (index) continue;
      pen.lineTo(points.at(-1)[0], height - BOTTOM);
      pen.lineTo(points[0][0], height - BOTTOM);
      pen.globalAlpha = 0.09;
      pen.fill();
      pen.globalAlpha = 1;
    }
  }
}
