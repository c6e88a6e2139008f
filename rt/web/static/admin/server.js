// How the page speaks with the server it came from: who is signed in, the methods of the server API, the stream of figures.

const PATIENCE = 10_000;
const AGAIN = 2_000;

/** What the server said no to; `status` is 401 for who is not signed in. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export class Server {
  #proof = '';
  /** The tenant that is looked at; empty for all where only figures are asked for. */
  tenant = '';
  tenants = [];

  /** Find out whether somebody is signed in; throws Refused with 401 where not. */
  async session() {
    this.#take(await this.#fetch('session'));
  }

  async signIn(password) {
    this.#take(await this.#fetch('login', { password }));
  }

  async signOut() {
    await this.#fetch('logout', {});
  }

  /** The result of one method of the server API; throws Refused with what it said. */
  async call(method, parameters = {}) {
    const path = `api/${method}?tenant=${encodeURIComponent(this.tenant || this.tenants[0] || '')}`;
    const answer = await this.#fetch(path, parameters).catch(async (refused) => {
      if (refused.status !== 403) throw refused;
      await this.session(); // another tab has signed in since
      return this.#fetch(path, parameters);
    });
    if (answer.error) throw new Refused(200, `${answer.error.code} ${answer.error.message}`);
    return answer.result;
  }

  #take({ proof, tenants }) {
    this.#proof = proof;
    this.tenants = tenants;
  }

  async #fetch(path, body) {
    const options = { headers: { 'Content-Type': 'application/json', 'X-Console-Proof': this.#proof }, signal: AbortSignal.timeout(PATIENCE) };
    if (body) Object.assign(options, { method: 'POST', body: JSON.stringify(body) });
    const response = await fetch(new URL(path, document.baseURI), options).catch(() => { throw new Refused(0, 'no answer'); });
    const answer = await response.json().catch(() => ({ error: `status ${response.status}` }));
    if (!response.ok) throw new Refused(response.status, answer.error);
    return answer;
  }
}

/** The stream of snapshots, as long as the page can be seen. */
export class Stream {
  #server;
  #on;
  #source = null;
  #timer = 0;
  #wanted = false;

  /** `on` has snapshot(snapshot), state(text, tone) and signedOut(). */
  constructor(server, on) {
    this.#server = server;
    this.#on = on;
    document.addEventListener('visibilitychange', () => this.#settle());
  }

  open() {
    this.#wanted = true;
    this.#settle();
  }

  close() {
    this.#wanted = false;
    this.#settle();
  }

  #settle() {
    clearTimeout(this.#timer);
    this.#source?.close();
    this.#source = null;
    if (!this.#wanted || document.hidden) return;
    this.#on.state('connecting', 'waiting');
    const source = this.#source = new EventSource(new URL(`events?tenant=${encodeURIComponent(this.#server.tenant)}`, document.baseURI));
    source.onmessage = ({ data }) => {
      const snapshot = JSON.parse(data);
      this.#on.state(...(snapshot.reasons.length ? ['not ready', 'down'] : ['live', 'live']));
      this.#on.snapshot(snapshot);
    };
    source.onerror = () => {
      this.#on.state('reconnecting', 'waiting');
      // A stream that was refused is not tried again by the browser.
      if (source.readyState === EventSource.CLOSED) this.#timer = setTimeout(() => this.#again(), AGAIN);
    };
  }

  async #again() {
    try {
      await this.#server.session();
    } catch (refused) {
      if (refused.status === 401) {
        this.#on.signedOut();
        return;
      }
    }
    this.#settle();
  }
}
