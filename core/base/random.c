#include "core/base/random.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "core/base/panic.h"

static uint64_t rotate_left(uint64_t value, unsigned bits)
{
    return (value << bits) | (value >> (64 - bits));
}

/* SplitMix64 spreads the seed over the state, as xoshiro's authors advise: near seeds give unlike sequences, and no
 * seed an all-zero state. */
static uint64_t splitmix(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

void random_seed(struct random *self, uint64_t seed)
{
    for (int i = 0; i < 4; i++)
        self->state[i] = splitmix(&seed);
}

uint64_t random_next(struct random *self)
{
    uint64_t *s = self->state;
    uint64_t result = rotate_left(s[1] * 5, 7) * 9;
    uint64_t t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate_left(s[3], 45);
    return result;
}

uint64_t random_below(struct random *self, uint64_t bound)
{
    ASSERT(bound > 0);
    /* The lowest 2^64 mod bound numbers are drawn again, so that every remainder is equally likely. */
    uint64_t excess = (0 - bound) % bound;
    uint64_t value;
    do
        value = random_next(self);
    while (value < excess);
    return value % bound;
}

int random_chance(struct random *self, uint32_t per_million)
{
    return random_below(self, 1000000) < per_million;
}

uint64_t random_os(void)
{
    uint64_t value;
    ssize_t got;
    do
        got = getrandom(&value, sizeof(value), 0);
    while (got < 0 && errno == EINTR);
    if (got != (ssize_t)sizeof(value))
        PANIC("getrandom gave %zd bytes: %s", got, got < 0 ? strerror(errno) : "too few");
    return value;
}
