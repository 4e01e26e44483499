/* What the command groups of `sluice` share: options that every command takes, exit codes, and how answers are shown.
 */
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include <argp.h>
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "core/base/buf.h"

#define CLI_RELEASE "0.1.0"

/* Scripts depend on these; every --help states them. */
enum cli_exit {
    CLI_OK = 0,
    CLI_ERROR = 1,
    CLI_USAGE = 2,
    CLI_NOT_FOUND = 3,   /* no such object, version, pool or lambda; also what retention has dropped */
    CLI_CONDITION = 4,   /* --if-match or --if-none-match did not hold */
    CLI_UNAVAILABLE = 5, /* no answer, no quorum, too busy, or the time ran out */
};

#define CLI_EXIT_DOC                                                                                                   \
    "\nExit status: 0 done; 1 error; 2 wrong usage; 3 no such object or version; 4 the condition does not hold; "      \
    "5 the store cannot be reached, has no quorum or is too busy.\n"                                                   \
    "Environment: SLUICE_URL (default http://127.0.0.1:8080), SLUICE_TOKEN (a bearer token), SLUICE_CA (a file of "    \
    "certificates to trust)."
#define CLI_TIME_DOC                                                                                                   \
    "TIME is RFC 3339 (2026-11-23T02:40:00.5Z), nanoseconds since 1970, \"now\", or an age: -90s, -5m, -2h, -1d.\n"

/* Options that every command takes. Place it in the command's own structure and hand it to cli_common_child through
 * state->child_inputs. */
struct cli_common {
    const char *command; /* "sluice put", for messages */
    char url[512];       /* without a slash at its end */
    bool json;
    uint32_t timeout_ms;
};
extern const struct argp_child cli_common_child[];

/* Parses a command's line; --help and mistakes end the process. `input` begins with a struct cli_common. */
void cli_parse(const struct argp *argp, int argc, char **argv, void *input);
/* "sluice: WHAT" on standard error, with characters that could drive a terminal taken out. */
void cli_complain(const struct cli_common *common, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Ends the process: there is nothing that a CLI could do better without memory. */
void *cli_must(void *memory);
void cli_must_status(enum sluice_status status);

/* A TIME argument as the server takes it, into `out`; a wrong one ends the process as a usage error. */
#define CLI_TIME_BYTES 32
void cli_time(const struct argp_state *state, const char *text, char out[CLI_TIME_BYTES]);
/* A decimal number from `low` to `high`; a wrong one ends the process as a usage error. */
uint64_t cli_number(const struct argp_state *state, const char *name, const char *text, uint64_t low, uint64_t high);
/* The content type that a file's extension stands for. */
const char *cli_content_type(const char *path);

/* Percent-encodes: all but unreserved characters, and the slash where `slashes`. */
void cli_encode(struct bytes *out, const char *text, bool slashes);
/* Appends ?NAME=VALUE or &NAME=VALUE, encoded. A NULL value is left out. */
void cli_query(struct bytes *url, const char *name, const char *value);
/* The path of an object, without the one leading slash that keys may have. */
void cli_key_path(struct bytes *out, const char *prefix, const char *key);
/* The bytes as a C string, borrowed. */
const char *cli_text(struct bytes *bytes);

/* --- Showing ---------------------------------------------------------------------------------------------------- */

/* One compact JSON document and a line feed. */
void cli_print_json(const json_t *json);
/* Text for people: control characters become `?`. */
void cli_print_text(FILE *file, const char *text, size_t size);
/* A member as text, whether it came as a number or a string; "-" where there is none. `scratch` holds numbers. */
#define CLI_NUMBER_BYTES 24
const char *cli_member(const json_t *object, const char *name, char scratch[CLI_NUMBER_BYTES]);
/* 1536 is "1.5 KiB". */
void cli_size_text(uint64_t size, char out[CLI_NUMBER_BYTES]);
void cli_member_size(const json_t *object, const char *name, char out[CLI_NUMBER_BYTES]);

/* Rows of cells, shown in columns as wide as they need. The first row is the heading. */
struct cli_table {
    size_t columns;
    char **cells;
    size_t count, capacity;
};
void cli_table_cell(struct cli_table *self, const char *text);
/* Prints and empties it. */
void cli_table_print(struct cli_table *self);

/* Decodes base64 into `out`; false where it is none. */
bool cli_base64_decode(const char *text, struct bytes *out);
void cli_base64_encode(const void *data, size_t size, struct bytes *out);
/* The whole of a file, or of standard input for "-"; false after a complaint. */
bool cli_read_file(const struct cli_common *common, const char *path, struct bytes *out);

/* --- Commands, each in a file of its group ----------------------------------------------------------------------- */

int cli_put(int argc, char **argv);
int cli_get(int argc, char **argv);
int cli_rm(int argc, char **argv);
int cli_ls(int argc, char **argv);
int cli_history(int argc, char **argv);
int cli_snapshot(int argc, char **argv);
int cli_watch(int argc, char **argv);
int cli_pool(int argc, char **argv);
int cli_lambda(int argc, char **argv);
int cli_cluster(int argc, char **argv);
int cli_up(int argc, char **argv);

struct cli_command {
    const char *name, *summary;
    int (*run)(int argc, char **argv);
};
/* Runs the command that argv[1] names, of a list that ends with a NULL name; `about` introduces the list. argv[1]
 * becomes "PARENT NAME". */
int cli_dispatch(const char *parent, const char *about, const struct cli_command *commands, int argc, char **argv);

#endif
