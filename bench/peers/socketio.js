// npm socket.io, as its documentation broadcasts: node socketio.js PORT PUBLISH_PORT
"use strict";
const { createServer } = require("node:http");
const { Server } = require("socket.io");
const [port, publishPort] = process.argv.slice(2).map(Number);

const http = createServer();
const io = new Server(http, { transports: ["websocket"] });
require("./posts.js").listen(publishPort, (message) => io.emit("message", message));
http.listen(port, "127.0.0.1", 4096);
