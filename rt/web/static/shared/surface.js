// A canvas that is drawn again when it is told to, and when its size or the colours of the page are others.

export class Surface {
  #canvas;
  #draw;
  #pending = 0;

  /** `draw(pen, width, height, style)` draws all of it, in the pixels of the page, on an empty canvas. */
  constructor(canvas, draw) {
    this.#canvas = canvas;
    this.#draw = draw;
    new ResizeObserver(() => this.redraw()).observe(canvas);
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.redraw());
  }

  redraw() {
    this.#pending ||= requestAnimationFrame(() => {
      this.#pending = 0;
      const { width, height } = this.#canvas.getBoundingClientRect();
      const scale = devicePixelRatio || 1;
      this.#canvas.width = Math.round(width * scale);
      this.#canvas.height = Math.round(height * scale);
      const pen = this.#canvas.getContext('2d');
      pen.scale(scale, scale);
      this.#draw(pen, width, height, getComputedStyle(this.#canvas));
    });
  }
}
