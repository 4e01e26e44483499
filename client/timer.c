/* A pairing heap (Fredman, Sedgewick, Sleator, Tarjan, 1986): setting a timer and stopping one that is far off, which
 * is what happens to nearly all deadlines, takes a few pointers. `prev` is the left sibling, or the parent of a first
 * child. */
#include "client/client__.h"
#include "core/base/panic.h"

static struct timer *meld(struct timer *a, struct timer *b)
{
    if (a == NULL)
        return b;
    if (b == NULL)
        return a;
    if (b->at_ns < a->at_ns) {
        struct timer *other = a;
        a = b;
        b = other;
    }
    b->next = a->child;
    if (b->next != NULL)
        b->next->prev = b;
    b->prev = a;
    a->child = b;
    return a;
}

/* Siblings become one tree: in pairs from the left, then all from the right. */
static struct timer *join(struct timer *first)
{
    struct timer *pairs = NULL, *tree = NULL;
    while (first != NULL) {
        struct timer *a = first, *b = a->next;
        first = b == NULL ? NULL : b->next;
        a->next = a->prev = NULL;
        if (b != NULL)
            b->next = b->prev = NULL;
        a = meld(a, b);
        a->next = pairs;
        pairs = a;
    }
    while (pairs != NULL) {
        struct timer *next = pairs->next;
        pairs->next = NULL;
        tree = meld(tree, pairs);
        pairs = next;
    }
    return tree;
}

void timer__stop(struct timers *self, struct timer *timer)
{
    if (!timer->armed)
        return;
    struct timer *below = join(timer->child);
    if (self->root == timer) {
        self->root = below;
    } else {
        ASSERT(timer->prev != NULL);
        if (timer->prev->child == timer)
            timer->prev->child = timer->next;
        else
            timer->prev->next = timer->next;
        if (timer->next != NULL)
            timer->next->prev = timer->prev;
        self->root = meld(self->root, below);
    }
    timer->child = timer->next = timer->prev = NULL;
    timer->armed = false;
}

void timer__set(struct timers *self, struct timer *timer, uint64_t at_ns)
{
    if (timer->armed && timer->at_ns == at_ns)
        return;
    timer__stop(self, timer);
    if (at_ns == CLIENT_NEVER)
        return;
    timer->at_ns = at_ns;
    timer->armed = true;
    self->root = meld(self->root, timer);
}
