// The page: two panes on the same two channels, one over WebSocket and one over Server-Sent Events, and a box to write with.

import { Memory } from './memory.js';
import { Pane } from './pane.js';
import { Socket } from './websocket.js';
import { Stream } from './eventsource.js';

const CHAT = 'chat:lobby';
const PRICES = 'prices:demo';
const CHANNELS = [CHAT, PRICES];
const BURST = 100;
const BREAK_FOR = 2_000;
const NARROW = 2_048;
const ANNOUNCE_EVERY = 1_500;

const byId = (id) => document.getElementById(id);

const announcer = {
  texts: [],
  timer: 0,
  // Together and not too often: a screen reader should hear that something happened, not every message of a burst.
  say(text) {
    announcer.texts.push(text);
    announcer.timer ||= setTimeout(() => {
      announcer.timer = 0;
      byId('announcer').textContent = announcer.texts.splice(0).slice(-3).join('. ');
    }, ANNOUNCE_EVERY);
  },
};

function address(path, scheme = location.protocol) {
  const url = new URL(path, document.baseURI);
  url.protocol = scheme;
  return url;
}

/** What a publication of the chat says, whatever its publisher sent: it may be any JSON value. */
function chatLine(data, recovered) {
  const text = typeof data?.text === 'string' ? data.text : JSON.stringify(data);
  const from = typeof data?.from === 'string' ? data.from : 'somebody';
  const at = Number.isSafeInteger(data?.t) ? data.t : Date.now();
  return { from: from.slice(0, 40), text: text.slice(0, 500), at, recovered };
}

function listener(pane, memory) {
  return {
    state: (text, tone) => pane.state(text, tone),
    worker: (name) => pane.worker(name),
    position(channel, text) {
      pane.position(channel, text);
      memory.changed();
    },
    recovered: (summary) => pane.recovered(summary),
    skipped(channel, count) {
      if (channel === PRICES && count > 0) pane.skipped(count);
    },
    publication(channel, { data }, recovered) {
      if (!recovered && Number.isFinite(data?.t)) pane.latency(data.t);
      if (channel === CHAT) pane.line(chatLine(data, recovered));
      else if (Number.isFinite(data?.price)) pane.price(data.price);
    },
  };
}

async function kill(pane, name) {
  pane.button('kill').disabled = true;
  pane.line({ note: `killing worker ${name}` });
  try {
    const response = await fetch(address('demo/kill'), {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ node: name }),
      signal: AbortSignal.timeout(5_000),
    });
    if (!response.ok) pane.line({ note: `the worker was not killed: ${response.status} ${await response.text()}` });
  } catch {
    pane.line({ note: 'no answer: the worker that was asked is gone itself' });
  }
}

function makePane(id, title, path, connect) {
  const memory = new Memory(`rt.${id}`);
  const pane = new Pane({ id, title, path, memory, announce: announcer.say });
  const on = listener(pane, memory);
  let worker = '';
  on.worker = (name) => { worker = name; pane.worker(name); };
  const connection = connect(memory, on);
  pane.button('break').addEventListener('click', () => {
    pane.line({ note: 'connection broken' });
    connection.break(BREAK_FOR);
  });
  pane.button('slow').addEventListener('click', ({ currentTarget: button }) => {
    const slow = button.getAttribute('aria-pressed') !== 'true';
    button.setAttribute('aria-pressed', String(slow));
    pane.line({ note: slow ? `a line of ${NARROW} bytes a second from here on` : 'the line is as wide as it is' });
    connection.narrow(slow ? NARROW : 0);
  });
  pane.button('kill').addEventListener('click', () => kill(pane, worker));
  byId('panes').append(pane.element);
  return { connection, memory, on };
}

function nickname() {
  const pick = (words) => words[Math.floor(Math.random() * words.length)];
  const name = `${pick(['Quiet', 'Brisk', 'Amber', 'Lucky', 'Gentle', 'Vivid'])} ${pick(['Heron', 'Otter', 'Wren', 'Lynx', 'Finch', 'Marten'])}`;
  return sessionStorage.getItem('rt.name') || name;
}

function startComposer(socket) {
  const [name, text, notice] = [byId('name'), byId('text'), byId('composer-notice')];
  const publish = (texts) => {
    const from = name.value.trim() || 'somebody';
    sessionStorage.setItem('rt.name', from);
    let refused = 0;
    notice.textContent = '';
    const payloads = texts.map((words) => ({ from, text: words, t: Date.now() }));
    socket.publish(CHAT, payloads, (error) => {
      if (!error) return;
      refused += 1;
      notice.textContent = `${refused} not accepted: ${error.code} ${error.message}`;
    });
  };
  name.value = nickname();
  byId('composer').addEventListener('submit', (event) => {
    event.preventDefault();
    publish([text.value]);
    text.value = '';
    text.focus();
  });
  byId('burst').addEventListener('click', () => publish(Array.from({ length: BURST }, (_, n) => `message ${n + 1} of ${BURST}`)));
}

function start() {
  const scheme = location.protocol === 'https:' ? 'wss:' : 'ws:';
  const ws = makePane('ws', 'WebSocket', '/connection/websocket', (memory, on) => {
    const state = on.state;
    on.state = (words, tone) => {
      state(words, tone);
      for (const id of ['send', 'burst']) byId(id).disabled = tone !== 'live';
    };
    const publication = on.publication;
    on.publication = (channel, pub, recovered) => {
      publication(channel, pub, recovered);
      if (channel === CHAT && !recovered && pub.data?.from !== byId('name').value) announcer.say(`Message: ${chatLine(pub.data).text}`);
    };
    return new Socket(address('connection/websocket', scheme), CHANNELS, memory.positions, on);
  });
  const sse = makePane('sse', 'Server-Sent Events', '/sse', (memory, on) => new Stream(address('sse'), CHANNELS, memory, on));
  startComposer(ws.connection);
  byId('curl').textContent = `curl -N '${address('sse')}?channel=${CHAT}'`;
  ws.connection.open();
  sse.connection.open();
}

start();
