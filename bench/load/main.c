/* The load generator: plays Ollama on one side of a server and its clients on the other, in one thread with one clock.
 *
 * Each line carries the time at which it was sent, so the time it took through the server is known when it arrives;
 * each stream is checked: complete, in order, no line of another stream, ended with done.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "load.h"

struct options options = {.path = "/llmchat", .streams = 1, .rate = 50, .lines = 100, .appid = "load"};

static int epoll;

int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

void fail(const char *what) {
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void control(int operation, struct target *target, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = target};
    if (epoll_ctl(epoll, operation, target->descriptor, &event) < 0) fail("epoll_ctl");
}

void watch(struct target *target, uint32_t events) { control(EPOLL_CTL_ADD, target, events); }

void rewatch(struct target *target, uint32_t events) { control(EPOLL_CTL_MOD, target, events); }

static void read_options(int count, char **words) {
    static const struct option known[] = {
        {"ollama", required_argument, 0, 'o'},  {"target", required_argument, 0, 't'},
        {"path", required_argument, 0, 'p'},    {"streams", required_argument, 0, 's'},
        {"at-once", required_argument, 0, 'a'}, {"rate", required_argument, 0, 'r'},
        {"lines", required_argument, 0, 'l'},   {"ramp", required_argument, 0, 'm'},
        {"appid", required_argument, 0, 'i'},   {"one-conversation", no_argument, 0, '1'},
        {"hold", no_argument, 0, 'h'},          {0},
    };
    for (int option; (option = getopt_long(count, words, "", known, NULL)) >= 0;) {
        switch (option) {
        case 'o': options.ollama = atoi(optarg); break;
        case 't': options.target = atoi(optarg); break;
        case 'p': options.path = optarg; break;
        case 's': options.streams = atoi(optarg); break;
        case 'a': options.at_once = atoi(optarg); break;
        case 'r': options.rate = atof(optarg); break;
        case 'l': options.lines = atoi(optarg); break;
        case 'm': options.ramp = atof(optarg); break;
        case 'i': options.appid = optarg; break;
        case '1': options.one_conversation = true; break;
        case 'h': options.hold = true; break;
        default: exit(2);
        }
    }
    if (options.at_once <= 0 || options.at_once > options.streams) options.at_once = options.streams;
}

static void stdin_ready(struct target *target, uint32_t events) {
    (void)events;
    char text[512];
    if (read(target->descriptor, text, sizeof text) > 0) return;
    report_over(); /* end of file: stop */
    exit(0);
}

static void wait_for_events(void) {
    static struct epoll_event events[512];
    int64_t due = ollama_next_due();
    if (viewers_next_due() < due) due = viewers_next_due();
    int64_t pause = due == INT64_MAX ? 1000000000 : due - now_ns();
    if (pause < 0) pause = 0;
    if (pause > 1000000000) pause = 1000000000;
    struct timespec timeout = {.tv_sec = pause / 1000000000, .tv_nsec = pause % 1000000000};
    int count = epoll_pwait2(epoll, events, 512, &timeout, NULL);
    if (count < 0 && errno != EINTR) fail("epoll_wait");
    for (int i = 0; i < count; i++) {
        struct target *target = events[i].data.ptr;
        target->ready(target, events[i].events);
    }
}

int main(int count, char **words) {
    read_options(count, words);
    signal(SIGPIPE, SIG_IGN);
    struct rlimit descriptors;
    getrlimit(RLIMIT_NOFILE, &descriptors);
    descriptors.rlim_cur = descriptors.rlim_max;
    setrlimit(RLIMIT_NOFILE, &descriptors);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    static struct target input = {.ready = stdin_ready, .descriptor = 0};
    if (options.hold) watch(&input, EPOLLIN);
    if (options.ollama) ollama_listen();
    report_listening();
    while (!viewers_over()) {
        viewers_begin_due();
        ollama_send_due();
        wait_for_events();
        report_tick(now_ns());
    }
    report_over();
}
