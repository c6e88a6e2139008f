// The same channels over the browser's own EventSource. The browser reconnects by itself and sends the last id it saw as
// Last-Event-ID; that id is the cursor over all channels. The page keeps the cursor too, and hands it back as `since=` after
// a reload, or where the browser gave up (an answer that is not 200 ends an EventSource for good).

import { backoff, terminal } from './backoff.js';

// A replayed publication looks like a live one. For a moment after a resume, what was not sent later counts as recovered.
const REPLAY_WINDOW = 1_000;

export class Stream {
  #url; #channels; #memory; #on;
  #source = null;
  #attempt = 0;
  #retryTimer = 0;
  #summary = null;
  #resumedAt = 0;

  /** `memory` holds `cursor` and `positions`, kept up to date in place; `on` holds the callbacks named in websocket.js. */
  constructor(url, channels, memory, on) {
    this.#url = url;
    this.#channels = channels;
    this.#memory = memory;
    this.#on = on;
  }

  open() {
    clearTimeout(this.#retryTimer);
    this.#on.state('connecting', 'waiting');
    const source = new EventSource(this.#address());
    const current = (act) => (event) => { if (source === this.#source) act(event); };
    this.#source = source;
    source.addEventListener('connect', current((event) => this.#connected(event)));
    source.addEventListener('message', current((event) => this.#message(event)));
    source.addEventListener('gap', current((event) => this.#gap(event)));
    source.addEventListener('disconnect', current((event) => this.#disconnect(JSON.parse(event.data))));
    source.addEventListener('error', current(() => this.#lost()));
  }

  /** Close the stream, and open it again from the cursor after `pause` milliseconds. */
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

  #address() {
    const address = new URL(this.#url);
    for (const channel of this.#channels) address.searchParams.append('channel', channel);
    if (this.#memory.cursor) address.searchParams.set('since', this.#memory.cursor);
    return address;
  }

  #connected(event) {
    const connect = JSON.parse(event.data);
    this.#attempt = 0;
    this.#summary = { fresh: true, count: 0, gaps: [] };
    for (const channel of this.#channels) this.#subscribed(channel, connect.subs?.[channel] ?? {});
    this.#resumedAt = this.#summary.fresh ? 0 : Date.now();
    this.#remember(event);
    this.#on.worker(connect.node ?? '');
    this.#on.state('connected', 'live');
    this.#on.recovered(this.#summary);
  }

  #subscribed(channel, { epoch, offset = 0, recovered, was_recovering: recovering }) {
    // Recovered: what is new counts from where we were, and each replayed publication moves us on.
    if (!epoch) delete this.#memory.positions[channel];
    else if (!recovered || !this.#memory.positions[channel]) this.#memory.positions[channel] = { epoch, offset };
    this.#tellPosition(channel);
    if (!recovering) return;
    this.#summary.fresh = false;
    if (!recovered) this.#summary.gaps.push(channel);
  }

  #message(event) {
    const { channel, pub } = JSON.parse(event.data);
    if (!pub) return;
    const position = this.#memory.positions[channel];
    if (position && pub.offset) {
      if (pub.offset <= position.offset) return; // at least once on the wire, exactly once on the page
      if (!this.#isReplay(pub)) this.#on.skipped(channel, pub.offset - position.offset - 1);
      position.offset = pub.offset;
      this.#tellPosition(channel);
    }
    this.#remember(event);
    const recovered = this.#isReplay(pub);
    this.#on.publication(channel, pub, recovered);
    if (!recovered) return;
    this.#summary.count += 1;
    this.#on.recovered(this.#summary);
  }

  #isReplay({ data }) {
    return Date.now() - this.#resumedAt < REPLAY_WINDOW && !(data?.t >= this.#resumedAt);
  }

  #gap(event) {
    const { channel, epoch, offset } = JSON.parse(event.data);
    this.#memory.positions[channel] = { epoch, offset };
    this.#tellPosition(channel);
    this.#remember(event);
    if (this.#summary.gaps.includes(channel)) return;
    this.#summary.fresh = false;
    this.#summary.gaps.push(channel);
    this.#on.recovered(this.#summary);
  }

  #remember(event) {
    if (event.lastEventId) this.#memory.cursor = event.lastEventId;
    this.#memory.changed();
  }

  #tellPosition(channel) {
    const position = this.#memory.positions[channel];
    this.#on.position(channel, position ? `${position.offset} · epoch ${position.epoch}` : 'no history');
  }

  #disconnect({ code, reason }) {
    this.#drop();
    const text = `closed ${code} ${reason}`;
    if (terminal(code)) this.#on.state(text, 'down');
    else this.#retry(backoff(this.#attempt++), text);
  }

  #lost() {
    if (this.#source.readyState === EventSource.CONNECTING) return this.#on.state('connection lost, coming back', 'waiting');
    this.#drop();
    this.#retry(backoff(this.#attempt++), 'the server refused the stream');
  }

  #drop() {
    clearTimeout(this.#retryTimer);
    this.#source?.close();
    this.#source = null;
  }

  #retry(delay, text) {
    this.#on.state(`${text}, back in ${(delay / 1000).toFixed(1)} s`, 'waiting');
    this.#retryTimer = setTimeout(() => this.open(), delay);
  }
}
