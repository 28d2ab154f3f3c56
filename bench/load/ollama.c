/* The stub Ollama: responds to each POST to /api/chat with a line every 1 / rate seconds, and then done. */

#define _GNU_SOURCE
#include <arpa/inet.h>
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

#define HEAD_LIMIT 8192

struct call {
    struct target target;
    int number;          /* of the reply, counted over all connections */
    int sent;            /* lines of it */
    bool replying;
    int64_t begun, due;  /* ns */
    int place;           /* in the heap of due lines, -1 if in none */
    char head[HEAD_LIMIT]; /* of the request that is arriving */
    size_t head_size;
    int64_t body_left;   /* bytes; -1 while the head is arriving */
    char *unsent;        /* what the socket has not accepted */
    size_t unsent_size;
};

static struct target listener;
static int calls_begun;

/* The calls that have a line to send, the one due next on top. */
static struct call **heap;
static int heap_size, heap_room;

static void place(struct call *call, int at) {
    heap[at] = call;
    call->place = at;
}

static void sift(int at) {
    struct call *call = heap[at];
    for (int above; at > 0 && heap[above = (at - 1) / 2]->due > call->due; at = above) place(heap[above], at);
    for (int below; (below = 2 * at + 1) < heap_size; at = below) {
        if (below + 1 < heap_size && heap[below + 1]->due < heap[below]->due) below++;
        if (heap[below]->due >= call->due) break;
        place(heap[below], at);
    }
    place(call, at);
}

static void schedule(struct call *call) {
    if (call->place < 0) {
        if (heap_size == heap_room) heap = realloc(heap, (heap_room = 2 * heap_room + 64) * sizeof *heap);
        place(call, heap_size++);
    }
    sift(call->place);
}

static void unschedule(struct call *call) {
    if (call->place < 0) return;
    int at = call->place;
    call->place = -1;
    if (at == --heap_size) return;
    place(heap[heap_size], at);
    sift(at);
}

int64_t ollama_next_due(void) { return heap_size ? heap[0]->due : INT64_MAX; }

static void end_call(struct call *call) {
    unschedule(call);
    close(call->target.descriptor);
    free(call->unsent);
    free(call);
}

/* Send; buffer what the socket does not accept. */
static void put(struct call *call, const char *data, size_t size) {
    ssize_t taken = call->unsent_size ? 0 : send(call->target.descriptor, data, size, MSG_NOSIGNAL);
    if (taken < 0) taken = 0; /* a broken connection is noticed when it is read */
    if ((size_t)taken == size) return;
    size_t left = size - taken;
    call->unsent = realloc(call->unsent, call->unsent_size + left);
    memcpy(call->unsent + call->unsent_size, data + taken, left);
    if (!call->unsent_size) rewatch(&call->target, EPOLLIN | EPOLLOUT);
    call->unsent_size += left;
}

static void put_unsent(struct call *call) {
    ssize_t taken = send(call->target.descriptor, call->unsent, call->unsent_size, MSG_NOSIGNAL);
    if (taken <= 0) return;
    call->unsent_size -= taken;
    memmove(call->unsent, call->unsent + taken, call->unsent_size);
    if (!call->unsent_size) rewatch(&call->target, EPOLLIN);
}

static void put_chunk(struct call *call, const char *line, int size) {
    char chunk[1024];
    int length = snprintf(chunk, sizeof chunk, "%x\r\n%.*s\r\n", size, size, line);
    put(call, chunk, length);
}

static void send_line(struct call *call) {
    char line[512];
    int size = snprintf(line, sizeof line,
        "{\"model\":\"stub\",\"created_at\":\"2026-01-01T00:00:00.000000Z\",\"message\":{\"role\":\"assistant\","
        "\"content\":\" %d.%d.%" PRId64 "\"},\"done\":false}\n", call->number, call->sent, now_ns());
    put_chunk(call, line, size);
    call->sent++;
}

static void send_done(struct call *call) {
    report_ending();
    static const char line[] =
        "{\"model\":\"stub\",\"created_at\":\"2026-01-01T00:00:00.000000Z\",\"message\":{\"role\":\"assistant\","
        "\"content\":\"\"},\"done\":true,\"done_reason\":\"stop\",\"total_duration\":4000000000,"
        "\"load_duration\":50000000,\"prompt_eval_count\":20,\"prompt_eval_duration\":100000000,"
        "\"eval_count\":200,\"eval_duration\":3900000000}\n";
    put_chunk(call, line, sizeof line - 1);
    put(call, "0\r\n\r\n", 5);
    call->replying = false;
}

void ollama_send_due(void) {
    int64_t now = now_ns();
    while (heap_size && heap[0]->due <= now) {
        struct call *call = heap[0];
        if (call->sent < options.lines) {
            send_line(call);
        } else {
            if (!options.hold) send_done(call);
            unschedule(call);
            continue;
        }
        /* The first two lines are a fraction of the pause apart, so that the calls are not in step. */
        double phase = 0.6180339887 * call->number;
        call->due = call->begun + (int64_t)((call->sent - 1 + phase - (int64_t)phase) / options.rate * 1e9);
        schedule(call);
    }
}

static void begin_reply(struct call *call) {
    static const char head[] =
        "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n";
    put(call, head, sizeof head - 1);
    call->number = calls_begun++;
    call->sent = 0;
    call->replying = true;
    call->begun = call->due = now_ns();
    schedule(call);
}

static void answer(struct call *call) {
    static const char other[] = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 34\r\n\r\n"
                                "{\"version\":\"0.0.0\",\"models\":[ ]   }";
    call->head_size = 0;
    call->body_left = -1;
    if (memmem(call->head, 64, "/api/chat", 9)) begin_reply(call);
    else put(call, other, sizeof other - 1);
}

/* Consume received bytes of a request: buffer its head until complete, only count its body. */
static void take(struct call *call, const char *data, int64_t size) {
    if (call->body_left < 0) {
        size_t room = HEAD_LIMIT - 1 - call->head_size, held = call->head_size;
        size_t kept = (size_t)size < room ? (size_t)size : room;
        memcpy(call->head + held, data, kept);
        call->head[call->head_size = held + kept] = 0;
        char *end = strstr(call->head, "\r\n\r\n");
        if (!end) return;
        end += 4;
        char *length = strcasestr(call->head, "\r\ncontent-length:");
        call->body_left = length && length < end ? atoll(length + 17) : 0;
        int64_t of_head = end - call->head - (int64_t)held;
        data += of_head;
        size -= of_head;
    }
    call->body_left -= size;
    if (call->body_left <= 0) answer(call);
}

static void call_ready(struct target *target, uint32_t events) {
    struct call *call = (struct call *)target;
    static char data[262144];
    if (events & EPOLLOUT) put_unsent(call);
    if (!(events & ~EPOLLOUT)) return;
    ssize_t size = recv(target->descriptor, data, sizeof data, 0);
    if (size > 0) take(call, data, size);
    else if (size == 0 || errno != EAGAIN) end_call(call);
}

static void listener_ready(struct target *target, uint32_t events) {
    (void)events;
    for (int descriptor; (descriptor = accept4(target->descriptor, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
        int on = 1;
        setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct call *call = calloc(1, sizeof *call);
        call->target = (struct target){call_ready, descriptor};
        call->place = -1;
        call->body_left = -1;
        watch(&call->target, EPOLLIN);
    }
}

void ollama_listen(void) {
    int on = 1, descriptor = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(options.ollama), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(descriptor, (struct sockaddr *)&address, sizeof address) < 0) fail("bind");
    if (listen(descriptor, 4096) < 0) fail("listen");
    listener = (struct target){listener_ready, descriptor};
    watch(&listener, EPOLLIN);
}
