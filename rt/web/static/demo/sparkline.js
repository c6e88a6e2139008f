// A line of the last prices on a canvas. Colours come from the style sheet, so that light and dark follow by themselves.

import { Surface } from './surface.js';

const POINTS = 60;
const PADDING = 4;

export class Sparkline {
  #canvas;
  #prices = [];
  #surface;

  constructor(canvas) {
    this.#canvas = canvas;
    this.#surface = new Surface(canvas, (...drawing) => this.#draw(...drawing));
  }

  add(price) {
    this.#prices.push(price);
    if (this.#prices.length > POINTS) this.#prices.shift();
    const [low, high] = [Math.min(...this.#prices), Math.max(...this.#prices)];
    this.#canvas.setAttribute('aria-label', `Last ${this.#prices.length} prices, from ${low.toFixed(2)} to ${high.toFixed(2)}`);
    this.#surface.redraw();
  }

  #draw(pen, width, height, { color }) {
    if (this.#prices.length < 2) return;
    const points = this.#points(width, height);
    this.#fill(pen, points, height, color);
    this.#stroke(pen, points, color);
  }

  #points(width, height) {
    const [low, high] = [Math.min(...this.#prices), Math.max(...this.#prices)];
    const range = high - low || 1;
    const step = (width - 2 * PADDING) / (POINTS - 1);
    const start = width - PADDING - step * (this.#prices.length - 1);
    return this.#prices.map((price, index) => [
      start + index * step,
      height - PADDING - ((price - low) / range) * (height - 2 * PADDING),
    ]);
  }

  #fill(pen, points, height, color) {
    pen.beginPath();
    pen.moveTo(points[0][0], height);
    for (const [x, y] of points) pen.lineTo(x, y);
    pen.lineTo(points.at(-1)[0], height);
    pen.globalAlpha = 0.1;
    pen.fillStyle = color;
    pen.fill();
    pen.globalAlpha = 1;
  }

  #stroke(pen, points, color) {
    pen.beginPath();
    for (const [x, y] of points) pen.lineTo(x, y);
    pen.strokeStyle = color;
    pen.lineWidth = 1.5;
    pen.lineJoin = 'round';
    pen.stroke();
    pen.beginPath();
    pen.arc(...points.at(-1), 2.5, 0, 2 * Math.PI);
    pen.fillStyle = color;
    pen.fill();
  }
}
