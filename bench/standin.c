// What stands for the process of a site that a measurement only holds: uWSGI with Python takes about 10 MB, and
// 3,000 of them more memory than the machine has. It is started by the real wrapper, as the site's user, with the
// listening socket as descriptor 3 and the emperor's as descriptor 4; it answers 200 with the site's name, and ends when
// the emperor says so or is gone.
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LISTENING = 3, EMPEROR = 4 };

static int taken(int connection, unsigned char *buffer, size_t wanted) {
    size_t got = 0;
    while (got < wanted) {
        ssize_t more = read(connection, buffer + got, wanted - got);
        if (more <= 0) return 0;
        got += (size_t)more;
    }
    return 1;
}

static void answer(int connection, const char *site) {
    static unsigned char request[65536];
    char text[512], body[256];
    // A uwsgi packet: modifier, length (two bytes, little endian), modifier, the variables.
    if (!taken(connection, request, 4) || !taken(connection, request + 4, request[1] | request[2] << 8)) return;
    int length = snprintf(body, sizeof body, "{\"site\": \"%s\"}", site);
    int all = snprintf(text, sizeof text,
                       "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", length, body);
    if (write(connection, text, (size_t)all) < 0) perror("write");
    // What is closed with a body unread is reset, and the answer lost.
    shutdown(connection, SHUT_WR);
    while (read(connection, request, sizeof request) > 0) continue;
}

int main(void) {
    const char *site = getenv("TENANTRY_SITE");
    if (site == NULL) return 1;
    struct pollfd waiting[] = {{LISTENING, POLLIN, 0}, {EMPEROR, POLLIN, 0}};
    for (;;) {
        if (poll(waiting, 2, -1) < 0) return 1;
        if (waiting[1].revents) return 0;
        int connection = waiting[0].revents & POLLIN ? accept(LISTENING, NULL, NULL) : -1;
        if (connection >= 0) {
            answer(connection, site);
            close(connection);
        }
    }
}
