// What is looked up and done by hand: channels, connections, limits, the box to publish from.

import { bytes, count, duration, element, facts, foreign, say, table, visible } from './dom.js';

const ROWS = 500;

/** One of the panels below the tabs: where it says something, its list, and what is known of one line of it. */
class Panel {
  constructor(name, server) {
    this.server = server;
    this.panel = document.getElementById(`panel-${name}`);
    this.notice = this.panel.querySelector('[data-notice]');
    this.list = this.panel.querySelector('[data-list]');
    this.detail = this.panel.querySelector('[data-detail]');
  }

  /** Carry out `work`; what the server refuses is said. */
  async attempt(work) {
    try {
      await work();
    } catch (refused) {
      say(this.notice, visible(refused.message), 'down');
    }
  }

  clear() {
    say(this.notice, '');
    this.list?.replaceChildren();
    this.detail?.setAttribute('hidden', '');
  }

  /** Show all that is known of one thing, with buttons. */
  tell(name, known, ...buttons) {
    const close = element('button', { type: 'button', onclick: () => this.detail.setAttribute('hidden', '') }, 'Close');
    this.detail.replaceChildren(
      element('header', {}, element('h2', {}, foreign(name)), element('div', { className: 'actions' }, ...buttons, close)),
      element('pre', { tabIndex: 0 }, visibleLines(JSON.stringify(known, null, 2))),
    );
    this.detail.removeAttribute('hidden');
    this.detail.scrollIntoView({ block: 'nearest' });
  }
}

/** Foreign text of several lines. JSON has escaped those that are not ours. */
function visibleLines(text) {
  return text.split('\n').map(visible).join('\n');
}

/** What a form holds, without what was left empty. */
function filled(form) {
  return Object.fromEntries([...new FormData(form)].filter(([, value]) => value !== ''));
}

function opener(text, open) {
  return element('button', { type: 'button', className: 'open foreign', onclick: open }, visible(text));
}

function shownOf(shown, all, noun, more = false) {
  return all > shown || more ? `${count(shown)} of ${more ? 'more than ' : ''}${count(all)} ${noun}` : `${count(all)} ${noun}`;
}

export class Channels extends Panel {
  constructor(server) {
    super('channels', server);
    this.form = document.getElementById('channels-form');
    this.form.addEventListener('submit', (event) => {
      event.preventDefault();
      this.refresh();
    });
  }

  refresh() {
    return this.attempt(async () => {
      const { channels } = await this.server.call('channels', filled(this.form));
      const rows = Object.entries(channels).sort(([, one], [, other]) => other.num_clients - one.num_clients);
      say(this.notice, shownOf(Math.min(rows.length, ROWS), rows.length, 'channels, by subscribers'));
      this.list.replaceChildren(table([
        { title: 'Channel', cell: ([name]) => opener(name, () => this.open(name)) },
        { title: 'Subscribers', number: true, cell: ([, { num_clients: clients }]) => count(clients) },
      ], rows.slice(0, ROWS), 'No channel has subscribers.'));
    });
  }

  open(channel) {
    return this.attempt(async () => {
      const known = this.server.methods.has('channel')
        ? await this.server.call('channel', { channel })
        : await this.server.call('history', { channel, limit: 10, reverse: true });
      this.tell(channel, known);
    });
  }
}

const COLUMNS = [
  { key: 'user', title: 'User' },
  { key: 'address', title: 'Address' },
  { key: 'transport', title: 'Transport' },
  { key: 'node', title: 'Worker' },
  { key: 'subscriptions', title: 'Subscriptions', number: true, write: (value) => count(Array.isArray(value) ? value.length : value) },
  { key: 'channels', title: 'Channels', number: true, write: (value) => count(Array.isArray(value) ? value.length : value) },
  { key: 'queued_bytes', title: 'Queued', number: true, write: bytes },
  { key: 'queued_for', title: 'For', number: true, write: duration },
  { key: 'behind', title: 'Behind', number: true, write: String },
];

export class Connections extends Panel {
  constructor(server) {
    super('connections', server);
    this.form = document.getElementById('connections-form');
    this.form.addEventListener('submit', (event) => {
      event.preventDefault();
      this.refresh();
    });
    const one = document.getElementById('connection-form');
    one.addEventListener('submit', (event) => {
      event.preventDefault();
      const { client } = filled(one);
      if (client) this.open(client);
    });
  }

  async refresh() {
    this.form.hidden = !this.server.methods.has('connections');
    if (this.form.hidden) return;
    await this.attempt(async () => {
      const { slow, ...filters } = filled(this.form);
      const answer = await this.server.call('connections', slow ? { ...filters, slow: true } : filters);
      const rows = Array.isArray(answer.connections) ? answer.connections : [];
      const known = COLUMNS.filter(({ key }) => rows.some((row) => row[key] !== undefined));
      say(this.notice, shownOf(rows.length, Math.max(answer.total ?? 0, rows.length), 'connections', Boolean(answer.more)));
      this.list.replaceChildren(table([
        { title: 'Connection', cell: ({ client }) => opener(client, () => this.open(client)) },
        ...known.map(({ key, title, number, write = visible }) => ({ title, number, cell: (row) => (row[key] === undefined ? '–' : write(row[key])) })),
      ], rows, 'No such connections.'));
    });
  }

  open(client) {
    return this.attempt(async () => {
      const known = await this.server.call('connection', { client });
      if (!known.client) {
        say(this.notice, `No worker has a connection ${visible(client)}.`, 'down');
        return;
      }
      const end = element('button', { type: 'button', className: 'danger' }, 'Disconnect');
      end.addEventListener('click', () => this.#end(end, known));
      this.tell(client, known, end);
    });
  }

  /** End a connection, at the second click. */
  #end(button, { client, user = '' }) {
    if (button.textContent === 'Disconnect') {
      button.textContent = 'Really?';
      return undefined;
    }
    return this.attempt(async () => {
      await this.server.call('disconnect', { user, client });
      this.detail.setAttribute('hidden', '');
      await this.refresh();
      say(this.notice, `${visible(client)} was disconnected.`);
    });
  }
}

export class Limits extends Panel {
  constructor(server) {
    super('limits', server);
    this.facts = document.getElementById('limit-facts');
  }

  refresh() {
    return this.attempt(async () => {
      const { rules, connections, counts } = await this.server.call('limits');
      say(this.notice, counts ? '' : 'The store does not count at the moment: shared limits hold for each worker alone.', 'down');
      this.list.replaceChildren(table([
        { title: 'On', cell: ({ on }) => visible(on) },
        { title: 'Per', cell: ({ per }) => visible(per) },
        { title: 'Namespace', cell: ({ namespace }) => visible(namespace || 'all') },
        { title: 'Rate', number: true, cell: ({ rate, burst }) => `${count(rate)}/s, burst ${count(burst)}` },
        { title: 'Subjects', number: true, cell: ({ subjects }) => count(subjects) },
        { title: 'Refused', number: true, cell: ({ hits }) => count(hits) },
        { title: 'Worst of late', cell: ({ worst }) => offenders(worst) },
      ], rules, 'The config has no rate limits.'));
      facts(this.facts, Object.entries(connections).map(([name, value]) => [`Connections: ${visible(name)}`, count(value)]));
    });
  }

  clear() {
    super.clear();
    this.facts.replaceChildren();
  }
}

function offenders(worst) {
  const found = Object.entries(worst).sort(([, one], [, other]) => other - one);
  if (!found.length) return '–';
  return element('span', {}, ...found.flatMap(([who, hits], index) => [index ? ', ' : '', foreign(who), ` ${count(hits)}`]));
}

export class Publish extends Panel {
  constructor(server) {
    super('publish', server);
    const form = document.getElementById('publish-form');
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      this.attempt(() => this.#publish(form));
    });
  }

  refresh() {}

  async #publish(form) {
    const [channel, text] = [form.elements.channel.value, form.elements.data.value];
    let data;
    try {
      data = JSON.parse(text);
    } catch {
      say(this.notice, 'The data is not JSON.', 'down');
      return;
    }
    const { offset, epoch } = await this.server.call('publish', { channel, data });
    say(this.notice, offset === undefined ? 'Published.' : `Published at offset ${offset} of epoch ${visible(epoch)}.`);
  }
}
