/* Reads histories from files (or standard input) and says whether each is linearizable: linear [--steps MOST] [FILE…]
 *
 * Exit status: 0 all are; 1 one is not; 2 one could not be decided or read; 64 wrong use. */
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "tests/check/check.h"

static int check_file(const char *name, FILE *file, uint64_t steps_max)
{
    struct check_history history;
    struct check_result result;
    char error[256];
    check_history_init(&history);
    if (!check_history_read(&history, file, error, sizeof(error))) {
        fprintf(stderr, "%s: %s\n", name, error);
        check_history_free(&history);
        return 2;
    }
    size_t unknown = 0;
    for (size_t i = 0; i < history.count; i++)
        unknown += history.operations[i].outcome == CHECK_UNKNOWN;
    check_linearizable(&history, steps_max, &result);
    if (result.verdict == CHECK_GOOD)
        printf("%s: linearizable: %zu operations (%zu with unknown outcome) on %zu keys, %llu steps\n", name,
               history.count, unknown, result.keys, (unsigned long long)result.steps);
    else
        printf("%s: %s\n", name, result.text);
    check_history_free(&history);
    return result.verdict == CHECK_GOOD ? 0 : result.verdict == CHECK_BAD ? 1 : 2;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"steps", required_argument, NULL, 's'}, {0}};
    uint64_t steps_max = CHECK_STEPS_MAX;
    int option, worst = 0;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (option != 's')
            return 64;
        steps_max = strtoull(optarg, NULL, 10);
    }
    if (optind == argc)
        return check_file("-", stdin, steps_max);
    for (int i = optind; i < argc; i++) {
        FILE *file = fopen(argv[i], "r");
        if (file == NULL) {
            fprintf(stderr, "%s: %s\n", argv[i], strerror(errno));
            return 2;
        }
        int status = check_file(argv[i], file, steps_max);
        worst = worst == 1 || status == 0 ? worst : status;
        fclose(file);
    }
    return worst;
}
