/* The simulator's command line: one seed, or many.
 *
 * sim [--seed N] [--seeds COUNT | --minutes M] [--steps EVENTS] [--verbose] */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "tests/sim/sim.h"

#define COUNT(number) ((unsigned long long)(number))

static void add(struct sim_totals *all, const struct sim_totals *run)
{
#define SIM_TOTAL(name, text) all->name += run->name;
    SIM_TOTALS(SIM_TOTAL)
#undef SIM_TOTAL
}

static void print(const struct sim_totals *totals)
{
    const char *between = "";
#define SIM_TOTAL(name, text)                                                                                          \
    if (totals->name > 0) {                                                                                            \
        printf("%s%llu %s", between, COUNT(totals->name), text);                                                       \
        between = ", ";                                                                                                \
    }
    SIM_TOTALS(SIM_TOTAL)
#undef SIM_TOTAL
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* A broken invariant of the code ends the process where it stands; the seed is what brings it back. */
static void aborted(int number)
{
    fprintf(stderr, "the seed that shows it again: %llu\n", COUNT(sim.seed));
    signal(number, SIG_DFL);
    raise(number);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"seed", required_argument, NULL, 's'},    {"seeds", required_argument, NULL, 'n'},
        {"minutes", required_argument, NULL, 'm'}, {"steps", required_argument, NULL, 't'},
        {"verbose", no_argument, NULL, 'v'},       {0}};
    uint64_t seed = 1, seeds = 1, steps = 20000, done = 0;
    double minutes = 0, begin = seconds();
    struct sim_totals totals = {0};
    int option;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (option == 's')
            seed = strtoull(optarg, NULL, 10);
        else if (option == 'n')
            seeds = strtoull(optarg, NULL, 10);
        else if (option == 'm')
            minutes = strtod(optarg, NULL);
        else if (option == 't')
            steps = strtoull(optarg, NULL, 10);
        else if (option == 'v')
            sim.verbose = true;
        else
            return 64;
    }
    if (minutes > 0)
        seeds = UINT64_MAX;
    log_set_level(LOG_LEVEL_NONE);
    signal(SIGABRT, aborted);
    signal(SIGSEGV, aborted);
    for (; done < seeds && (minutes <= 0 || seconds() - begin < 60 * minutes); done++) {
        sim_run_seed(seed + done, steps);
        sim_check_history();
        sim_check_end();
        sim_check_users();
        add(&totals, &sim.totals);
        if (seeds == 1) {
            printf("seed %llu: ", COUNT(seed));
            print(&sim.totals);
            printf(", trace %016llx\n", COUNT(sim.trace));
        } else if ((done + 1) % 100 == 0) {
            printf("%llu seeds: %llu operations\n", COUNT(done + 1), COUNT(totals.operations));
            fflush(stdout);
        }
        sim_clear();
    }
    printf("seeds %llu to %llu: ", COUNT(seed), COUNT(seed + done - 1));
    print(&totals);
    printf(": no violation\n");
    return 0;
}
