// The console: signing in, the figures as they come, the workers, and the tabs below.

import { Chart } from './chart.js';
import { bytes, count, duration, element, facts, say, table, visible } from './dom.js';
import { Channels, Connections, Limits, Publish } from './looks.js';
import { Server, Stream } from './server.js';

const NAMES_EVERY = 5_000;

const byId = (id) => document.getElementById(id);
const sum = (parts) => Object.values(parts).reduce((total, value) => total + value, 0);
const parted = (parts) => Object.entries(parts).filter(([, value]) => value > 0).map(([name, value]) => `${name} ${count(value)}`).join(', ');

const server = new Server();
const panels = {
  channels: new Channels(server),
  connections: new Connections(server),
  limits: new Limits(server),
  publish: new Publish(server),
};

const rate = (value) => `${count(value)}`;
const charts = {
  connections: new Chart(byId('chart-connections'), { title: 'Connections', series: ['all', 'websocket', 'sse', 'ws', 'one-way'], format: count, floor: 5 }),
  deliveries: new Chart(byId('chart-deliveries'), { title: 'Deliveries', series: ['deliveries', 'published'], format: rate, floor: 5 }),
  latency: new Chart(byId('chart-latency'), { title: 'Delivery latency', series: ['p50', 'p99'], format: duration, floor: 0.002 }),
  drops: new Chart(byId('chart-drops'), { title: 'Dropped, left out and slow', series: ['dropped', 'left out', 'slow'], format: rate, floor: 1 }),
  recoveries: new Chart(byId('chart-recoveries'), { title: 'Subscriptions begun', series: ['resumed', 'fresh', 'gap'], format: rate, floor: 1 }),
  lag: new Chart(byId('chart-lag'), { title: 'Event loop lag', series: ['p50', 'p99'], format: duration, floor: 0.002 }),
};

/** A time span cut in number and unit, as a chart writes it large. */
function large(seconds) {
  return seconds === null ? ['–', ''] : duration(seconds).split(' ');
}

function draw({ at, figures: { gauges, rates, parts, latency, lag } }) {
  const { transports, drops, left_out: left, slow, recoveries } = parts;
  const of = (name) => transports[name] ?? 0;
  charts.connections.add(at, [gauges.connections, of('websocket'), of('sse'), of('ws'), of('uni_websocket') + of('uni_sse')], count(gauges.connections));
  charts.deliveries.add(at, [rates.deliveries, rates.published], count(rates.deliveries), '/s');
  charts.latency.add(at, [latency.p50, latency.p99], ...large(latency.p99));
  charts.drops.add(at, [sum(drops), sum(left), sum(slow)], count(sum(drops) + sum(left)), '/s');
  charts.recoveries.add(at, [recoveries.resumed ?? 0, recoveries.fresh ?? 0, recoveries.gap ?? 0], count(sum(recoveries)), '/s');
  charts.lag.add(at, [lag.p50, lag.p99], ...large(lag.p99));
}

function tell({ gauges, rates, parts, store_connected: connected, probe_age: age }) {
  const why = (parts_) => parted(parts_) || 'none';
  facts(byId('facts'), [
    ['Subscriptions', count(gauges.subscriptions)],
    ['Channels on workers', count(gauges.channels)],
    ['Users on workers', count(gauges.users)],
    ['Behind, of these paced', `${count(gauges.behind)}, ${count(gauges.paced)}`],
    ['Wait for their turn', count(gauges.waiting)],
    ['Connects, disconnects', `${count(rates.connects)}/s, ${count(rates.disconnects)}/s`],
    ['Sent', `${bytes(rates.sent_bytes)}/s`],
    ['Messages received', `${count(rates.received_messages)}/s`],
    ['Calls of the API', `${count(rates.api)}/s`],
    ['Store, last probe', connected ? `up, ${duration(age)} ago` : 'not connected', connected ? '' : 'down'],
    ['Dropped /s, by reason', why(parts.drops)],
    ['Left out /s, by reason', why(parts.left_out)],
    ['Slow /s, by reason', why(parts.slow)],
    ['Refused /s, by reason', why(parts.refusals)],
    ['Limits hit /s', why(parts.limit_hits)],
  ]);
}

// The registry knows names and counts, the metrics who lives; a process is the same in both by its pid.
const names = { at: 0, nodes: new Map() };

async function learnNames() {
  if (Date.now() - names.at < NAMES_EVERY) return;
  names.at = Date.now();
  try {
    const { nodes } = await server.call('info');
    names.nodes = new Map(nodes.map((node) => [node.pid, node]));
  } catch {
    names.nodes = new Map(); // the store is away: their numbers are shown
  }
}

function stateOf({ ready, leaving, silent }) {
  const [text, tone] = silent > 5 ? ['silent', 'down'] : leaving ? ['leaving', 'waiting'] : ready ? ['ready', 'live'] : ['not ready', 'down'];
  const shown = element('span', { className: 'state' }, text);
  shown.dataset.tone = tone;
  return shown;
}

function showWorkers(workers) {
  const of = (pid, key) => { const value = names.nodes.get(pid)?.[key]; return value === undefined ? '–' : count(value); };
  byId('workers').replaceChildren(table([
    { title: 'Worker', cell: ({ pid }) => visible(names.nodes.get(pid)?.name ?? pid) },
    { title: 'State', cell: stateOf },
    { title: 'Pid', number: true, cell: ({ pid }) => String(pid) },
    { title: 'Connections', number: true, cell: ({ pid }) => of(pid, 'num_clients') },
    { title: 'Channels', number: true, cell: ({ pid }) => of(pid, 'num_channels') },
    { title: 'Up for', number: true, cell: ({ pid }) => duration(names.nodes.get(pid)?.uptime) },
    { title: 'Heard of', number: true, cell: ({ silent }) => (silent < 2 ? 'just now' : `${duration(silent)} ago`) },
  ], workers, 'No worker is known.'));
}

const stream = new Stream(server, {
  snapshot(snapshot) {
    draw(snapshot);
    tell(snapshot.figures);
    learnNames();
    showWorkers(snapshot.workers);
    byId('reasons').hidden = !snapshot.reasons.length;
    byId('reasons').textContent = snapshot.reasons.map(visible).join(' · ');
  },
  state(text, tone) {
    const state = byId('state');
    if (state.textContent === text) return;
    state.textContent = text;
    state.dataset.tone = tone;
  },
  signedOut: () => show(false),
});

/** Show the figures, or the form to sign in. */
function show(signedIn) {
  for (const id of ['main', 'signed-in', 'state']) byId(id).hidden = !signedIn;
  byId('login').hidden = signedIn;
  if (!signedIn) {
    stream.close();
    for (const panel of Object.values(panels)) panel.clear();
    byId('password').focus();
    return;
  }
  byId('password').value = '';
  say(byId('login-notice'), '');
  const select = byId('tenant');
  byId('tenant-field').hidden = server.tenants.length < 2;
  server.tenant = ''; // as the list says now
  select.replaceChildren(element('option', { value: '' }, 'all'), ...server.tenants.map((name) => element('option', { value: name }, name)));
  choose(Object.hasOwn(panels, location.hash.slice(1)) ? location.hash.slice(1) : 'channels');
  stream.open();
}

/** Open one of the tabs, and read what it shows. */
function choose(name) {
  for (const [other, { panel }] of Object.entries(panels)) {
    const tab = byId(`tab-${other}`);
    tab.setAttribute('aria-selected', String(other === name));
    tab.tabIndex = other === name ? 0 : -1;
    panel.hidden = other !== name;
  }
  history.replaceState(null, '', `#${name}`);
  panels[name].refresh();
}

function arrange() {
  const tabs = Object.keys(panels);
  tabs.forEach((name, index) => {
    const tab = byId(`tab-${name}`);
    tab.addEventListener('click', () => choose(name));
    tab.addEventListener('keydown', ({ key }) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
      if (!step) return;
      const next = tabs[(index + step + tabs.length) % tabs.length];
      choose(next);
      byId(`tab-${next}`).focus();
    });
  });
  byId('login').addEventListener('submit', async (event) => {
    event.preventDefault();
    try {
      await server.signIn(byId('password').value);
      show(true);
    } catch (refused) {
      say(byId('login-notice'), refused.message);
    }
  });
  byId('sign-out').addEventListener('click', async () => {
    await server.signOut().catch(() => {}); // who cannot reach the server sees nothing more either
    show(false);
  });
  byId('tenant').addEventListener('change', ({ target }) => {
    server.tenant = target.value;
    names.at = 0;
    for (const chart of Object.values(charts)) chart.clear();
    for (const panel of Object.values(panels)) panel.clear();
    stream.open();
    choose(location.hash.slice(1));
  });
}

async function start() {
  arrange();
  try {
    await server.session();
    show(true);
  } catch (refused) {
    show(false);
    if (refused.status !== 401) say(byId('login-notice'), refused.message);
  }
}

start();
