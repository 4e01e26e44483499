/* Bytes that claim to be a message of another node: consensus with entries, beats, snapshots and repairs. What is taken
 * is within its bounds. The first byte chooses the kind, and whether entries' checksums are put right first, so that
 * what lies behind them is reached. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/crc.h"
#include "core/base/panic.h"
#include "core/shard/peer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Makes the entry at `offset` whole, as far as its size allows. */
static void repair(uint8_t *bytes, size_t size, size_t offset)
{
    struct entry_header header;
    if (size < sizeof(header) || offset > size - sizeof(header))
        return;
    memcpy(&header, bytes + offset, sizeof(header));
    size_t rest = size - offset - sizeof(header);
    header.magic = ENTRY_MAGIC;
    header.flags = 0;
    if (header.body_size > rest)
        header.body_size = (uint32_t)(rest & 0xff);
    header.body_crc = header.body_size == 0 ? 0 : crc32c(bytes + offset + sizeof(header), header.body_size);
    memcpy(bytes + offset, &header, sizeof(header));
    header.header_crc = crc32c(bytes + offset + 8, sizeof(header) - 8);
    memcpy(bytes + offset + 4, &header.header_crc, 4);
}

static void try_paxos(const uint8_t *data, size_t size)
{
    static struct paxos_message message;
    static struct entry entries[PAXOS_MESSAGE_ENTRIES_MAX];
    uint32_t count = 0;
    enum sluice_status status = peer_paxos_read(data, size, 1, 2, &message, entries, &count);
    ASSERT(count <= PAXOS_MESSAGE_ENTRIES_MAX && (status != SLUICE_OK || count == message.entry_count));
    for (uint32_t i = 0; i < count; i++) {
        buf_unref(entries[i].body);
        entries[i].body = NULL;
    }
}

static void try_snapshot(const uint8_t *data, size_t size)
{
    struct peer_snapshot snapshot;
    size_t offset = 0;
    if (peer_snapshot_read(data, size, &snapshot) != SLUICE_OK)
        return;
    data += sizeof(snapshot);
    size -= sizeof(snapshot);
    for (uint32_t i = 0; i < snapshot.count; i++) {
        struct entry entry;
        struct slice name, value;
        const uint8_t *numbers;
        uint32_t count;
        if (snapshot.type == PEER_SNAPSHOT_FACTS) {
            if (peer_snapshot_fact(data, size, &offset, &name, &value) != SLUICE_OK)
                return;
            ASSERT(offset <= size);
            continue;
        }
        if (peer_snapshot_entry(data, size, &offset, &entry) != SLUICE_OK)
            return;
        ASSERT(offset <= size);
        buf_unref(entry.body);
        if (peer_snapshot_numbers(data, size, &offset, &numbers, &count) != SLUICE_OK)
            return;
        ASSERT(offset <= size);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    uint8_t kind = data[0] & 7;
    bool whole = (data[0] & 8) != 0;
    size_t bytes_size = size - 1;
    uint8_t *bytes = malloc(bytes_size); /* of its own, so that a read beyond its end is seen */
    ASSERT(bytes != NULL);
    memcpy(bytes, data + 1, bytes_size);
    if (whole)
        repair(bytes, bytes_size,
               kind == 0   ? sizeof(struct peer_paxos)
               : kind == 2 ? sizeof(struct peer_snapshot)
               : kind == 4 ? 0
                           : bytes_size);
    struct pairs_message beat;
    struct peer_snapshot_ack ack;
    struct entry entry = {0};
    uint8_t min, max;
    switch (kind) {
    case 0:
        try_paxos(bytes, bytes_size);
        break;
    case 1:
        (void)!peer_pairs_read(bytes, bytes_size, 1, &beat);
        peer_pairs_versions(bytes, bytes_size, 2, &min, &max);
        ASSERT(peer_version_agreed(min, max) <= PEER_VERSION);
        break;
    case 2:
        try_snapshot(bytes, bytes_size);
        break;
    case 3:
        (void)!peer_snapshot_ack_read(bytes, bytes_size, &ack);
        break;
    default:
        if (peer_entry_read(bytes, bytes_size, &entry) == SLUICE_OK)
            buf_unref(entry.body);
        break;
    }
    free(bytes);
    return 0;
}
