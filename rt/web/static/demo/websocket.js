// The Centrifuge JSON protocol over one WebSocket, as far as this page needs it: connect and subscribe in one frame, recover
// every channel from its last position, publish, answer pings, come back with backoff. An application would use an SDK.
//
// A frame is one or more JSON objects joined by newlines. Commands carry an id and are answered with the same id; `{}` is a
// ping, and its answer. Replies are handed to callbacks, not promises: a push in the same frame must find the reply handled.

import { backoff, terminal } from './backoff.js';

const COMMAND_TIMEOUT = 5_000;
const PING_GRACE = 10_000;

export class Socket {
  #url; #channels; #positions; #on;
  #socket = null;
  #waiting = new Map();
  #lastId = 0;
  #attempt = 0;
  #retryTimer = 0;
  #silenceTimer = 0;
  #silence = 0;
  #pong = false;

  /**
   * `positions` maps a channel to {epoch, offset}; it is kept up to date in place. `on` holds the callbacks
   * state(text, tone), worker(name), publication(channel, publication, recovered), position(channel, text),
   * recovered({fresh, count, gaps}), skipped(channel, count).
   */
  constructor(url, channels, positions, on) {
    this.#url = url;
    this.#channels = channels;
    this.#positions = positions;
    this.#on = on;
  }

  open() {
    clearTimeout(this.#retryTimer);
    this.#on.state('connecting', 'waiting');
    const socket = new WebSocket(this.#url);
    const current = (act) => (event) => { if (socket === this.#socket) act(event); };
    this.#socket = socket;
    socket.onopen = current(() => this.#hello());
    socket.onmessage = current((event) => this.#frame(event.data));
    socket.onclose = current((event) => this.#lost(event.code, event.reason));
    this.#listenFor(COMMAND_TIMEOUT + PING_GRACE);
  }

  /** Close the socket as a network fault would leave it, without a code, and come back after `pause` milliseconds. */
  break(pause) {
    this.#drop();
    this.#retry(pause, 'connection broken on request');
  }

  /** Come back over a line of `rate` bytes a second; 0 is as wide as it is. */
  narrow(rate) {
    if (rate) this.#url.searchParams.set('demo_line', rate);
    else this.#url.searchParams.delete('demo_line');
    this.break(0);
  }

  /** Publish every item of `payloads` in one frame; `done(error)` is called once per item, with null when it was accepted. */
  publish(channel, payloads, done) {
    this.#send(payloads.map((data) => [{ publish: { channel, data } }, (error) => done(error)]));
  }

  #hello() {
    const summary = { fresh: true, count: 0, gaps: [], open: this.#channels.length };
    this.#send([
      [{ connect: { name: 'rt-demo' } }, (error, result) => this.#connected(error, result)],
      ...this.#channels.map((channel) => this.#subscription(channel, summary)),
    ]);
  }

  #connected(error, result) {
    if (error) return this.#refused(error);
    this.#attempt = 0;
    this.#pong = result.pong === true;
    this.#listenFor(result.ping ? result.ping * 1000 + PING_GRACE : 0);
    this.#on.worker(result.node ?? '');
    this.#on.state('connected', 'live');
  }

  #refused(error) {
    this.#drop();
    const text = `${error.code} ${error.message}`;
    if (error.temporary || error.code < 100) this.#retry(backoff(this.#attempt++), text);
    else this.#on.state(`refused: ${text}`, 'down');
  }

  #subscription(channel, summary) {
    const known = this.#positions[channel];
    const from = known?.epoch ? { recover: true, epoch: known.epoch, offset: known.offset } : {};
    return [{ subscribe: { channel, ...from } }, (error, result) => this.#subscribed(channel, summary, error, result)];
  }

  #subscribed(channel, summary, error, result) {
    if (error) this.#unsubscribed(channel, error, error.temporary || error.code < 100);
    else {
      // Recovered: what is new counts from where we were, and each publication in the reply moves us on.
      if (!result.recoverable) delete this.#positions[channel];
      else if (!result.recovered) this.#positions[channel] = { epoch: result.epoch, offset: result.offset ?? 0 };
      this.#tellPosition(channel);
      if (result.was_recovering) {
        summary.fresh = false;
        if (!result.recovered) summary.gaps.push(channel);
      }
      for (const publication of result.publications ?? []) {
        summary.count += 1;
        this.#take(channel, publication, true);
      }
    }
    summary.open -= 1;
    if (summary.open === 0) this.#on.recovered(summary);
  }

  #unsubscribed(channel, { code, message }, again) {
    this.#on.position(channel, `not subscribed: ${code} ${message}`);
    if (!again) return;
    const socket = this.#socket;
    const summary = { fresh: true, count: 0, gaps: [], open: 1 };
    setTimeout(() => {
      if (socket === this.#socket) this.#send([this.#subscription(channel, summary)]);
    }, backoff(1));
  }

  #take(channel, publication, recovered) {
    const position = this.#positions[channel];
    if (position && publication.offset) {
      if (publication.offset <= position.offset) return; // at least once on the wire, exactly once on the page
      if (!recovered) this.#on.skipped(channel, publication.offset - position.offset - 1);
      position.offset = publication.offset;
      this.#tellPosition(channel);
    }
    this.#on.publication(channel, publication, recovered);
  }

  #tellPosition(channel) {
    const position = this.#positions[channel];
    this.#on.position(channel, position ? `${position.offset} · epoch ${position.epoch}` : 'no history');
  }

  #frame(text) {
    this.#listenFor(this.#silence);
    for (const line of text.split('\n')) {
      if (!line) continue;
      const message = JSON.parse(line);
      if (message.id) this.#settle(message.id, message.error ?? null, message);
      else if (message.push) this.#push(message.push);
      else if (this.#pong) this.#socket.send('{}');
    }
  }

  #push({ channel, pub, unsubscribe }) {
    if (pub) this.#take(channel, pub, false);
    else if (unsubscribe) {
      this.#unsubscribed(channel, { code: unsubscribe.code, message: unsubscribe.reason }, unsubscribe.code >= 2500);
    }
  }

  #send(commands) {
    if (this.#socket?.readyState !== WebSocket.OPEN) {
      for (const [, answer] of commands) answer({ code: 2, message: 'not connected' });
      return;
    }
    const lines = commands.map(([command, answer]) => {
      const id = ++this.#lastId;
      const timer = setTimeout(() => this.#lost(0, 'no reply'), COMMAND_TIMEOUT);
      this.#waiting.set(id, { answer, timer, method: Object.keys(command)[0] });
      return JSON.stringify({ id, ...command });
    });
    this.#socket.send(lines.join('\n'));
  }

  #settle(id, error, reply) {
    const command = this.#waiting.get(id);
    if (!command) return;
    this.#waiting.delete(id);
    clearTimeout(command.timer);
    command.answer(error, reply?.[command.method]);
  }

  /** Nothing for `milliseconds` (0: no limit) means that the connection is dead although nobody said so. */
  #listenFor(milliseconds) {
    clearTimeout(this.#silenceTimer);
    this.#silence = milliseconds;
    if (milliseconds) this.#silenceTimer = setTimeout(() => this.#lost(0, 'no ping'), milliseconds);
  }

  #lost(code, reason) {
    this.#drop();
    const text = code ? `closed ${code}${reason ? ` ${reason}` : ''}` : reason;
    if (terminal(code)) this.#on.state(text, 'down');
    else this.#retry(backoff(this.#attempt++), text);
  }

  #drop() {
    clearTimeout(this.#retryTimer);
    clearTimeout(this.#silenceTimer);
    const socket = this.#socket;
    this.#socket = null; // from here on its events are nobody's
    socket?.close();
    // What waited belonged to the connection that is gone. Subscriptions are made anew by the next one.
    const waiting = [...this.#waiting.values()];
    this.#waiting.clear();
    for (const { answer, timer, method } of waiting) {
      clearTimeout(timer);
      if (method === 'publish') answer({ code: 2, message: 'connection lost' });
    }
  }

  #retry(delay, text) {
    this.#on.state(`${text}, back in ${(delay / 1000).toFixed(1)} s`, 'waiting');
    this.#retryTimer = setTimeout(() => this.open(), delay);
  }
}
