#include "core/base/panic.h"
#include "core/consensus/paxos.h"

uint64_t quorum_reached(const uint64_t *values, uint32_t count)
{
    ASSERT(count > 0 && count <= PAXOS_REPLICAS_MAX);
    uint64_t best = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t reached = 0;
        for (uint32_t k = 0; k < count; k++)
            reached += values[k] >= values[i];
        if (reached >= quorum_size(count) && values[i] > best)
            best = values[i];
    }
    return best;
}
