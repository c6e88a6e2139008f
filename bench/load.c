/* Subscribers and publishers for a measurement, on one core: gcc -O2 -o load load.c
 *
 *   load --port 8000 --door sdk --subs 5000 [--channels 1] [--prefix bench:] [--key KEY] [--pad 0] [--concurrent 64]
 *        [--publish-port 8000] [--tokens FILE] [--epoch EPOCH --since OFFSET]
 *
 * opens the subscribers (door: sdk, ws, sse, raw for floor.c, sio for Socket.IO, nchan), prints one JSON line when all are
 * subscribed, and then obeys lines on its standard input, each with a JSON line when it is done:
 *
 *   run PUBLISHERS SECONDS REST [KIND GROUP RATE]
 *                           publish over so many keep-alive connections, one request in flight on each, and let each rest REST
 *                           times as long as its last answer took, until all has arrived. KIND is publish, or batch,
 *                           parallel (batch) or broadcast of GROUP publications; with a RATE so many requests go out per second, each stamped with
 *                           the time at which it was due
 *   frames KIND SECONDS     every subscriber sends one frame in each pass: `send`, a command without an answer (but for the
 *                           last one's, which is waited for), or `publish`, where all answers are waited for
 *   idle SECONDS            only answer pings
 *   churn COUNT             close and open so many connections, one after the other
 *   quit                    (or end of file) close everything
 *
 * TOKENS has one token per line, for one subscriber each. With SINCE each asks to be given what came after it, and the first
 * line says how many publications that were.
 *
 * Deliveries are counted exactly: frames and events are parsed, and each "pub": in them is one delivery. The payload carries
 * the monotonic clock of this process in hexadecimal, so the latency is from the start of the POST to the end of the recv().
 * Only 127.0.0.0/8 is ever connected to. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { SOURCES = 16, SAMPLE_EVERY = 16, MAX_SAMPLES = 4 << 20, BUFFER = 4 << 20, MAX_PUBLISHERS = 256, MAX_PAD = 8192 };
enum door { RAW, SDK, WS, SSE, SIO, NCHAN, DOORS };
enum kind { PUBLISH, BATCH, PARALLEL, BROADCAST };
enum state { HEAD, HELLO, LIVE, GONE };

struct sub {
    int fd, state, channel;
    char *rest; /* the beginning of a frame or event whose end has not come yet */
    size_t nrest;
};

struct pub {
    int fd, busy;
    uint64_t sent, due; /* when the last publish was sent; when the next may be */
    size_t got;
    char answer[32768];
};

static int door = SDK, port = 8000, nsubs = 0, nchannels = 1, pad = 0;
static int concurrent = 64, publish_port = 0;
static long since = -1;
static const char *prefix = "bench:", *key = "", *epoch = "";
static char **tokens; /* one for each subscriber, or NULL */
static struct sub *subs;
static struct pub pubs[MAX_PUBLISHERS];
static int npubs = 0, epfd, nlive = 0, nopened = 0;
static long deliveries = 0, expected = 0, publications = 0, refused = 0, cut = 0, bytes = 0, next_channel = 0;
static long recovered = 0, replies = 0, pings = 0, churning = 0;
static int publishing = 0, kind = PUBLISH, group = 1;
static double rest = 0, rate = 0;
static uint32_t *samples;
static long nsamples = 0;
static char buffer[BUFFER];

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + t.tv_nsec;
}

static void fail(const char *format, ...) {
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    for (char *p = text; *p; p++)
        if (*p == '"' || *p == '\\' || (unsigned char)*p < ' ') *p = ' ';
    printf("{\"event\":\"failed\",\"why\":\"%s\"}\n", text);
    fflush(stdout);
    exit(1);
}

/* The subscribers come from several source addresses, so that none runs out of ports. */
static int dial(int n, int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    if (fd < 0) fail("socket: %s", strerror(errno));
    struct timeval limit = {5, 0};
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000002u + n % SOURCES)};
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(0x7f000001u)};
    if (bind(fd, (struct sockaddr *)&from, sizeof from)) fail("bind: %s", strerror(errno));
    if (connect(fd, (struct sockaddr *)&to, sizeof to)) fail("connection %d: %s", n, strerror(errno));
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    return fd;
}

static void watch(int fd, uint64_t tag) {
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP, .data.u64 = tag};
    if (epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &event)) fail("epoll: %s", strerror(errno));
}

static int send_all(int fd, const char *data, size_t n) { return send(fd, data, n, MSG_NOSIGNAL) == (ssize_t)n; }

static int send_text(int fd, const char *text, int opcode) {
    static const unsigned char mask[4] = {0x37, 0xfa, 0x21, 0x3d};
    char frame[8192];
    size_t n = strlen(text), head = 2;
    if (n > sizeof frame - 8) fail("a text of %zu bytes", n);
    frame[0] = (char)(0x80 | opcode);
    frame[1] = (char)(0x80 | (n < 126 ? n : 126));
    if (n >= 126) frame[2] = (char)(n >> 8), frame[3] = (char)n, head = 4;
    memcpy(frame + head, mask, 4);
    for (size_t i = 0; i < n; i++) frame[head + 4 + i] = (char)(text[i] ^ mask[i & 3]);
    return send_all(fd, frame, head + 4 + n);
}

static void gone(struct sub *s) {
    if (s->state == GONE) return;
    if (s->state != LIVE) fail("a subscriber was refused: the connection ended before it was subscribed");
    s->state = GONE, cut++;
    epoll_ctl(epfd, EPOLL_CTL_DEL, s->fd, NULL);
    close(s->fd);
}

static void open_at(int i) {
    char request[512];
    struct sub *s = &subs[i];
    s->fd = dial(i, port), s->channel = i % nchannels, s->state = HEAD;
    static const char *upgrade =
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    if (door == RAW) strcpy(request, "S"), s->state = HELLO;
    else if (door == SDK) snprintf(request, sizeof request, "GET /connection/websocket HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n%s\r\n", port, upgrade);
    else if (door == SIO) snprintf(request, sizeof request, "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n%s\r\n", port, upgrade);
    else
        snprintf(request, sizeof request, "GET /%s?channel=%s%d HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n%s\r\n", door == SSE ? "sse" : "ws",
                 prefix, s->channel, port, door != SSE ? upgrade : "Accept: text/event-stream\r\n");
    watch(s->fd, (uint64_t)i << 2 | 1);
    if (!send_all(s->fd, request, strlen(request))) fail("connection %d: the request could not be sent", i);
}

static void open_next(void) {
    for (int skipped = 0; nopened >= nsubs && subs[nopened % nsubs].state != LIVE; nopened++) /* still on its way */
        if (++skipped > nsubs) fail("nobody is left to be opened again");
    int i = nopened++ % nsubs;
    if (subs[i].state == LIVE) { /* again */
        close(subs[i].fd);
        free(subs[i].rest), subs[i].rest = NULL, subs[i].nrest = 0;
        nlive--, churning--;
    }
    open_at(i);
}

static void live(struct sub *s) {
    s->state = LIVE, nlive++;
    if (nopened < nsubs || churning > 0) open_next();
}

/* Publications lie at least this far apart: skipping ahead makes the count cheap. */
static const size_t STRIDE = 40;

static void count(struct sub *s, const char *text, size_t n) {
    const char *end = text + n, *at = text;
    int sampled = (s - subs) % SAMPLE_EVERY == 0;
    uint64_t now = sampled ? now_ns() : 0;
    while ((at = memmem(at, end - at, "\"pub\":", 6))) {
        deliveries++;
        if (sampled && nsamples < MAX_SAMPLES) {
            const char *t = memmem(at, end - at, "\"t\":\"", 5);
            if (t && end - t >= 21) {
                char digits[17] = {0};
                memcpy(digits, t + 5, 16);
                uint64_t sent = strtoull(digits, NULL, 16);
                samples[nsamples++] = (uint32_t)((now - sent) / 1000);
            }
        }
        if ((size_t)(end - at) <= STRIDE) break;
        at += STRIDE;
    }
}

static long occurrences(const char *text, size_t n, const char *word) {
    const char *end = text + n;
    long found = 0;
    for (size_t length = strlen(word); (text = memmem(text, end - text, word, length)); text += length) found++;
    return found;
}

static int awaiting = 0; /* answers to frames */

static void answer_came(const char *text, size_t n) {
    replies += occurrences(text, n, "\"id\":");
    if (memmem(text, n, "\"error\"", 7) && refused++ == 0) fprintf(stderr, "load: a command was answered: %.*s\n", (int)(n < 300 ? n : 300), text);
}

static void text_came(struct sub *s, const char *text, size_t n) {
    if (door == SIO && n == 1 && *text == '2') return pings++, (void)send_text(s->fd, "3", 1);
    if (s->state == LIVE) {
        if (n == 2 && door == SDK && !memcmp(text, "{}", 2)) pings++, send_text(s->fd, "{}", 1);
        else if (awaiting) answer_came(text, n);
        else count(s, text, n);
        return;
    }
    if (memmem(text, n, "\"error\"", 7)) fail("a subscriber was refused: %.*s", (int)(n < 200 ? n : 200), text);
    if (door == SIO && *text == '0') return (void)send_text(s->fd, "40", 1);
    const char *sign = door == SDK ? "\"id\":2" : door == WS ? "\"connect\"" : door == SIO ? "40" : "{";
    if (!memmem(text, n, sign, strlen(sign))) return;
    if (since >= 0) {
        if (!memmem(text, n, "\"recovered\":true", 16)) fail("a subscriber was given nothing back: %.*s", (int)(n < 300 ? n : 300), text);
        recovered += occurrences(text, n, "\"t\":\"");
    }
    live(s);
}

/* Each of these takes what is complete and returns how many bytes that were. */
static size_t take_frames(struct sub *s, const char *data, size_t n) {
    size_t used = 0;
    while (n - used >= 2 && s->state != GONE) {
        const unsigned char *f = (const unsigned char *)data + used;
        size_t length = f[1] & 127, head = 2;
        if (length == 126) {
            if (n - used < 4) break;
            length = f[2] << 8 | f[3], head = 4;
        } else if (length == 127) {
            if (n - used < 10) break;
            length = 0, head = 10;
            for (int i = 2; i < 10; i++) length = length << 8 | f[i];
        }
        if (length + head > BUFFER / 2) fail("a frame of %zu bytes", length);
        if (n - used < head + length) break;
        used += head + length;
        int opcode = f[0] & 15;
        if (opcode == 1) text_came(s, (const char *)f + head, length);
        else if (opcode == 9) pings++, send_text(s->fd, "", 10);
        else if (opcode == 8) gone(s);
        else fail("an unexpected frame, opcode %d", opcode);
    }
    return used;
}

static size_t take_events(struct sub *s, const char *data, size_t n) {
    const char *end = n < 2 ? NULL : memrchr(data, '\n', n);
    while (end && end > data && end[-1] != '\n') end = memrchr(data, '\n', end - data);
    if (!end || end == data) return 0;
    size_t used = end + 1 - data;
    if (s->state == HELLO && memmem(data, used, "event: connect", 14)) live(s);
    if (memmem(data, used, "event: disconnect", 17)) gone(s);
    else count(s, data, used);
    return used;
}

static size_t take_head(struct sub *s, const char *data, size_t n) {
    const char *end = memmem(data, n, "\r\n\r\n", 4);
    if (!end) return 0;
    if (memcmp(data, door == SSE ? "HTTP/1.1 200" : "HTTP/1.1 101", 12))
        fail("a subscriber was refused: %.*s", (int)((char *)memchr(data, '\r', n) - data), data);
    s->state = HELLO;
    if (door == SDK) {
        char hello[4096], from[256] = "", with[2048] = "";
        if (since >= 0) snprintf(from, sizeof from, ",\"recover\":true,\"epoch\":\"%s\",\"offset\":%ld", epoch, since);
        if (tokens) snprintf(with, sizeof with, "\"token\":\"%s\"", tokens[s - subs]);
        snprintf(hello, sizeof hello, "{\"connect\":{%s},\"id\":1}\n{\"subscribe\":{\"channel\":\"%s%d\"%s},\"id\":2}", with, prefix,
                 s->channel, from);
        send_text(s->fd, hello, 1);
    } else if (door == NCHAN) live(s);
    return end + 4 - data;
}

static void readable(struct sub *s) {
    memcpy(buffer, s->rest, s->nrest);
    ssize_t n = recv(s->fd, buffer + s->nrest, BUFFER / 2 - 16, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) return gone(s);
    bytes += n;
    size_t have = s->nrest + n, used = 0;
    if (s->state == HEAD) used = take_head(s, buffer, have);
    if (s->state == HELLO || s->state == LIVE)
        used += door == SSE ? take_events(s, buffer + used, have - used) : take_frames(s, buffer + used, have - used);
    size_t rest = s->state == GONE ? 0 : have - used;
    if (rest > BUFFER / 2 - 16) fail("a frame or event that does not end");
    if (rest > 0) {
        s->rest = realloc(s->rest, rest);
        memcpy(s->rest, buffer + used, rest);
    } else if (s->rest) free(s->rest), s->rest = NULL;
    s->nrest = rest;
}

static int take_channel(void) {
    int channel = (int)(next_channel++ % nchannels);
    publications++;
    expected += nsubs / nchannels + (channel < nsubs % nchannels);
    return channel;
}

/* The request's body: one publication, or several. */
static int build(char *body, size_t room, uint64_t stamp) {
    static char data[MAX_PAD + 64], padding[MAX_PAD];
    if (!*padding) memset(padding, 'x', sizeof padding);
    snprintf(data, sizeof data, "{\"t\":\"%016llx%.*s\"}", (unsigned long long)stamp, pad, padding);
    int n = 0;
    if (door == NCHAN) return take_channel(), snprintf(body, room, "{\"pub\":{\"data\":%s}}", data);
    if (kind == PUBLISH) return snprintf(body, room, "{\"channel\":\"%s%d\",\"data\":%s}", prefix, take_channel(), data);
    n += snprintf(body, room, kind == BROADCAST ? "{\"channels\":[" : "{\"commands\":[");
    for (int i = 0; i < group && (size_t)n < room; i++) {
        const char *comma = i ? "," : "";
        if (kind != BROADCAST)
            n += snprintf(body + n, room - n, "%s{\"publish\":{\"channel\":\"%s%d\",\"data\":%s}}", comma, prefix, take_channel(), data);
        else n += snprintf(body + n, room - n, "%s\"%s%d\"", comma, prefix, take_channel());
    }
    if ((size_t)n < room) n += kind != BROADCAST ? snprintf(body + n, room - n, kind == BATCH ? "]}" : "],\"parallel\":true}") : snprintf(body + n, room - n, "],\"data\":%s}", data);
    if ((size_t)n >= room) fail("a request of more than %zu bytes", room);
    return n;
}

static void publish(struct pub *p, uint64_t stamp) {
    static const char *paths[] = {"publish", "batch", "batch", "broadcast"};
    static char body[1 << 17], request[(1 << 17) + 1024];
    int n = build(body, sizeof body, stamp);
    int m = snprintf(request, sizeof request,
                     "POST /api/%s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nX-API-Key: %s\r\nContent-Type: application/json\r\n"
                     "Content-Length: %d\r\n\r\n%s", paths[kind], port, key, n, body);
    p->busy = 1, p->got = 0, p->sent = now_ns();
    if (!send_all(p->fd, request, m)) fail("a publish could not be sent");
}

static void open_publisher(struct pub *p) {
    p->fd = dial((int)(p - pubs), publish_port ? publish_port : port);
    watch(p->fd, (uint64_t)(p - pubs) << 2 | 2);
}

static void answered(struct pub *p) {
    ssize_t n = recv(p->fd, p->answer + p->got, sizeof p->answer - 1 - p->got, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0 && p->busy) fail("the server closed a publisher's connection while it waited for an answer");
    if (n <= 0) { /* idle for too long between two runs */
        close(p->fd);
        return open_publisher(p);
    }
    p->got += n;
    p->answer[p->got] = 0;
    char *body = strstr(p->answer, "\r\n\r\n"), *length = strcasestr(p->answer, "\r\nContent-Length:");
    if (!body || !length || (size_t)(body + 4 - p->answer) + strtoul(length + 17, NULL, 10) > p->got) return;
    int good = door == NCHAN ? !memcmp(p->answer, "HTTP/1.1 20", 11)
                             : !memcmp(p->answer, "HTTP/1.1 200", 12) && !strstr(body, "\"error\"") && strstr(body, "\"re");
    if (!good) {
        refused++;
        if (refused == 1) fprintf(stderr, "load: a publish was answered: %.300s\n", p->answer);
    }
    uint64_t now = now_ns();
    p->busy = 0, p->due = now + (uint64_t)(rest * (double)(now - p->sent));
    if (publishing && rest == 0 && rate == 0) publish(p, now);
}

static int poll_events(int milliseconds, int obey) {
    struct epoll_event events[512];
    int n = epoll_wait(epfd, events, 512, milliseconds), command = 0;
    for (int i = 0; i < n; i++) {
        uint64_t tag = events[i].data.u64;
        if ((tag & 3) == 0) command = 1;
        else if ((tag & 3) == 1) {
            if (subs[tag >> 2].state != GONE) readable(&subs[tag >> 2]);
        } else answered(&pubs[tag >> 2]);
    }
    return command && obey;
}

static int by_value(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static uint32_t quantile(double q) { return nsamples ? samples[(long)(q * (nsamples - 1))] : 0; }

static int busy_publishers(void) {
    int busy = 0;
    for (int i = 0; i < npubs; i++) busy += pubs[i].busy;
    return busy;
}

/* With a rate: what is due goes out over whoever is free; what nobody is free for stays due. */
static void publish_due(int publishers, uint64_t start, long *sent) {
    uint64_t due = start + (uint64_t)(*sent / rate * 1e9);
    for (int i = 0; i < publishers && due <= now_ns(); i++) {
        if (pubs[i].busy) continue;
        publish(&pubs[i], due);
        due = start + (uint64_t)(++*sent / rate * 1e9);
    }
}

static void run(int publishers, double seconds) {
    if (publishers < 1 || publishers > MAX_PUBLISHERS) fail("1 to %d publishers", MAX_PUBLISHERS);
    while (npubs < publishers) open_publisher(&pubs[npubs++]);
    deliveries = expected = publications = refused = bytes = nsamples = 0;
    uint64_t start = now_ns(), stop = start + (uint64_t)(seconds * 1e9);
    long sent = 0;
    publishing = 1;
    for (int i = 0; i < publishers && rate == 0; i++) publish(&pubs[i], now_ns());
    while (now_ns() < stop) {
        poll_events(rest > 0 || rate > 0 ? 1 : 10, 0);
        if (rate > 0) publish_due(publishers, start, &sent);
        for (int i = 0; i < publishers && rest > 0 && rate == 0; i++)
            if (!pubs[i].busy && now_ns() >= pubs[i].due) publish(&pubs[i], now_ns());
    }
    publishing = 0;
    /* Drain: until all is here, or nothing more comes for two seconds. */
    uint64_t end = now_ns(), progress = end;
    while ((busy_publishers() || deliveries < expected) && now_ns() - progress < 2000000000u) {
        long before = deliveries;
        poll_events(10, 0);
        if (deliveries > before) progress = end = now_ns();
    }
    qsort(samples, nsamples, sizeof *samples, by_value);
    printf("{\"event\":\"done\",\"publications\":%ld,\"refused\":%ld,\"deliveries\":%ld,\"expected\":%ld,\"cut\":%ld,\"unanswered\":%d,"
           "\"seconds\":%.4f,\"bytes\":%ld,\"latency_us\":{\"samples\":%ld,\"p50\":%u,\"p90\":%u,\"p99\":%u,\"max\":%u}}\n",
           publications, refused, deliveries, expected, cut, busy_publishers(), (end - start) / 1e9, bytes, nsamples, quantile(0.5),
           quantile(0.9), quantile(0.99), quantile(1));
}

/* Wait until so many answers are here, or no more come for two seconds. */
static void await_replies(long wanted) {
    uint64_t progress = now_ns();
    while (replies < wanted && now_ns() - progress < 2000000000u) {
        long before = replies;
        poll_events(10, 0);
        if (replies > before) progress = now_ns();
    }
}

static void frames(const char *what, double seconds) {
    static const char *ask = "{\"id\":7,\"unsubscribe\":{\"channel\":\"nothing\"}}", *tell = "{\"send\":{}}";
    int publishes = !strcmp(what, "publish");
    uint64_t start = now_ns(), stop = start + (uint64_t)(seconds * 1e9);
    long sent = 0, wanted = 0;
    replies = refused = 0, awaiting = 1;
    while (now_ns() < stop && replies == wanted && !cut) {
        for (int i = 0; i < nsubs; i++) {
            char text[256];
            int last = i == nsubs - 1;
            if (publishes) snprintf(text, sizeof text, "{\"id\":7,\"publish\":{\"channel\":\"inbox:%d\",\"data\":{\"t\":\"0123456789abcdef\"}}}", i);
            if (subs[i].state != LIVE || !send_text(subs[i].fd, publishes ? text : last ? ask : tell, 1)) fail("a frame could not be sent");
            sent++, wanted += publishes || last;
        }
        await_replies(wanted);
    }
    for (int i = 0; i < nsubs && !publishes && !cut; i++) /* who answers this has read everything before */
        send_text(subs[i].fd, ask, 1), sent++, wanted++;
    await_replies(wanted);
    awaiting = 0;
    printf("{\"event\":\"done\",\"frames\":%ld,\"refused\":%ld,\"deliveries\":%ld,\"expected\":%ld,\"cut\":%ld,\"unanswered\":%ld,"
           "\"seconds\":%.4f}\n", sent, refused, replies, wanted, cut, wanted - replies, (now_ns() - start) / 1e9);
}

static void idle(double seconds) {
    uint64_t start = now_ns();
    pings = 0;
    while (now_ns() - start < (uint64_t)(seconds * 1e9)) poll_events(100, 0);
    printf("{\"event\":\"done\",\"pings\":%ld,\"refused\":0,\"deliveries\":0,\"expected\":0,\"cut\":%ld,\"unanswered\":0,"
           "\"seconds\":%.4f}\n", pings, cut, (now_ns() - start) / 1e9);
}

static void open_all(void) {
    uint64_t progress = now_ns();
    while (nlive < nsubs || churning > 0) {
        int before = nopened + nlive;
        poll_events(100, 0);
        if (nopened + nlive != before) progress = now_ns();
        else if (now_ns() - progress > 15000000000u) fail("only %d of %d subscribed, and no more for 15 s", nlive, nsubs);
    }
}

static void churn(long count) {
    uint64_t start = now_ns();
    churning = count;
    for (int i = 0; i < concurrent && i < nsubs / 2 && churning > 0; i++) open_next();
    open_all();
    printf("{\"event\":\"done\",\"connects\":%ld,\"refused\":0,\"deliveries\":0,\"expected\":0,\"cut\":%ld,\"unanswered\":0,"
           "\"seconds\":%.4f}\n", count, cut, (now_ns() - start) / 1e9);
}

static void read_tokens(const char *path) {
    char line[2048];
    FILE *file = fopen(path, "r");
    if (!file) fail("%s: %s", path, strerror(errno));
    tokens = calloc(nsubs + 1, sizeof *tokens);
    for (int i = 0; i < nsubs; i++) {
        if (!fgets(line, sizeof line, file)) fail("fewer tokens than subscribers");
        line[strcspn(line, "\n")] = 0;
        tokens[i] = strdup(line);
    }
    fclose(file);
}

static void parse(int argc, char **argv) {
    static const char *doors[] = {"raw", "sdk", "ws", "sse", "sio", "nchan"};
    const char *path = NULL;
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        if (!strcmp(name, "--port")) port = atoi(value);
        else if (!strcmp(name, "--subs")) nsubs = atoi(value);
        else if (!strcmp(name, "--channels")) nchannels = atoi(value);
        else if (!strcmp(name, "--pad")) pad = atoi(value);
        else if (!strcmp(name, "--prefix")) prefix = value;
        else if (!strcmp(name, "--key")) key = value;
        else if (!strcmp(name, "--concurrent")) concurrent = atoi(value);
        else if (!strcmp(name, "--publish-port")) publish_port = atoi(value);
        else if (!strcmp(name, "--tokens")) path = value;
        else if (!strcmp(name, "--epoch")) epoch = value;
        else if (!strcmp(name, "--since")) since = atol(value);
        else if (!strcmp(name, "--door")) {
            for (door = 0; door < DOORS && strcmp(doors[door], value); door++) {}
        } else fail("unknown option %s", name);
    }
    if (door >= DOORS || nsubs < 0 || nsubs > 200000 || nchannels < 1 || pad < 0 || pad > MAX_PAD || strlen(prefix) > 64 || strlen(key) > 256 ||
        strlen(epoch) > 64 || concurrent < 1)
        fail("bad arguments");
    if (path) read_tokens(path);
}

int main(int argc, char **argv) {
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    parse(argc, argv);
    setvbuf(stdout, NULL, _IOLBF, 0);
    setvbuf(stdin, NULL, _IONBF, 0);
    epfd = epoll_create1(EPOLL_CLOEXEC);
    subs = calloc(nsubs + 1, sizeof *subs);
    samples = malloc(MAX_SAMPLES * sizeof *samples);
    uint64_t start = now_ns();
    while (nopened < nsubs && nopened < concurrent) open_next();
    open_all();
    printf("{\"event\":\"ready\",\"subs\":%d,\"recovered\":%ld,\"seconds\":%.4f}\n", nlive, recovered, (now_ns() - start) / 1e9);
    watch(STDIN_FILENO, 0);
    char line[128], word[32];
    for (;;) {
        if (!poll_events(1000, 1)) continue;
        int publishers;
        long n;
        double seconds;
        if (!fgets(line, sizeof line, stdin) || !strncmp(line, "quit", 4)) return 0;
        strcpy(word, "publish"), group = 1, rate = 0;
        if (sscanf(line, "run %d %lf %lf %31s %d %lf", &publishers, &seconds, &rest, word, &group, &rate) >= 3) {
            kind = !strcmp(word, "batch") ? BATCH : !strcmp(word, "parallel") ? PARALLEL : !strcmp(word, "broadcast") ? BROADCAST : PUBLISH;
            if (seconds > 600 || rest < 0 || rest > 100 || group < 1 || group > 1000 || rate < 0) fail("what is: %s", line);
            run(publishers, seconds);
        } else if (sscanf(line, "frames %31s %lf", word, &seconds) == 2 && nsubs > 0) frames(word, seconds);
        else if (sscanf(line, "idle %lf", &seconds) == 1) idle(seconds);
        else if (sscanf(line, "churn %ld", &n) == 1 && nsubs > 1) churn(n);
        else fail("what is: %s", line);
    }
}
