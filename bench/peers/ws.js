// npm ws, as its README broadcasts: node ws.js PORT PUBLISH_PORT
"use strict";
const { WebSocketServer, WebSocket } = require("ws");
const [port, publishPort] = process.argv.slice(2).map(Number);

require("./posts.js").listen(publishPort, (message) => {
  const text = JSON.stringify(message);
  for (const client of server.clients) if (client.readyState === WebSocket.OPEN) client.send(text, { binary: false });
});
const server = new WebSocketServer({ port, host: "127.0.0.1", backlog: 4096 });
server.on("connection", (client) => client.send('{"connect":{}}'));
