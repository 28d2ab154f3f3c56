/* Shared by the parts of the load generator: options, clock, event loop, results. */

#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>

struct options {
    int ollama;           /* port to answer on as Ollama; 0: none */
    int target;           /* port of the server under test */
    const char *path;     /* where prompts go */
    int streams;          /* total number of prompts */
    int at_once;          /* most prompts at a time */
    double rate;          /* lines per second and stream */
    int lines;            /* of each reply, not counting the one with done */
    double ramp;          /* seconds over which the first prompts are spread */
    const char *appid;    /* conversations are <appid>-<number> */
    bool one_conversation; /* all prompts go to conversation <appid> */
    bool hold;            /* replies stay open after their last line */
};

extern struct options options;

/* Receives events of the loop: the first member of every struct that has a socket. */
struct target {
    void (*ready)(struct target *, uint32_t events);
    int descriptor;
};

void watch(struct target *, uint32_t events);
void rewatch(struct target *, uint32_t events);
int64_t now_ns(void); /* CLOCK_MONOTONIC */
_Noreturn void fail(const char *what);

/* ollama.c: the stub. */
void ollama_listen(void);
int64_t ollama_next_due(void); /* ns; INT64_MAX if no line is due */
void ollama_send_due(void);

/* viewers.c: the clients. */
int64_t viewers_next_due(void);
void viewers_begin_due(void);
bool viewers_over(void);

/* report.c: events and results, as JSON lines on stdout. */
void report_listening(void);
void report_ending(void);                              /* the first reply is about to end */
void report_first_event(int64_t waited_ns);            /* of one stream */
void report_line(int64_t sent_ns, int64_t received_ns);
void report_end(const char *error);                    /* of one stream; NULL if it was complete */
void report_tick(int64_t now);
void report_over(void);
