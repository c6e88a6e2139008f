// What a pane keeps over a reload of the page: how far it has read, and the lines it has shown up to there. Both are saved
// in one item, so that the position never runs ahead of the lines; a crash in between only replays a few messages.

const DELAY = 150;

export class Memory {
  #key;
  #timer = 0;

  constructor(key) {
    this.#key = key;
    this.positions = {};
    this.cursor = '';
    this.lines = [];
    this.#load();
    addEventListener('pagehide', () => this.#save());
  }

  /** Something changed: save it soon, once for a whole burst of messages. */
  changed() {
    this.#timer ||= setTimeout(() => this.#save(), DELAY);
  }

  #load() {
    try {
      const saved = JSON.parse(sessionStorage.getItem(this.#key)) ?? {};
      if (saved.positions && typeof saved.positions === 'object') this.positions = saved.positions;
      if (typeof saved.cursor === 'string') this.cursor = saved.cursor;
      if (Array.isArray(saved.lines)) this.lines = saved.lines;
    } catch (error) {
      console.warn('nothing remembered from before the reload:', error.message);
    }
  }

  #save() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    const { positions, cursor, lines } = this;
    try {
      sessionStorage.setItem(this.#key, JSON.stringify({ positions, cursor, lines }));
    } catch (error) {
      console.warn('this tab cannot remember its position:', error.message);
    }
  }
}
