/* sluice: the command line. Picks the command and lists what there is; each group of commands has a file. */
#include <string.h>

#include "cli/http.h"
#include "core/node/node.h"

static int version(int argc, char **argv)
{
    (void)argv;
    if (argc > 1) {
        fprintf(stderr, "sluice version: no argument was expected\n");
        return CLI_USAGE;
    }
    puts("sluice " CLI_RELEASE);
    return CLI_OK;
}

static const struct cli_command commands[] = {
    {"up", "start a store on this machine: one node, or several", cli_up},
    {"put", "write an object", cli_put},
    {"get", "read an object, now or as it was", cli_get},
    {"rm", "delete an object; its versions stay", cli_rm},
    {"ls", "list objects", cli_ls},
    {"history", "list an object's versions", cli_history},
    {"watch", "follow changes as they happen", cli_watch},
    {"snapshot", "read many objects at one instant", cli_snapshot},
    {"pool", "pools and their policies", cli_pool},
    {"lambda", "code that the store runs when objects change", cli_lambda},
    {"cluster", "nodes, shards, leaders, lag", cli_cluster},
    {"version", "this program's version", version},
    {0},
};

static void list(FILE *file, const char *parent, const char *about, const struct cli_command *of)
{
    fprintf(file, "Usage: %s COMMAND [ARGUMENT...]\n%s\n", parent, about);
    for (const struct cli_command *command = of; command->name != NULL; command++)
        fprintf(file, "  %-10s %s\n", command->name, command->summary);
    fprintf(file, "\n\"%s COMMAND --help\" explains a command, with examples.\n", parent);
}

int cli_dispatch(const char *parent, const char *about, const struct cli_command *of, int argc, char **argv)
{
    if (argc < 2) {
        list(stderr, parent, about, of);
        return CLI_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
        if (argc < 3) {
            list(stdout, parent, about, of);
            return CLI_OK;
        }
        argv[1] = argv[2]; /* sluice help put */
        argv[2] = (char *)(uintptr_t) "--help";
    }
    for (const struct cli_command *command = of; command->name != NULL; command++) {
        if (strcmp(argv[1], command->name) != 0)
            continue;
        struct bytes name = {0};
        cli_must_status(bytes_printf(&name, "%s %s", parent, command->name));
        argv[1] = (char *)(uintptr_t)cli_text(&name);
        int code = command->run(argc - 1, argv + 1);
        bytes_free(&name);
        return code;
    }
    fprintf(stderr, "%s: there is no command \"%s\"; \"%s --help\" lists them\n", parent, argv[1], parent);
    return CLI_USAGE;
}

int main(int argc, char **argv)
{
    int helper = node_helper_main(argc, argv); /* "sluice up" holds a node */
    if (helper >= 0)
        return helper;
    if (argc == 2 && strcmp(argv[1], "--version") == 0)
        argv[1] = (char *)(uintptr_t) "version";
    int code = cli_dispatch("sluice",
                            "Sluice keeps every version of your objects, tells you when they change, and runs your "
                            "code on them.\n",
                            commands, argc, argv);
    /* A full disk or a closed pipe behind standard output is a failure too. */
    if ((fflush(stdout) != 0 || ferror(stdout)) && code == CLI_OK) {
        fprintf(stderr, "sluice: standard output cannot be written\n");
        code = CLI_ERROR;
    }
    return code;
}
