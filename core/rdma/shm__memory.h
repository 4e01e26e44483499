/* Between shm.c (rendezvous, handshake, the peer's end) and shm_memory.c (what passes through memory). */
#ifndef RDMA_SHM_MEMORY_H
#define RDMA_SHM_MEMORY_H

#include "core/rdma/fabric__provider.h"

/* A bit of our bell for the link. False: no memory, or all are taken. */
bool shm__slot_take(struct fabric_link *link);
void shm__slot_give_back(struct fabric_link *link);
/* Sets the link's bit and visits it at every poll, until shm__rest lets it go. */
void shm__attend(struct fabric_link *link);
bool shm__rest(struct fabric_link *link);

enum sluice_status shm__place(struct fabric_link *link, const struct ring__plan *plan,
                              const struct fabric__message *message, uint32_t offset);
bool shm__place_whole(struct fabric_link *link, const struct fabric__message *message, uint32_t bytes);
void shm__publish(struct fabric_link *link);
void shm__credit(struct fabric_link *link);

/* Maps a region that the peer has granted. CORRUPT: it is none. Does not take `fd`. */
enum sluice_status shm__window_open(struct fabric_link *link, uint64_t key, uint64_t size, int fd) SLUICE_MUST_CHECK;
/* Where the window with `key` hangs; what it points at is NULL when there is none. */
struct fabric__window **shm__window(struct fabric_link *link, uint64_t key);
void shm__window_close(struct fabric__window **at);
enum sluice_status shm__write(struct fabric_link *link, struct fabric__window *window, uint64_t offset,
                              const void *data, uint32_t size, unsigned flags, uint64_t cookie) SLUICE_MUST_CHECK;

#endif
