/* Events and results, as JSON objects on stdout, one a line. */

#define _GNU_SOURCE
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "load.h"

#define TEXTS 5

struct sample {
    int32_t *microseconds;
    int size, room;
};

static struct sample latencies, first_events;
static int lines, streams_seen, complete;
static bool steady, ending;
static int64_t cpu_before; /* microseconds of this process when the measuring began */
static int lines_before;
static int64_t next_tick;
static char *error_texts[TEXTS];
static int errors;

static void add(struct sample *sample, int64_t ns) {
    if (sample->size == sample->room) {
        sample->room = 2 * sample->room + 1024;
        sample->microseconds = realloc(sample->microseconds, sample->room * sizeof *sample->microseconds);
    }
    sample->microseconds[sample->size++] = (int32_t)(ns / 1000);
}

static int64_t own_cpu(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000000LL + used.ru_utime.tv_usec + used.ru_stime.tv_usec;
}

static void print_event(const char *event) {
    printf("{\"event\":\"%s\",\"lines\":%d,\"ns\":%" PRId64 "}\n", event, lines, now_ns());
    fflush(stdout);
}

void report_listening(void) {
    cpu_before = own_cpu();
    next_tick = now_ns() + 1000000000;
    print_event("listening");
}

void report_ending(void) {
    if (ending) return;
    ending = true;
    print_event("ending");
}

void report_first_event(int64_t waited_ns) {
    add(&first_events, waited_ns);
    if (++streams_seen != options.at_once) return;
    steady = true;
    cpu_before = own_cpu();
    lines_before = lines;
    print_event("steady");
}

void report_line(int64_t sent_ns, int64_t received_ns) {
    lines++;
    if ((steady && !ending) || options.at_once < options.streams) add(&latencies, received_ns - sent_ns);
}

void report_end(const char *why) {
    if (!why) complete++;
    else if (errors++ < TEXTS) error_texts[errors - 1] = strdup(why);
}

void report_tick(int64_t now) {
    if (now < next_tick) return;
    next_tick += 1000000000;
    print_event("tick");
}

static int compare(const void *a, const void *b) {
    int32_t one = *(const int32_t *)a, other = *(const int32_t *)b;
    return (one > other) - (one < other);
}

static void print_percentiles(const char *name, struct sample *sample) {
    int last = sample->size - 1;
    printf(",\"%s\":", name);
    if (last < 0) {
        printf("null");
        return;
    }
    qsort(sample->microseconds, sample->size, sizeof *sample->microseconds, compare);
    const int32_t *sorted = sample->microseconds;
    printf("{\"p50\":%d,\"p90\":%d,\"p99\":%d,\"max\":%d}", sorted[last / 2], sorted[(int)(last * 0.9)],
           sorted[(int)(last * 0.99)], sorted[last]);
}

static void print_text(const char *text) {
    putchar('"');
    for (; *text; text++) putchar(*text == '"' || *text == '\\' ? '\'' : *text < ' ' ? ' ' : *text);
    putchar('"');
}

void report_over(void) {
    double cpu = (double)(own_cpu() - cpu_before);
    int counted = lines - lines_before;
    printf("{\"event\":\"over\",\"streams\":%d,\"complete\":%d,\"lines\":%d,\"own_cpu_us_per_line\":%.2f", options.streams,
           complete, lines, counted ? cpu / counted : 0.0);
    print_percentiles("latency_us", &latencies);
    print_percentiles("first_event_us", &first_events);
    printf(",\"errors\":[");
    for (int i = 0; i < errors && i < TEXTS; i++) {
        if (i) putchar(',');
        print_text(error_texts[i]);
    }
    printf("]}\n");
    fflush(stdout);
}
