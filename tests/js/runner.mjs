// Drives the published JavaScript SDK for tests/sdk/javascript.py: one JSON object per line on stdin is a call, one per line on
// stdout is an event or a call's answer. It ends when stdin does.

import { createInterface } from "node:readline";
import { Centrifuge } from "centrifuge";
import WebSocket from "ws";

const out = (line) => process.stdout.write(JSON.stringify(line) + "\n");

let client;

function watchClient() {
  for (const state of ["connecting", "connected", "disconnected"]) {
    client.on(state, ({ code, reason, client: id }) => out({ event: state, code, reason, client: id }));
  }
  client.on("error", ({ type, error }) => out({ event: "error", type, code: error?.code, message: error?.message }));
  client.on("subscribed", ({ channel, recovered, wasRecovering, streamPosition, data }) =>
    out({ event: "server-subscribed", channel, recovered, wasRecovering, position: streamPosition, data }));
  client.on("subscribing", ({ channel }) => out({ event: "server-subscribing", channel }));
  client.on("unsubscribed", ({ channel }) => out({ event: "server-unsubscribed", channel }));
  client.on("publication", ({ channel, data, offset }) => out({ event: "server-publication", channel, data, offset }));
  for (const kind of ["join", "leave"]) {
    client.on(kind, ({ channel, info }) => out({ event: `server-${kind}`, channel, info }));
  }
}

// A call-back that gives one of the prepared answers after the other, the last again and again.
function giver(answers, event) {
  return async () => {
    out({ event });
    return answers.length > 1 ? answers.shift() : answers[0];
  };
}

function watchSubscription(sub) {
  const channel = sub.channel;
  for (const state of ["subscribing", "unsubscribed"]) {
    sub.on(state, ({ code, reason }) => out({ event: state, channel, code, reason }));
  }
  sub.on("subscribed", ({ recovered, wasRecovering, streamPosition, data }) =>
    out({ event: "subscribed", channel, recovered, wasRecovering, position: streamPosition, data }));
  for (const kind of ["join", "leave"]) {
    sub.on(kind, ({ info }) => out({ event: kind, channel, info }));
  }
  sub.on("publication", ({ data, offset }) => out({ event: "publication", channel, data, offset }));
  sub.on("error", ({ error }) => out({ event: "sub-error", channel, code: error?.code, message: error?.message }));
}

const calls = {
  connect({ url, options = {}, tokens }) {
    if (tokens) options.getToken = giver(tokens, "get-token");
    client = new Centrifuge(url, { websocket: WebSocket, minReconnectDelay: 50, maxReconnectDelay: 500, ...options });
    watchClient();
    client.connect();
  },
  disconnect() {
    client.disconnect();
  },
  // Connect again after a disconnect, as the same client.
  again() {
    client.connect();
  },
  // The SDK keeps a subscription object per channel until it is removed.
  subscribe({ channel, options = {}, tokens, states }) {
    if (tokens) options.getToken = giver(tokens, "get-sub-token");
    if (states) options.getState = giver(states, "get-state");
    let sub = client.getSubscription(channel);
    if (!sub) {
      sub = client.newSubscription(channel, { minResubscribeDelay: 50, maxResubscribeDelay: 500, ...options });
      watchSubscription(sub);
    }
    sub.subscribe();
  },
  unsubscribe({ channel }) {
    client.getSubscription(channel).unsubscribe();
  },
  publish: ({ channel, data }) => client.publish(channel, data),
  presence: ({ channel }) => client.presence(channel),
  presenceStats: ({ channel }) => client.presenceStats(channel),
  history: ({ channel, options }) => client.history(channel, options),
  rpc: ({ method, data }) => client.rpc(method, data),
  send: ({ data }) => client.send(data),
};

createInterface({ input: process.stdin })
  .on("line", async (line) => {
    const { id, call, ...fields } = JSON.parse(line);
    try {
      out({ id, result: (await calls[call](fields)) ?? null });
    } catch (error) {
      out({ id, error: { code: error.code ?? -1, message: error.message ?? String(error) } });
    }
  })
  .on("close", () => process.exit(0));

out({ event: "up" });
