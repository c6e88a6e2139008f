/* The floor: what one send() per delivery costs in C, and nothing else. gcc -O2 -o floor floor.c
 *
 *   floor PORT FRAME_BYTES
 *
 * A connection that sends "S" becomes a subscriber and gets one frame as an answer. A POST makes one frame of FRAME_BYTES
 * with the timestamp of its body, sends it to every subscriber, one system call each, and is answered afterwards. Nothing is
 * authenticated, stored, ordered or queued: a subscriber that does not take a frame is waited for. Listens on 127.0.0.1. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

enum { MAX_SUBS = 200000, MAX_FRAME = 16384 };
static int subscribers[MAX_SUBS], nsubs = 0, listener, epfd;
static char frame[MAX_FRAME];
static size_t nframe;
static char *stamp_at;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void watch(int fd) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &event)) die("epoll_ctl");
}

static void accept_all(void) {
    int fd, one = 1, size = 64 << 10;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
        watch(fd);
    }
}

static void send_whole(int fd) {
    size_t sent = 0;
    while (sent < nframe) {
        ssize_t n = send(fd, frame + sent, nframe - sent, MSG_NOSIGNAL);
        if (n > 0) sent += n;
        else if (errno == EAGAIN) poll(&(struct pollfd){.fd = fd, .events = POLLOUT}, 1, 1000);
        else return;
    }
}

static void build(size_t total) {
    static const char *before = "{\"push\":{\"channel\":\"bench:0\",\"pub\":{\"data\":{\"t\":\"0000000000000000", *after = "\"}}}}";
    nframe = total;
    size_t skip = total > 127 ? 4 : 2, payload = total - skip, head = strlen(before), tail = strlen(after);
    if (total > MAX_FRAME || payload < head + tail || (skip == 4 && payload < 126)) die("a frame of that size");
    frame[0] = (char)0x81, frame[1] = (char)(skip == 2 ? payload : 126);
    if (skip == 4) frame[2] = (char)(payload >> 8), frame[3] = (char)payload;
    memset(frame + skip, 'x', payload);
    memcpy(frame + skip, before, head);
    memcpy(frame + skip + payload - tail, after, tail);
    stamp_at = strstr(frame + skip, "\"t\":\"") + 5;
}

static void readable(int fd) {
    static char request[32768];
    ssize_t n = recv(fd, request, sizeof request - 1, 0);
    if (n <= 0) {
        if (n < 0 && errno == EAGAIN) return;
        for (int i = 0; i < nsubs; i++)
            if (subscribers[i] == fd) subscribers[i] = subscribers[--nsubs];
        close(fd);
    } else if (request[0] == 'S' && nsubs < MAX_SUBS) {
        subscribers[nsubs++] = fd;
        if (send(fd, "\x81\x02{}", 4, MSG_NOSIGNAL) != 4) die("send");
    } else {
        request[n] = 0; /* a request of this load is small and comes in one piece */
        char *stamp = strstr(request, "\"t\":\"");
        if (stamp) memcpy(stamp_at, stamp + 5, 16);
        for (int i = 0; i < nsubs; i++) send_whole(subscribers[i]);
        static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{\"result\":{}}";
        if (send(fd, answer, sizeof answer - 1, MSG_NOSIGNAL) < 0) close(fd);
    }
}

int main(int argc, char **argv) {
    struct rlimit files;
    int one = 1;
    if (argc != 3) return fprintf(stderr, "usage: floor PORT FRAME_BYTES\n"), 2;
    build(atoi(argv[2]));
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    epfd = epoll_create1(EPOLL_CLOEXEC);
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1])), .sin_addr.s_addr = htonl(0x7f000001u)};
    if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 4096)) die("listen");
    watch(listener);
    for (;;) {
        struct epoll_event events[256];
        int n = epoll_wait(epfd, events, 256, -1);
        for (int i = 0; i < n; i++) events[i].data.fd == listener ? accept_all() : readable(events[i].data.fd);
    }
}
