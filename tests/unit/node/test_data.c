/* The data directory and the options: what a node refuses to start with, and what it says then. */
#include <criterion/criterion.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/log.h"
#include "core/node/node.h"

static char directory[64];

static int drop(const char *path, const struct stat *info, int kind, struct FTW *where)
{
    (void)info;
    (void)kind;
    (void)where;
    return remove(path);
}

static void open_directory(void)
{
    log_set_level(LOG_LEVEL_NONE);
    snprintf(directory, sizeof(directory), "/tmp/sluice-node-XXXXXX");
    cr_assert_not_null(mkdtemp(directory));
}

static void close_directory(void)
{
    nftw(directory, drop, 16, FTW_DEPTH | FTW_PHYS);
}

static struct node_options options_of(uint16_t id, const char *const *listen)
{
    return (struct node_options){.size = sizeof(struct node_options),
                                 .id = id,
                                 .data_path = directory,
                                 .listen = listen,
                                 .listen_count = 1,
                                 .segment_bytes = 1u << 20};
}

static const char *listen_at(char out[96], unsigned number)
{
    snprintf(out, 96, "shm:sluice-unit-%d-%u", (int)getpid(), number);
    return out;
}

/* The node does not come into being, and says why. */
static void refused(const struct node_options *options, enum sluice_status status, const char *words)
{
    struct node *node = NULL;
    char error[512] = "";
    cr_assert_eq(node_create(options, &node, error, sizeof(error)), status, "said: %s", error);
    cr_assert_not_null(strstr(error, words), "said \"%s\", not \"%s\"", error, words);
}

static void once(const struct node_options *options)
{
    struct node *node = NULL;
    char error[512];
    cr_assert_eq(node_create(options, &node, error, sizeof(error)), SLUICE_OK, "%s", error);
    node_destroy(node);
}

static void write_file(const char *name, const char *text)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/%s", directory, name);
    FILE *file = fopen(path, "w");
    cr_assert_not_null(file);
    fputs(text, file);
    fclose(file);
}

Test(options, what_makes_no_sense_is_said, .init = open_directory, .fini = close_directory)
{
    char address[96];
    const char *listen = listen_at(address, 1);
    struct node_options options = options_of(64, &listen);
    refused(&options, SLUICE_INVALID, "between 1 and 63");
    options = options_of(1, &listen);
    options.listen_count = 0;
    refused(&options, SLUICE_INVALID, "--listen");
    options = options_of(1, &listen);
    options.free_percent_min = 91;
    refused(&options, SLUICE_INVALID, "percentage");
    static const char *const wrong[] = {"2:tcp:h:1", "2=udp:h:1", "0=shm:x", "64=shm:x", "=shm:x"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        options = options_of(1, &listen);
        options.peers = &wrong[i];
        options.peer_count = 1;
        refused(&options, SLUICE_INVALID, wrong[i]);
    }
}

Test(options, a_cluster_begins_with_at_most_seven, .init = open_directory, .fini = close_directory)
{
    static const char *const peers[] = {"1=shm:a", "2=shm:b", "3=shm:c", "4=shm:d",
                                        "5=shm:e", "6=shm:f", "7=shm:g", "8=shm:h"};
    char address[96];
    const char *listen = listen_at(address, 1);
    struct node_options options = options_of(1, &listen);
    options.peers = peers;
    options.peer_count = 8;
    refused(&options, SLUICE_INVALID, "--join");
}

Test(options, a_node_that_joins_must_be_reachable, .init = open_directory, .fini = close_directory)
{
    const char *listen = "tcp:0.0.0.0:7000";
    const char *join = "tcp:127.0.0.1:1";
    struct node_options options = options_of(4, &listen);
    options.join = &join;
    options.join_count = 1;
    refused(&options, SLUICE_INVALID, "--advertise");
    options.advertise = "example.org:7000";
    refused(&options, SLUICE_INVALID, "came: example.org:7000");
    options.advertise = NULL;
    listen = "shm:somewhere";
    join = "nowhere";
    refused(&options, SLUICE_INVALID, "nowhere");
}

Test(options, who_is_none_of_its_peers_joins_them, .init = open_directory, .fini = close_directory)
{
    const char *listen = "tcp:0.0.0.0:7000";
    const char *peers[] = {"1=tcp:127.0.0.1:1", "2=tcp:127.0.0.1:2"};
    struct node_options options = options_of(4, &listen);
    options.peers = peers;
    options.peer_count = 2;
    refused(&options, SLUICE_INVALID, "--advertise"); /* a founder would be content */
}

Test(data, the_directory_belongs_to_one_node, .init = open_directory, .fini = close_directory)
{
    char address[96];
    const char *listen = listen_at(address, 1);
    struct node_options options = options_of(1, &listen);
    once(&options);
    once(&options);
    options.id = 2;
    refused(&options, SLUICE_CONFLICT, "belongs to node 1, this is node 2");
}

Test(data, two_processes_cannot_share_it, .init = open_directory, .fini = close_directory)
{
    char first[96], second[96], error[512];
    const char *listen = listen_at(first, 1);
    struct node_options options = options_of(1, &listen);
    struct node *node = NULL;
    cr_assert_eq(node_create(&options, &node, error, sizeof(error)), SLUICE_OK, "%s", error);
    const char *elsewhere = listen_at(second, 2);
    options.listen = &elsewhere;
    refused(&options, SLUICE_CONFLICT, "another process uses");
    node_destroy(node);
}

Test(data, a_damaged_or_newer_file_is_not_guessed_at, .init = open_directory, .fini = close_directory)
{
    char address[96];
    const char *listen = listen_at(address, 1);
    struct node_options options = options_of(1, &listen);
    write_file("node.json", "{\"format\":1,");
    refused(&options, SLUICE_CORRUPT, "is damaged");
    write_file("node.json", "{\"format\":9,\"node\":1}");
    refused(&options, SLUICE_VERSION, "format 9");
    write_file("node.json", "{\"format\":1,\"node\":1,\"cluster\":\"zz\",\"starts\":1,\"members\":[1]}");
    refused(&options, SLUICE_CORRUPT, "make no sense");
    write_file("node.json", "{\"format\":1,\"node\":1,\"cluster\":\"000102030405060708090a0b0c0d0e0f\",\"starts\":1,"
                            "\"members\":[1,99]}");
    refused(&options, SLUICE_CORRUPT, "make no sense");
    write_file("node.json", "{\"format\":1,\"node\":1,\"cluster\":\"000102030405060708090a0b0c0d0e0f\",\"starts\":1,"
                            "\"members\":[],\"peers\":{\"x\":[]}}");
    refused(&options, SLUICE_CORRUPT, "make no sense");
}

Test(data, a_log_without_an_owner_is_not_taken, .init = open_directory, .fini = close_directory)
{
    char address[96], path[128], node[128];
    const char *listen = listen_at(address, 1);
    struct node_options options = options_of(1, &listen);
    once(&options);
    snprintf(path, sizeof(path), "%s/log", directory);
    snprintf(node, sizeof(node), "%s/node.json", directory);
    cr_assert_eq(access(path, F_OK), 0);
    cr_assert_eq(unlink(node), 0);
    refused(&options, SLUICE_CORRUPT, "no node.json");
}
