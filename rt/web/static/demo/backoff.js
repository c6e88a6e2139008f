// How long to wait before the next attempt to connect: exponential with full jitter, so that the clients of a worker that
// died do not all come back in the same instant.

const FIRST = 500;
const LONGEST = 20_000;

/** Milliseconds to wait before attempt number `attempt` (0 is the first one after a loss). */
export function backoff(attempt) {
  return 50 + Math.random() * Math.min(LONGEST, FIRST * 2 ** Math.min(attempt, 10));
}

/** Whether a close code asks the client to stay away. */
export function terminal(code) {
  return code === 1009 || (code >= 3500 && code < 4000) || (code >= 4500 && code < 5000);
}
