// What is looked up and done by hand: channels, connections, limits, the box to publish from.

import { bytes, count, duration, element, facts, foreign, say, table, visible } from './dom.js';

const ROWS = 500;
const NEWEST = 10;

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

/** The same for the id of a connection, of which the beginning tells it from others. */
function shortOpener(id, open) {
  return element('button', { type: 'button', className: 'open mono', title: visible(id), onclick: open }, `${visible(id.slice(0, 8))}…`);
}

function shownOf(shown, all, noun) {
  return all > shown ? `${count(shown)} of ${count(all)} ${noun}` : `${count(all)} ${noun}`;
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
      this.tell(channel, { ...await this.server.call('channel', { channel }), newest: await this.#newest(channel) });
    });
  }

  /** The last publications, newest first; nothing for a channel that keeps none. */
  async #newest(channel) {
    try {
      return (await this.server.call('history', { channel, limit: NEWEST, reverse: true })).publications;
    } catch {
      return [];
    }
  }
}

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

  refresh() {
    return this.attempt(async () => {
      const { slow, ...filters } = filled(this.form);
      const { connections, total } = await this.server.call('connections', { ...filters, slow: Boolean(slow), limit: ROWS });
      say(this.notice, shownOf(connections.length, total, 'connections, those first that have waited longest'));
      this.list.replaceChildren(table([
        { title: 'Connection', cell: ({ client }) => shortOpener(client, () => this.open(client)) },
        { title: 'User', cell: ({ user }) => foreign(user || '–') },
        { title: 'Address', cell: ({ address }) => visible(address) },
        { title: 'Transport', cell: ({ transport }) => visible(transport) },
        { title: 'Worker', cell: ({ node }) => visible(node) },
        { title: 'Channels', number: true, cell: ({ channels }) => count(channels) },
        { title: 'Queued', number: true, cell: ({ queued_bytes: queued, queued_for: since }) => (queued ? `${bytes(queued)}, ${duration(since)}` : '–') },
        { title: 'Behind', number: true, cell: ({ behind, behind_for: since }) => (behind ? `${count(behind)}, ${duration(since)}` : '–') },
      ], connections, 'No such connections.'));
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
