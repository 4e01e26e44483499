/* What people see of lambdas: log lines, counters, parked events, status. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/text.h"
#include "core/lambda/lambda__.h"

struct lambda_log_subscription {
    struct lambda_log_subscription *next;
    struct lambda__slot *slot;
    lambda_log_line line;
    void *arg;
};

/* --- Log ------------------------------------------------------------------------------------------------------------
 */

/* Whatever a lambda prints becomes one line of valid UTF-8. */
static size_t tidy(char *text, size_t size)
{
    while (size > 0 && !text_utf8_valid(text, size)) {
        size_t good = size;
        while (!text_utf8_valid(text, good))
            good--;
        if (size - good < 4) {
            size = good; /* cut within a character */
            break;
        }
        text[good] = '?';
    }
    for (size_t i = 0; i < size; i++)
        if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f)
            text[i] = ' ';
    while (size > 0 && text[size - 1] == ' ')
        size--;
    return size;
}

void lambda__vprint(struct lambda__slot *slot, const char *format, va_list arguments)
{
    char text[LAMBDA_LOG_LINE_BYTES + 1];
    int printed = vsnprintf(text, sizeof(text), format, arguments);
    if (printed < 0)
        return;
    size_t size = tidy(text, (size_t)printed < sizeof(text) ? (size_t)printed : sizeof(text) - 1);
    struct lambda__logged *line = malloc(sizeof(*line) + size + 1);
    if (line == NULL)
        return;
    line->time_ns = clock_realtime_ns();
    line->size = size;
    memcpy(line->text, text, size);
    line->text[size] = '\0';

    struct lambda_host *host = slot->host;
    pthread_mutex_lock(&host->report_lock);
    line->number = ++slot->line_count;
    struct lambda__logged **place = &slot->lines[line->number % LAMBDA_LOG_LINES];
    free(*place);
    *place = line;
    for (struct lambda_log_subscription *each = slot->subscriptions; each != NULL; each = each->next)
        each->line(each->arg, line->number, line->time_ns, line->text, line->size);
    pthread_mutex_unlock(&host->report_lock);
}

void lambda__print(struct lambda__slot *slot, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    lambda__vprint(slot, format, arguments);
    va_end(arguments);
}

enum sluice_status lambda_host_log_subscribe(struct lambda_host *self, const char *name, lambda_log_line line,
                                             void *arg, struct lambda_log_subscription **out)
{
    pthread_mutex_lock(&self->lock);
    struct lambda__slot *slot = lambda__slot_find(self, name);
    bool known = slot != NULL && slot->present;
    pthread_mutex_unlock(&self->lock);
    if (!known)
        return SLUICE_NOT_FOUND;
    struct lambda_log_subscription *subscription = malloc(sizeof(*subscription));
    if (subscription == NULL)
        return SLUICE_MEMORY;
    pthread_mutex_lock(&self->report_lock);
    *subscription = (struct lambda_log_subscription){slot->subscriptions, slot, line, arg};
    slot->subscriptions = subscription;
    uint64_t first = slot->line_count < LAMBDA_LOG_LINES ? 1 : slot->line_count - LAMBDA_LOG_LINES + 1;
    for (uint64_t number = first; number <= slot->line_count; number++) {
        const struct lambda__logged *kept = slot->lines[number % LAMBDA_LOG_LINES];
        if (kept != NULL)
            line(arg, kept->number, kept->time_ns, kept->text, kept->size);
    }
    pthread_mutex_unlock(&self->report_lock);
    *out = subscription;
    return SLUICE_OK;
}

void lambda_log_unsubscribe(struct lambda_log_subscription *subscription)
{
    struct lambda__slot *slot = subscription->slot;
    pthread_mutex_lock(&slot->host->report_lock);
    struct lambda_log_subscription **link = &slot->subscriptions;
    while (*link != subscription)
        link = &(*link)->next;
    *link = subscription->next;
    pthread_mutex_unlock(&slot->host->report_lock);
    free(subscription);
}

/* --- Counters -------------------------------------------------------------------------------------------------------
 */

void lambda__count(struct lambda__slot *slot, const char *name, int64_t delta)
{
    size_t size = name == NULL ? 0 : strlen(name);
    if (size == 0 || size >= sizeof(slot->counters->name) || !text_utf8_valid(name, size))
        return;
    pthread_mutex_lock(&slot->host->report_lock);
    size_t i = 0;
    while (i < slot->counter_count && strcmp(slot->counters[i].name, name) != 0)
        i++;
    if (i == slot->counter_count && i < LAMBDA_COUNTERS_MAX) {
        struct lambda__counter *grown = realloc(slot->counters, (i + 1) * sizeof(*grown));
        if (grown != NULL) {
            slot->counters = grown;
            memset(&grown[i], 0, sizeof(grown[i]));
            memcpy(grown[i].name, name, size);
            slot->counter_count++;
        }
    }
    if (i < slot->counter_count)
        __builtin_add_overflow(slot->counters[i].value, delta, &slot->counters[i].value);
    pthread_mutex_unlock(&slot->host->report_lock);
}

/* --- Parked events --------------------------------------------------------------------------------------------------
 */

void lambda__park_note(struct lambda__slot *slot, const struct lambda__event *event, uint32_t shard, const char *error)
{
    struct lambda__parked *parked = &slot->parked[slot->statistics.parked % LAMBDA_PARKED_SHOWN];
    free(parked->key);
    *parked = (struct lambda__parked){.key = strdup(lambda__event_key(event)),
                                      .version = event->version,
                                      .revision = event->revision,
                                      .shard = shard};
    snprintf(parked->error, sizeof(parked->error), "%s", error);
    parked->error[tidy(parked->error, strlen(parked->error))] = '\0';
}

void lambda__slot_clear(struct lambda__slot *slot)
{
    memset(&slot->statistics, 0, sizeof(slot->statistics));
    for (size_t i = 0; i < LAMBDA_PARKED_SHOWN; i++) {
        free(slot->parked[i].key);
        slot->parked[i].key = NULL;
    }
    pthread_mutex_lock(&slot->host->report_lock);
    for (size_t i = 0; i < LAMBDA_LOG_LINES; i++) {
        free(slot->lines[i]);
        slot->lines[i] = NULL;
    }
    free(slot->counters);
    slot->counters = NULL;
    slot->counter_count = 0;
    pthread_mutex_unlock(&slot->host->report_lock);
}

/* --- Status ---------------------------------------------------------------------------------------------------------
 */

static json_t *number(uint64_t value)
{
    return json_integer((json_int_t)value);
}

static json_t *counters_json(struct lambda__slot *slot)
{
    json_t *counters = json_object();
    pthread_mutex_lock(&slot->host->report_lock);
    for (size_t i = 0; i < slot->counter_count; i++)
        json_object_set_new(counters, slot->counters[i].name, json_integer(slot->counters[i].value));
    pthread_mutex_unlock(&slot->host->report_lock);
    return counters;
}

static json_t *parked_json(const struct lambda__slot *slot)
{
    json_t *list = json_array();
    for (uint64_t i = 1; i <= LAMBDA_PARKED_SHOWN; i++) {
        const struct lambda__parked *parked = &slot->parked[(slot->statistics.parked + i) % LAMBDA_PARKED_SHOWN];
        if (parked->key == NULL)
            continue;
        json_t *each = json_object();
        json_object_set_new(each, "key", json_string(parked->key));
        json_object_set_new(each, "version", number(parked->version));
        json_object_set_new(each, "shard", number(parked->shard));
        json_object_set_new(each, "revision", number(parked->revision));
        json_object_set_new(each, "error", json_string(parked->error));
        json_array_append_new(list, each);
    }
    return list;
}

/* The feeds of a name: where they are, and how many events wait. */
static json_t *cursors_json(const struct lambda__slot *slot, uint64_t *queued)
{
    json_t *list = json_array();
    *queued = 0;
    for (const struct lambda_feed *feed = slot->host->feeds; feed != NULL; feed = feed->next) {
        if (feed->lambda->slot != slot || feed->stop_seen)
            continue;
        unsigned events = atomic_load(&feed->queued_events);
        *queued += events;
        json_t *each = json_object();
        json_object_set_new(each, "shard", number(feed->shard));
        json_object_set_new(each, "epoch", number(feed->epoch));
        json_object_set_new(each, "revision", number(feed->durable));
        json_object_set_new(each, "queued", number(events));
        json_array_append_new(list, each);
    }
    return list;
}

static const char *state_name(const struct lambda__slot *slot)
{
    if (!slot->enabled)
        return "disabled";
    if (slot->upcoming != NULL || slot->current == NULL)
        return "loading";
    return slot->current->state == LAMBDA__FAILED ? "failed" : "active";
}

static json_t *slot_json(struct lambda__slot *slot)
{
    const struct lambda *lambda = slot->upcoming != NULL ? slot->upcoming : slot->current;
    char error[LAMBDA__ERROR_BYTES] = "";
    if (lambda != NULL)
        snprintf(error, sizeof(error), "%s", lambda->error);
    if (lambda != NULL && lambda->overdue > 0)
        snprintf(error, sizeof(error),
                 "%u run%s past the deadline and not returned; code in this process can't be stopped%s",
                 lambda->overdue, lambda->overdue == 1 ? " is" : "s are",
                 lambda->overdue < LAMBDA__OVERDUE_MAX ? "" : ": no further event is handled until one returns");
    error[tidy(error, strlen(error))] = '\0';
    uint64_t queued;
    json_t *cursors = cursors_json(slot, &queued);
    json_t *out = json_object();
    json_object_set_new(out, "name", json_string(slot->name));
    json_object_set_new(out, "version", number(slot->wanted));
    json_object_set_new(out, "state", json_string(state_name(slot)));
    json_object_set_new(out, "error", error[0] == '\0' ? json_null() : json_string(error));
    json_object_set_new(out, "events", number(slot->statistics.events));
    json_object_set_new(out, "runs", number(slot->statistics.runs));
    json_object_set_new(out, "failures", number(slot->statistics.failures));
    json_object_set_new(out, "parked", number(slot->statistics.parked));
    json_object_set_new(out, "effects", number(slot->statistics.effects));
    json_object_set_new(out, "refused", number(slot->statistics.refused));
    json_object_set_new(out, "queued", number(queued));
    json_object_set_new(out, "overdue", number(lambda == NULL ? 0 : lambda->overdue));
    json_object_set_new(out, "counters", counters_json(slot));
    json_object_set_new(out, "parked_events", parked_json(slot));
    json_object_set_new(out, "cursors", cursors);
    return out;
}

char *lambda_host_status(struct lambda_host *self, const char *name)
{
    json_t *list = json_array();
    pthread_mutex_lock(&self->lock);
    for (struct lambda__slot *slot = self->slots; slot != NULL; slot = slot->next)
        if (slot->present && (name == NULL || strcmp(name, slot->name) == 0))
            json_array_append_new(list, slot_json(slot));
    pthread_mutex_unlock(&self->lock);
    char *text = json_dumps(list, JSON_COMPACT);
    json_decref(list);
    return text;
}
