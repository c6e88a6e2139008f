// The door through which the load publishes: each POST's data goes to `publish`, and is answered when that has returned.
"use strict";
const http = require("node:http");

exports.listen = (port, publish) => {
  const server = http.createServer((request, response) => {
    let body = "";
    request.on("data", (chunk) => (body += chunk));
    request.on("end", () => {
      publish({ pub: { data: JSON.parse(body).data } });
      response.setHeader("Content-Type", "application/json");
      response.setHeader("Content-Length", 13);
      response.end('{"result":{}}');
    });
  });
  server.keepAliveTimeout = 600000;
  server.listen(port, "127.0.0.1");
};
