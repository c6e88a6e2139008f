// One pane: what a connection says about itself, and what it received. Everything from outside becomes text, never markup.

import { Sparkline } from './sparkline.js';

const LINES = 200;
const REMEMBERED = 60;
const FLUSH_DELAY = 30;

export class Pane {
  #root; #memory; #log; #list; #spark; #name;
  #fresh = [];
  #flushTimer = 0;
  #lastPrice = null;
  #skipped = 0;

  /** `announce(text)` speaks to screen readers; `memory` keeps the lines over a reload. */
  constructor({ id, title, path, memory, announce }) {
    this.#root = document.getElementById('pane').content.cloneNode(true).firstElementChild;
    this.#root.dataset.pane = id;
    this.#memory = memory;
    this.#name = title;
    this.announce = announce;
    this.#log = this.#field('log');
    this.#list = this.#log.querySelector('ol');
    this.#spark = new Sparkline(this.#field('spark'));
    this.#field('title').textContent = title;
    this.#field('path').textContent = path;
    this.#log.setAttribute('aria-label', `Messages over ${title}`);
    this.#restore();
  }

  get element() {
    return this.#root;
  }

  button(action) {
    return this.#root.querySelector(`[data-action=${action}]`);
  }

  state(text, tone) {
    const field = this.#field('state');
    if (tone !== field.dataset.tone) this.announce(`${this.#name}: ${text}`);
    field.textContent = text;
    field.dataset.tone = tone;
  }

  worker(name) {
    this.#field('worker').textContent = name || 'unknown';
    this.button('kill').disabled = !name;
  }

  position(channel, text) {
    this.#root.querySelector(`[data-position="${channel}"]`).textContent = text;
  }

  recovered({ fresh, count, gaps }) {
    const field = this.#field('recovered');
    const messages = count === 1 ? '1 message' : `${count} messages`;
    field.dataset.tone = gaps.length ? 'waiting' : fresh ? '' : 'live';
    if (gaps.length) field.textContent = `gap in ${gaps.join(', ')}: not in history any more; ${messages} recovered`;
    else if (fresh) field.textContent = 'started fresh';
    else field.textContent = count ? `recovered ${messages}, nothing missing` : 'resumed, nothing was missed';
  }

  /** So many prices were left out, because newer ones were there when there was room. */
  skipped(count) {
    this.#skipped += count;
    this.#field('skipped').textContent = String(this.#skipped);
  }

  latency(sentAt) {
    this.#field('latency').textContent = `${Math.max(0, Date.now() - sentAt)} ms`;
  }

  price(value) {
    const change = this.#lastPrice === null ? 0 : value - this.#lastPrice;
    this.#lastPrice = value;
    this.#field('price').textContent = value.toFixed(2);
    const field = this.#field('change');
    field.textContent = `${change < 0 ? '▼' : '▲'} ${Math.abs(change).toFixed(2)}`;
    field.dataset.direction = change < 0 ? 'down' : 'up';
    this.#spark.add(value);
  }

  /** A line of the chat: {from, text, at, recovered}, or {note} for what happened to the connection itself. */
  line(line) {
    this.#memory.lines.push(line);
    this.#memory.lines.splice(0, this.#memory.lines.length - REMEMBERED);
    this.#memory.changed();
    this.#show(line);
  }

  #restore() {
    for (const line of this.#memory.lines) this.#show(line);
    if (this.#memory.lines.length) this.#show({ note: 'the page was loaded again' });
  }

  // Lines are laid out together: a burst of a hundred costs one layout, not a hundred.
  #show(line) {
    this.#fresh.push(line.note ? note(line) : message(line));
    this.#flushTimer ||= setTimeout(() => this.#flush(), FLUSH_DELAY);
  }

  #flush() {
    this.#flushTimer = 0;
    const atEnd = this.#log.scrollHeight - this.#log.scrollTop - this.#log.clientHeight < 40;
    this.#list.append(...this.#fresh.splice(0));
    while (this.#list.childElementCount > LINES) this.#list.firstElementChild.remove();
    this.#log.querySelector('.empty').hidden = true;
    if (atEnd) this.#log.scrollTop = this.#log.scrollHeight;
  }

  #field(name) {
    return this.#root.querySelector(`[data-field=${name}]`);
  }
}

function note({ note }) {
  return element('li', 'note', note);
}

function message({ from, text, at, recovered }) {
  const item = element('li', 'message');
  const time = element('time', 'at', new Date(at).toLocaleTimeString([], { hour12: false }));
  item.append(element('span', 'from', from), element('span', 'words', text), time);
  if (recovered) item.append(element('span', 'badge', 'recovered'));
  return item;
}

function element(tag, className, text = '') {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}
