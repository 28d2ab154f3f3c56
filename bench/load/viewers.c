/* The clients: each POSTs a prompt, reads the answer (SSE, or NDJSON from Ollama itself) and checks it. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "load.h"

#define TEXT_LIMIT 16384

enum part { HEAD, CHUNK_SIZE, CHUNK, CHUNK_END, REST };

struct viewer {
    struct target target;
    int64_t begun;       /* ns */
    enum part part;      /* what the next byte belongs to */
    bool chunked, over;
    int64_t chunk_left;  /* bytes */
    char text[TEXT_LIMIT]; /* the head or a line that is arriving */
    size_t text_size;
    int number;
    bool prompted;
    int call;            /* the stub's number of the reply; -1 until its first line */
    int lines;
    bool done, last_chunk;
    char error[200];
};

static int begun, running, ended;

static int64_t due(int number) { return (int64_t)(options.ramp * 1e9 * number / options.at_once); }

static int64_t started;

int64_t viewers_next_due(void) {
    if (!started) started = now_ns();
    if (begun == options.streams || running == options.at_once) return INT64_MAX;
    return begun < options.at_once ? started + due(begun) : 0;
}

bool viewers_over(void) { return ended == options.streams; }

static void end_viewer(struct viewer *viewer) {
    const char *error = viewer->error[0] ? viewer->error : NULL;
    if (!error && !(viewer->done && viewer->lines == options.lines)) {
        snprintf(viewer->error, sizeof viewer->error, "ended after %d lines, %s done", viewer->lines,
                 viewer->done ? "with" : "without");
        error = viewer->error;
    }
    if (!error && viewer->chunked && !viewer->last_chunk) error = "was cut off after done";
    report_end(error);
    close(viewer->target.descriptor);
    free(viewer);
    running--;
    ended++;
}

static void fail_viewer(struct viewer *viewer, const char *why, const char *text) {
    if (!viewer->error[0]) snprintf(viewer->error, sizeof viewer->error, "%s: %.120s", why, text);
    viewer->over = true;
}

/* A line of the model: " <call>.<number>.<ns>" is its content. */
static void take_line(struct viewer *viewer, const char *line, int64_t now) {
    const char *content = strstr(line, "\"content\":\"");
    if (!content) return fail_viewer(viewer, "not a line of the stub", line);
    int call, number;
    int64_t sent;
    if (sscanf(content + 11, " %d.%d.%" SCNd64, &call, &number, &sent) == 3) {
        if (viewer->call < 0) viewer->call = call;
        if (viewer->call != call) return fail_viewer(viewer, "a line of another reply", line);
        if (number != viewer->lines) return fail_viewer(viewer, "a line is missing, repeated or out of order", line);
        if (viewer->lines++ == 0) report_first_event(now - viewer->begun);
        report_line(sent, now);
    } else if (strstr(content, "\"done\":true")) {
        viewer->done = true;
        viewer->over = !viewer->chunked;
    } else {
        fail_viewer(viewer, "not a line of the stub", line);
    }
}

static void take_text(struct viewer *viewer, int64_t now) {
    char *line = viewer->text;
    if (strncmp(line, "event:", 6) == 0) return fail_viewer(viewer, "an error event", line);
    if (strncmp(line, "data: ", 6) == 0) line += 6;
    else if (strncmp(line, "data:", 5) == 0) line += 5;
    if (*line == '{') take_line(viewer, line, now);
}

/* Consume bytes of the body, line by line. */
static void take_body(struct viewer *viewer, const char *data, size_t size, int64_t now) {
    while (size && !viewer->over) {
        const char *end = memchr(data, '\n', size);
        size_t count = end ? (size_t)(end - data) + 1 : size;
        if (viewer->text_size + count >= TEXT_LIMIT) return fail_viewer(viewer, "a line is too long", "");
        memcpy(viewer->text + viewer->text_size, data, count);
        viewer->text[viewer->text_size += count] = 0;
        if (end) {
            take_text(viewer, now);
            viewer->text_size = 0;
        }
        data += count;
        size -= count;
    }
}

static void take_head_byte(struct viewer *viewer, char byte) {
    if (viewer->text_size == TEXT_LIMIT - 1) return fail_viewer(viewer, "a head is too long", "");
    viewer->text[viewer->text_size++] = byte;
    viewer->text[viewer->text_size] = 0;
    if (viewer->text_size < 4 || strcmp(viewer->text + viewer->text_size - 4, "\r\n\r\n")) return;
    if (strncmp(viewer->text, "HTTP/1.1 200", 12)) return fail_viewer(viewer, "HTTP status", viewer->text);
    viewer->chunked = strcasestr(viewer->text, "\r\ntransfer-encoding: chunked");
    viewer->part = viewer->chunked ? CHUNK_SIZE : REST;
    viewer->text_size = 0;
}

static void take_size_byte(struct viewer *viewer, char byte) {
    if (isxdigit((unsigned char)byte)) {
        viewer->chunk_left = 16 * viewer->chunk_left + (byte <= '9' ? byte - '0' : (byte | 32) - 'a' + 10);
    } else if (byte == '\n') {
        viewer->part = CHUNK;
        if (viewer->chunk_left == 0) viewer->last_chunk = viewer->over = true;
    }
}

static void take(struct viewer *viewer, const char *data, size_t size, int64_t now) {
    while (size && !viewer->over) {
        size_t count = 1;
        switch (viewer->part) {
        case HEAD: take_head_byte(viewer, *data); break;
        case CHUNK_SIZE: take_size_byte(viewer, *data); break;
        case CHUNK:
            count = (int64_t)size < viewer->chunk_left ? size : (size_t)viewer->chunk_left;
            take_body(viewer, data, count, now);
            viewer->chunk_left -= count;
            if (viewer->chunk_left == 0) viewer->part = CHUNK_END;
            break;
        case CHUNK_END:
            if (*data == '\n') viewer->part = CHUNK_SIZE;
            break;
        case REST:
            count = size;
            take_body(viewer, data, count, now);
        }
        data += count;
        size -= count;
    }
}

static void send_prompt(struct viewer *viewer) {
    char appid[160], body[512], request[1024];
    if (options.one_conversation) snprintf(appid, sizeof appid, "%s", options.appid);
    else snprintf(appid, sizeof appid, "%s-%d", options.appid, viewer->number);
    int size = snprintf(body, sizeof body,
        "{\"appID\":\"%s\",\"model\":\"stub\",\"messages\":[{\"role\":\"user\",\"content\":\"Why is the sky blue?\"}],"
        "\"stream\":true}", appid);
    size = snprintf(request, sizeof request,
        "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
        options.path, options.target, size, body);
    if (send(viewer->target.descriptor, request, size, MSG_NOSIGNAL) != size) fail_viewer(viewer, "no connection", "");
}

static void viewer_ready(struct target *target, uint32_t events) {
    struct viewer *viewer = (struct viewer *)target;
    static char data[262144];
    if (!viewer->prompted) {
        viewer->prompted = true;
        send_prompt(viewer);
        rewatch(target, EPOLLIN);
    } else if (events) {
        ssize_t size = recv(target->descriptor, data, sizeof data, 0);
        if (size > 0) take(viewer, data, size, now_ns());
        else if (size == 0 || errno != EAGAIN) viewer->over = true;
    }
    if (viewer->over) end_viewer(viewer);
}

static void begin_viewer(int number) {
    int on = 1, descriptor = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (descriptor < 0) fail("socket");
    setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(options.target), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (connect(descriptor, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINPROGRESS) fail("connect");
    struct viewer *viewer = calloc(1, sizeof *viewer);
    *viewer = (struct viewer){.target = {viewer_ready, descriptor}, .begun = now_ns(), .number = number, .call = -1};
    watch(&viewer->target, EPOLLOUT);
}

void viewers_begin_due(void) {
    while (viewers_next_due() <= now_ns()) {
        running++;
        begin_viewer(begun++);
    }
}
