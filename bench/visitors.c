// Visitors of one page who come at a constant rate, whatever the answers take: who has to wait for a connection waits,
// and the time counts from when he came. At a rate of 0 the next one comes as soon as a connection is free. Each request
// is written as three numbers: when it came (CLOCK_MONOTONIC, s), how long it took (s), and the status, 0 where there was
// no whole answer. A kept connection that is closed before it has answered anything is asked again on a new one, as
// browsers do; such a status is negative.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { SIZE = 65536 };
static const double PATIENCE = 30;

typedef struct {
    int fd, busy, used, repeated, asked;
    double came;
    size_t got;
    char answer[SIZE];
} Visitor;

static int events_fd, port;
static char request[1024];
static FILE *records;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void hang_up(Visitor *visitor) {
    if (visitor->fd >= 0) close(visitor->fd);
    visitor->fd = -1;
    visitor->used = 0;
}

static void finish(Visitor *visitor, int status) {
    double record[3] = {visitor->came, now() - visitor->came, visitor->repeated ? -status : status};
    fwrite(record, sizeof record, 1, records);
    visitor->busy = visitor->repeated = 0;
    if (status == 0) hang_up(visitor);
}

static void dial(Visitor *visitor) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int on = 1;
    visitor->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(visitor->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(visitor->fd, (struct sockaddr *)&address, sizeof address) != 0 && errno != EINPROGRESS) {
        finish(visitor, 0);
        return;
    }
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = visitor};
    epoll_ctl(events_fd, EPOLL_CTL_ADD, visitor->fd, &event);
}

static void again(Visitor *visitor) {  // a connection that broke
    int stale = visitor->used && visitor->got == 0 && !visitor->repeated;
    hang_up(visitor);
    if (!visitor->busy) return;
    if (!stale) {
        finish(visitor, 0);
        return;
    }
    visitor->repeated = 1;
    visitor->asked = 0;
    dial(visitor);
}

static void ask(Visitor *visitor) {
    size_t length = strlen(request);
    visitor->got = 0;
    visitor->asked = 1;
    if (write(visitor->fd, request, length) != (ssize_t)length) again(visitor);
}

static void begin(Visitor *visitor, double came) {
    visitor->busy = 1;
    visitor->came = came;
    visitor->asked = 0;
    if (visitor->fd < 0) dial(visitor);
    else ask(visitor);
}

// Whether the answer is whole: its length is told, or it comes in chunks.
static int whole(const Visitor *visitor) {
    const char *end = strstr(visitor->answer, "\r\n\r\n");
    if (!end) return 0;
    const char *length = strcasestr(visitor->answer, "\r\ncontent-length:");
    if (length && length < end)
        return visitor->got >= (size_t)(end - visitor->answer) + 4 + strtoul(length + 17, NULL, 10);
    return visitor->got >= 5 && memcmp(visitor->answer + visitor->got - 5, "0\r\n\r\n", 5) == 0;
}

static void hear(Visitor *visitor) {
    for (;;) {
        ssize_t more = read(visitor->fd, visitor->answer + visitor->got, SIZE - 1 - visitor->got);
        if (more < 0 && errno == EAGAIN) return;
        if (more <= 0) {
            again(visitor);
            return;
        }
        visitor->got += (size_t)more;
        visitor->answer[visitor->got] = 0;
        if (visitor->busy && whole(visitor)) {
            int closes = strcasestr(visitor->answer, "\r\nconnection: close") != NULL;
            visitor->used = 1;
            finish(visitor, atoi(visitor->answer + 9));
            if (closes) {
                hang_up(visitor);
                return;
            }
        }
    }
}

int main(int count, char **words) {
    if (count != 7) {
        fprintf(stderr, "visitors PORT HOST PATH RATE CONNECTIONS FILE: until SIGTERM\n");
        return 2;
    }
    port = atoi(words[1]);
    snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", words[3], words[2]);
    double step = atof(words[4]) > 0 ? 1 / atof(words[4]) : 0;
    int connections = atoi(words[5]);
    records = fopen(words[6], "w");
    Visitor *visitors = calloc((size_t)connections, sizeof *visitors);
    if (!records || !visitors) return 1;
    signal(SIGPIPE, SIG_IGN);
    sigset_t stop;
    sigemptyset(&stop);
    sigaddset(&stop, SIGTERM);
    sigprocmask(SIG_BLOCK, &stop, NULL);
    struct timespec at_once = {0, 0};
    events_fd = epoll_create1(EPOLL_CLOEXEC);
    for (int i = 0; i < connections; i++) visitors[i].fd = -1;
    double next = now(), ends = 0;
    for (int turn = 0;;) {
        double time = now();
        if (!ends && sigtimedwait(&stop, NULL, &at_once) == SIGTERM) ends = time;
        int waiting = 0;
        for (int i = 0; i < connections; i++) {
            if (visitors[i].busy && time - visitors[i].came > PATIENCE) {
                hang_up(&visitors[i]);
                finish(&visitors[i], 0);
            }
            waiting += visitors[i].busy;
        }
        if (ends && (!waiting || time > ends + PATIENCE)) break;
        for (int begun = 0; !ends && next <= time && waiting < connections && begun < connections; begun++) {
            Visitor *free_one;
            do free_one = &visitors[turn++ % connections];
            while (free_one->busy);
            begin(free_one, step > 0 ? next : now());
            next += step;
            waiting += free_one->busy;
        }
        double pause = ends || waiting == connections ? 0.005 : next - now();
        struct timespec wait = {0, (long)((pause < 0 ? 0 : pause > 0.005 ? 0.005 : pause) * 1e9)};
        struct epoll_event events[64];
        int found = epoll_pwait2(events_fd, events, 64, &wait, NULL);
        for (int i = 0; i < found; i++) {
            Visitor *visitor = events[i].data.ptr;
            if (visitor->fd < 0) continue;
            if (visitor->busy && !visitor->asked && events[i].events & EPOLLOUT) ask(visitor);
            if (visitor->fd >= 0 && events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP)) hear(visitor);
        }
    }
    return fclose(records) != 0;
}
