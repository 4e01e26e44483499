#include "api/release.h"

#ifdef SLUICE_RELEASE_NEXT
/* A release that is one ahead in everything, for tests: it speaks, and writes once all do, the next of each. */
const struct release sluice_release = {
    .level_min = 1,
    .level = 3,
    .peer_min = 2,
    .peer = 3,
    .fabric_min = 1,
    .fabric = 2,
    .formats = {{.level = 1, .node = 1, .log = 1, .store = 1}, {.level = 3, .node = 2, .log = 2, .store = 2}},
    .format_count = 2,
};
#else
const struct release sluice_release = {
    .level_min = 1,
    .level = 2,
    .peer_min = 2,
    .peer = 2,
    .fabric_min = 1,
    .fabric = 1,
    .formats = {{.level = 1, .node = 1, .log = 1, .store = 1}},
    .format_count = 1,
};
#endif
