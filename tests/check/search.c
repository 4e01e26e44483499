/* The search for an order (see check.h). */
#include <stdlib.h>

#include "core/base/random.h"
#include "tests/check/check__.h"

/* The object between two operations. */
struct state {
    uint64_t version, value;
    bool live;
};

/* A call or a return; a list in the order of time, calls first. An operation that has its place in the order leaves it
 * with both. */
struct mark {
    struct mark *before, *after;
    struct item *item;
    uint64_t time;
    bool is_return;
};

struct item {
    const struct check_operation *operation;
    struct mark call, ret;
    uint64_t hash[2];
};

/* Writes with unknown outcome whose values nobody saw, alike but for their start. */
struct spare {
    enum check_kind kind;
    uint64_t condition;
    struct item *items; /* by start */
    size_t count, used;
};

struct frame {
    struct state before;
    struct item *item;   /* taken */
    struct spare *spare; /* from here, if not NULL */
    size_t choice;       /* which one it was, of those that there were */
    bool only;           /* there is no other choice to be tried */
};

struct search {
    const struct check__key *key;
    struct item *items, *spare_items;
    size_t item_count, spare_item_count;
    struct spare *spares;
    size_t spare_count;
    struct item **owner; /* by version: who made it, if that is known; sorted */
    size_t owner_count;
    struct mark head;
    struct state state;
    uint64_t hash[2];
    struct frame *frames;
    size_t depth, placed;
    uint64_t (*seen)[2]; /* open addressing */
    size_t seen_count, seen_capacity;
    uint64_t steps;
    /* The furthest that it came, for the message. */
    size_t furthest;
    const struct check_operation *stuck;
    struct state stuck_state;
};

static int by_time(const void *a, const void *b)
{
    const struct mark *left = *(struct mark *const *)a, *right = *(struct mark *const *)b;
    if (left->time != right->time)
        return left->time < right->time ? -1 : 1;
    if (left->is_return != right->is_return)
        return left->is_return ? 1 : -1;
    return left->item < right->item ? -1 : left->item > right->item;
}

static int by_class(const void *a, const void *b)
{
    const struct item *left = a, *right = b;
    if (left->operation->kind != right->operation->kind)
        return left->operation->kind < right->operation->kind ? -1 : 1;
    if (left->operation->condition != right->operation->condition)
        return left->operation->condition < right->operation->condition ? -1 : 1;
    return left->operation->start < right->operation->start ? -1 : left->operation->start > right->operation->start;
}

static int by_made(const void *a, const void *b)
{
    const struct item *left = *(struct item *const *)a, *right = *(struct item *const *)b;
    return left->operation->version < right->operation->version ? -1
                                                                : left->operation->version > right->operation->version;
}

static void link_marks(struct search *self)
{
    struct mark **marks = check__allocate(2 * self->item_count, sizeof(*marks)), *last = &self->head;
    for (size_t i = 0; i < self->item_count; i++) {
        struct item *item = &self->items[i];
        item->call = (struct mark){.item = item, .time = item->operation->start};
        item->ret = (struct mark){.item = item, .time = item->operation->end, .is_return = true};
        marks[2 * i] = &item->call;
        marks[2 * i + 1] = &item->ret;
    }
    qsort(marks, 2 * self->item_count, sizeof(*marks), by_time);
    for (size_t i = 0; i < 2 * self->item_count; i++) {
        last->after = marks[i];
        marks[i]->before = last;
        last = marks[i];
    }
    free(marks);
}

static void group_spares(struct search *self)
{
    qsort(self->spare_items, self->spare_item_count, sizeof(*self->spare_items), by_class);
    for (size_t i = 0; i < self->spare_item_count; i++) {
        const struct check_operation *operation = self->spare_items[i].operation;
        struct spare *last = self->spare_count == 0 ? NULL : &self->spares[self->spare_count - 1];
        if (last == NULL || last->kind != operation->kind || last->condition != operation->condition) {
            last = &self->spares[self->spare_count++];
            *last = (struct spare){
                .kind = operation->kind, .condition = operation->condition, .items = &self->spare_items[i]};
        }
        last->count++;
    }
}

static void prepare(struct search *self)
{
    struct random random;
    size_t count = self->key->count;
    random_seed(&random, count);
    self->items = check__allocate(count, sizeof(*self->items));
    self->spare_items = check__allocate(count, sizeof(*self->spare_items));
    self->spares = check__allocate(count, sizeof(*self->spares));
    self->owner = check__allocate(count, sizeof(*self->owner));
    self->frames = check__allocate(count, sizeof(*self->frames));
    for (size_t i = 0; i < count; i++) {
        const struct check_operation *operation = &self->key->operations[i];
        bool writes = check__writes(operation);
        if (operation->kind == CHECK_GET_AT || (!writes && operation->outcome != CHECK_OK) ||
            (operation->outcome == CHECK_FAILED && !operation->seen))
            continue;
        bool spare = writes && operation->outcome == CHECK_UNKNOWN;
        struct item *item = spare ? &self->spare_items[self->spare_item_count++] : &self->items[self->item_count++];
        *item = (struct item){.operation = operation, .hash = {random_next(&random), random_next(&random)}};
        if (writes && operation->outcome == CHECK_OK && operation->version != 0)
            self->owner[self->owner_count++] = item;
    }
    qsort(self->owner, self->owner_count, sizeof(*self->owner), by_made);
    link_marks(self);
    group_spares(self);
}

static struct item *owner_of(const struct search *self, uint64_t version)
{
    size_t low = 0, high = self->owner_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (self->owner[middle]->operation->version < version)
            low = middle + 1;
        else
            high = middle;
    }
    return low < self->owner_count && self->owner[low]->operation->version == version ? self->owner[low] : NULL;
}

static bool holds(const struct state *state, const struct check_operation *operation)
{
    switch (operation->kind) {
    case CHECK_PUT_IF:
        return state->live && state->version == operation->condition;
    case CHECK_PUT_ABSENT:
        return !state->live;
    case CHECK_DELETE:
        return state->live && (operation->condition == 0 || state->version == operation->condition);
    default:
        return true;
    }
}

/* Does what a read, or a write that failed on its condition, saw fit the state? */
static bool fits(const struct state *state, const struct check_operation *operation)
{
    if (operation->outcome == CHECK_FAILED)
        return !holds(state, operation) && state->version == operation->version;
    if (operation->value == 0 && !operation->seen)
        return true; /* nothing is known of what it saw */
    if (operation->seen && state->version != operation->version)
        return false;
    if (operation->seen && operation->version != 0 && operation->deleted == state->live)
        return false;
    return operation->value == 0 || (state->live && state->value == operation->value);
}

static void unlink_item(struct search *self, struct item *item)
{
    struct mark *marks[] = {&item->call, &item->ret};
    for (int i = 0; i < 2; i++) {
        marks[i]->before->after = marks[i]->after;
        if (marks[i]->after != NULL)
            marks[i]->after->before = marks[i]->before;
    }
    self->placed++;
}

static void link_item(struct search *self, struct item *item)
{
    struct mark *marks[] = {&item->ret, &item->call};
    for (int i = 0; i < 2; i++) {
        marks[i]->before->after = marks[i];
        if (marks[i]->after != NULL)
            marks[i]->after->before = marks[i];
    }
    self->placed--;
}

static void take(struct search *self, struct item *item, struct spare *spare, size_t choice, bool only)
{
    self->frames[self->depth++] =
        (struct frame){.before = self->state, .item = item, .spare = spare, .choice = choice, .only = only};
    self->hash[0] ^= item->hash[0];
    self->hash[1] ^= item->hash[1];
    if (spare != NULL)
        spare->used++;
    else
        unlink_item(self, item);
    if (check__writes(item->operation) && item->operation->outcome != CHECK_FAILED)
        self->state = (struct state){.version = self->state.version + 1,
                                     .value = item->operation->value,
                                     .live = item->operation->kind != CHECK_DELETE};
    if (self->placed > self->furthest) {
        self->furthest = self->placed;
        self->stuck = NULL;
    }
}

static void give_back(struct search *self)
{
    const struct frame *frame = &self->frames[--self->depth];
    self->state = frame->before;
    self->hash[0] ^= frame->item->hash[0];
    self->hash[1] ^= frame->item->hash[1];
    if (frame->spare != NULL)
        frame->spare->used--;
    else
        link_item(self, frame->item);
}

static void grow_seen(struct search *self)
{
    uint64_t(*old)[2] = self->seen;
    size_t old_capacity = self->seen_capacity;
    self->seen_capacity = old_capacity == 0 ? 1024 : 2 * old_capacity;
    self->seen = check__allocate(self->seen_capacity, sizeof(*self->seen));
    for (size_t i = 0; i < old_capacity; i++) {
        if (old[i][0] == 0)
            continue;
        size_t at = old[i][0] & (self->seen_capacity - 1);
        while (self->seen[at][0] != 0)
            at = (at + 1) & (self->seen_capacity - 1);
        self->seen[at][0] = old[i][0];
        self->seen[at][1] = old[i][1];
    }
    free(old);
}

/* Was this configuration (what has been placed, and the state) tried before? 128 bits of a random hash stand for it.
 */
static bool tried(struct search *self)
{
    uint64_t last = self->state.value * UINT64_C(0x9E3779B97F4A7C15) + self->state.live;
    uint64_t a = (self->hash[0] ^ last) | 1, b = self->hash[1];
    if (2 * self->seen_count >= self->seen_capacity)
        grow_seen(self);
    size_t at = a & (self->seen_capacity - 1);
    for (; self->seen[at][0] != 0; at = (at + 1) & (self->seen_capacity - 1))
        if (self->seen[at][0] == a && self->seen[at][1] == b)
            return true;
    self->seen[at][0] = a;
    self->seen[at][1] = b;
    self->seen_count++;
    return false;
}

/* Takes what changes nothing and fits: wherever it could stand later, it can stand here. */
static bool take_read(struct search *self)
{
    for (struct mark *mark = self->head.after; mark != NULL && !mark->is_return; mark = mark->after) {
        const struct check_operation *operation = mark->item->operation;
        if ((!check__writes(operation) || operation->outcome == CHECK_FAILED) && fits(&self->state, operation)) {
            take(self, mark->item, NULL, 0, true);
            return true;
        }
    }
    return false;
}

/* Takes the choice-th of the writes that may come next; false: there are not so many. */
static bool take_write(struct search *self, size_t choice)
{
    struct mark *mark = self->head.after;
    struct item *owner = owner_of(self, self->state.version + 1);
    size_t number = 0;
    for (; mark != NULL && !mark->is_return; mark = mark->after) {
        const struct check_operation *operation = mark->item->operation;
        bool possible = check__writes(operation) && operation->outcome == CHECK_OK &&
                        (owner == NULL ? operation->version == 0 : mark->item == owner) &&
                        holds(&self->state, operation);
        if (possible && number++ == choice) {
            take(self, mark->item, NULL, choice, owner != NULL);
            return true;
        }
    }
    /* The version belongs to somebody else. */
    if (owner != NULL)
        return false;
    uint64_t first_end = mark == NULL ? UINT64_MAX : mark->time;
    for (size_t i = 0; i < self->spare_count; i++) {
        struct spare *spare = &self->spares[i];
        if (spare->used == spare->count)
            continue;
        struct item *item = &spare->items[spare->used];
        if (item->operation->start <= first_end && holds(&self->state, item->operation) && number++ == choice) {
            take(self, item, spare, choice, false);
            return true;
        }
    }
    return false;
}

static void note_stuck(struct search *self)
{
    if (self->stuck != NULL || self->placed < self->furthest)
        return;
    for (const struct mark *mark = self->head.after; mark != NULL; mark = mark->after)
        if (mark->is_return) {
            self->stuck = mark->item->operation;
            self->stuck_state = self->state;
            return;
        }
}

/* True: an order was found. */
static bool find_order(struct search *self, uint64_t steps_max)
{
    size_t choice = 0;
    while (self->head.after != NULL) {
        if (choice == 0 && take_read(self))
            continue;
        if (++self->steps > steps_max)
            return false;
        if (take_write(self, choice)) {
            choice = 0;
            if (!tried(self))
                continue;
        } else {
            note_stuck(self);
        }
        /* Back to the latest choice that has an alternative. */
        for (bool only = true; only; give_back(self)) {
            if (self->depth == 0)
                return false;
            only = self->frames[self->depth - 1].only;
            choice = self->frames[self->depth - 1].choice + 1;
        }
    }
    return true;
}

static void free_search(struct search *self)
{
    free(self->items);
    free(self->spare_items);
    free(self->spares);
    free(self->owner);
    free(self->frames);
    free(self->seen);
}

bool check__search(const struct check__key *key, uint64_t steps_max, struct check_result *result)
{
    struct search self = {.key = key};
    prepare(&self);
    bool found = find_order(&self, steps_max);
    result->steps += self.steps;
    if (!found && self.steps > steps_max)
        check__say(key, result, CHECK_UNDECIDED, "no answer after %llu steps", (unsigned long long)steps_max);
    else if (!found)
        check__say(key, result, CHECK_BAD,
                   "not linearizable: %zu of %zu operations can be put in order, and line %llu can't come next where "
                   "the object is %s at version %llu",
                   self.furthest, self.item_count, self.stuck == NULL ? 0 : (unsigned long long)self.stuck->line,
                   self.stuck_state.live ? "there" : "not there", (unsigned long long)self.stuck_state.version);
    free_search(&self);
    return found;
}
