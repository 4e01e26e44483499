/* What a poll does with one link: events up, in the order in which they happened. */
#include <stdlib.h>

#include "core/rdma/fabric__provider.h"

/* What one link may have delivered in one visit, so that a large message or a busy peer delays the others by little. */
#define VISIT_FRAMES 64u
#define VISIT_BYTES  (1u << 20)

/* Calls the handler. False: it has closed the link. */
static bool emit(struct fabric_link *link, const struct fabric_event *event)
{
    struct fabric *self = link->fabric;
    self->events++;
    self->handler(self->handler_arg, event);
    return !link->closed;
}

static bool unread(const struct fabric_link *link)
{
    if (!link->ring.control || link->state < LINK__UP || link->state == LINK__DOWN)
        return false;
    return atomic_load(&link->ring.control->tail) != link->reader.head;
}

/* Nothing that is still in the ring may be delivered: it can't be told from rubbish, or nobody knows of the link. */
static bool deaf(const struct fabric_link *link)
{
    return link->state == LINK__ENDING &&
           (link->reason == FABRIC_DOWN_PROTOCOL || link->reason == FABRIC_DOWN_REFUSED || !link->reported_up);
}

static bool credit_came(const struct fabric_link *link)
{
    return link->pending_first && link->state == LINK__UP &&
           atomic_load(&link->ring.control->credit) != link->writer.credit;
}

bool fabric__link_work(const struct fabric_link *link)
{
    if (link->flags || link->state == LINK__ANSWERED || link->state == LINK__ENDING || link->completions.count)
        return true;
    if (link->writable_owed && fabric_pending(link) == 0)
        return true;
    return unread(link) || credit_came(link) || link->provider->work(link);
}

static void return_credit(struct fabric_link *link)
{
    if (link->state == LINK__UP && link->reader.head - link->reader.credited >= link->reader.size / 4)
        link->provider->credit(link);
}

/* False: the handler has closed the link. */
static bool deliver(struct fabric_link *link, unsigned budget)
{
    struct ring__reader *reader = &link->reader;
    uint64_t tail = atomic_load_explicit(&link->ring.control->tail, memory_order_acquire);
    uint64_t until = reader->head + VISIT_BYTES;
    for (unsigned frames = 0; frames < VISIT_FRAMES && reader->head < until && link->fabric->events < budget;
         frames++) {
        struct fabric_event event = {.type = FABRIC_MESSAGE, .link = link};
        const char *why = "";
        switch (ring__read(reader, tail, &event.data, &event.size, &why)) {
        case RING__EMPTY:
            return true;
        case RING__MESSAGE:
            if (!emit(link, &event))
                return false;
            break;
        case RING__PART:
            break;
        case RING__BAD:
            fabric__fail(link, FABRIC_DOWN_PROTOCOL, "%s", why);
            link->reason = FABRIC_DOWN_PROTOCOL; /* also when the link was ending already: its ring can't be read on */
            return true;
        case RING__MEMORY:
            fabric__fail(link, FABRIC_DOWN_CLOSED, "no memory for a message of %u bytes", reader->total);
            reader->head = tail;
            return true;
        }
        ring__release(reader);
        return_credit(link);
    }
    return true;
}

static bool report_completions(struct fabric_link *link)
{
    struct fabric__completions taken = link->completions; /* the handler may add to the list */
    link->completions = (struct fabric__completions){0};
    bool open = true;
    for (uint32_t i = 0; i < taken.count && open; i++) {
        struct fabric_event event = {
            .type = FABRIC_COMPLETION, .link = link, .cookie = taken.items[i].cookie, .status = taken.items[i].status};
        open = emit(link, &event);
    }
    free(taken.items);
    return open;
}

static void report_down(struct fabric_link *link)
{
    bool known = !link->accepted || link->reported_up;
    fabric__bury(link);
    if (!known)
        return;
    struct fabric_event event = {.type = FABRIC_LINK_DOWN, .link = link, .reason = link->reason, .text = link->text};
    (void)emit(link, &event);
}

static bool report_up(struct fabric_link *link)
{
    fabric__set_timer(link, 0);
    fabric__set_state(link, LINK__UP);
    link->reported_up = true;
    struct fabric_event event = {.type = FABRIC_LINK_UP, .link = link};
    return emit(link, &event);
}

static bool report_writable(struct fabric_link *link)
{
    link->writable_owed = false;
    struct fabric_event event = {.type = FABRIC_WRITABLE, .link = link};
    return emit(link, &event);
}

void fabric__link_visit(struct fabric_link *link, unsigned budget)
{
    link->provider->service(link);
    if (link->state == LINK__ANSWERED && !report_up(link))
        return;
    if (unread(link) && !deaf(link) && !deliver(link, budget))
        return;
    if (link->state == LINK__UP && link->pending_first)
        fabric__pump(link);
    if (link->completions.count && link->reported_up && !report_completions(link))
        return;
    if (link->writable_owed && link->state == LINK__UP && fabric_pending(link) == 0 && !report_writable(link))
        return;
    if (link->state == LINK__ENDING && (deaf(link) || !unread(link))) {
        report_down(link);
        return;
    }
    if (!fabric__link_work(link) && link->provider->rest(link))
        fabric__deactivate(link);
}
