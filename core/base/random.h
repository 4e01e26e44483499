/* xoshiro256** (Blackman and Vigna): seeded, repeatable, not for secrets. One thread per generator. */
#ifndef BASE_RANDOM_H
#define BASE_RANDOM_H

#include <stdint.h>

struct random {
    uint64_t state[4];
};

void random_seed(struct random *self, uint64_t seed);
uint64_t random_next(struct random *self);
/* Uniform in [0, bound); bound > 0. */
uint64_t random_below(struct random *self, uint64_t bound);
/* True with probability `per_million` / 1,000,000. */
int random_chance(struct random *self, uint32_t per_million);
/* 64 bits from the operating system, for identities and seeds. Panics if getrandom fails. */
uint64_t random_os(void);

#endif
