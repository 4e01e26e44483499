#include <criterion/criterion.h>
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fake.h"

struct answer {
    atomic_bool there;
    enum sluice_status status;
    char text[1024];
};

static void take_answer(void *arg, enum sluice_status status, const char *text)
{
    struct answer *answer = arg;
    answer->status = status;
    snprintf(answer->text, sizeof(answer->text), "%s", text);
    atomic_store(&answer->there, true);
}

struct trial {
    struct fake *fake;
    struct lambda_host *host;
};

static struct trial trial_create(uint64_t check_ns)
{
    struct trial trial = {.fake = fake_create()};
    struct lambda_host_options options = fake_options(trial.fake);
    options.check_ns = check_ns;
    char error[256];
    cr_assert_eq(lambda_host_create(&options, &trial.host, error, sizeof(error)), SLUICE_OK, "%s", error);
    return trial;
}

static void trial_destroy(struct trial *trial)
{
    lambda_host_destroy(trial->host);
    fake_destroy(trial->fake);
}

static void expect(struct trial *trial, struct buf *file, const char *config, enum sluice_status status,
                   const char *words)
{
    struct answer answer = {0};
    cr_assert_eq(lambda_host_check(trial->host, file, config, strlen(config), take_answer, &answer), SLUICE_OK);
    EVENTUALLY(atomic_load(&answer.there), "%s: no answer", config);
    cr_expect_eq(answer.status, status, "%s: %s", config, answer.text);
    cr_expect_not_null(strstr(answer.text, words), "%s: said \"%s\", not \"%s\"", config, answer.text, words);
}

static void refused(struct trial *trial, const char *name, const char *config, const char *words)
{
    struct buf *file = fixture_read(fixture(name));
    expect(trial, file, config, SLUICE_UNPROCESSABLE, words);
    buf_unref(file);
}

Test(check, a_good_one_gives_its_watches)
{
    struct trial trial = trial_create(5 * NS_PER_S);
    struct buf *file = fixture_read(fixture("tries"));
    expect(&trial, file, "{}", SLUICE_OK, "{\"watches\":[{\"kind\":3,\"pattern\":\"farm/**\"}]}");
    expect(&trial, file, "", SLUICE_OK, "{\"watches\":[{\"kind\":3,\"pattern\":\"farm/**\"}]}");
    expect(&trial, file, "{\"two\":1}", SLUICE_OK,
           "{\"watches\":[{\"kind\":3,\"pattern\":\"farm/**\"},{\"kind\":1,\"pattern\":\"farm/\\\"gate\\\"\"}]}");
    buf_unref(file);
    trial_destroy(&trial);
}

Test(check, initialize_is_heard_in_its_own_words)
{
    struct trial trial = trial_create(5 * NS_PER_S);
    refused(&trial, "tries", "{\"refuse\":1}", "initialize refused: threshold must be below 100%");
    refused(&trial, "tries", "{\"silent\":1}", "initialize returned 3 and said nothing");
    refused(&trial, "tries", "{\"no watch\":1}", "registered no watch");
    refused(&trial, "tries", "{\"bad regex\":1}",
            "watch \"farm/(cow\": bad regular expression at its end, character 9");
    trial_destroy(&trial);
}

Test(check, whatever_it_does_it_does_to_itself)
{
    struct trial trial = trial_create(5 * NS_PER_S);
    refused(&trial, "tries", "{\"segv\":1}", "initialize crashed with SIGSEGV");
    refused(&trial, "tries", "{\"abort\":1}", "initialize crashed with SIGABRT");
    refused(&trial, "tries", "{\"exit\":1}", "initialize ended the process with exit code 3");
    refused(&trial, "tries", "{\"leave\":1}", "initialize ended the process");
    refused(&trial, "tries", "{\"shutdown\":1}", "shutdown crashed with SIGBUS");
    refused(&trial, "constructor", "{}", "loading it (its constructors) crashed with SIGFPE");
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    refused(&trial, "tries", "{\"hungry\":1}", "initialize refused: no memory after");
#endif
    trial_destroy(&trial);
}

Test(check, one_that_does_not_return_is_ended)
{
    struct trial trial = trial_create(700 * NS_PER_MS);
    uint64_t start = clock_monotonic_ns();
    refused(&trial, "tries", "{\"loop\":1}", "initialize did not return within 0.7 s");
    refused(&trial, "tries", "{\"spin\":1}", "initialize did not return within 0.7 s");
    cr_assert_geq(clock_monotonic_ns() - start, 1400 * NS_PER_MS);
    trial_destroy(&trial);
}

Test(check, what_it_starts_ends_with_it)
{
    struct trial trial = trial_create(700 * NS_PER_MS);
    struct answer answer = {0};
    struct buf *file = fixture_read(fixture("tries"));
    cr_assert_eq(lambda_host_check(trial.host, file, "{\"fork\":1}", 10, take_answer, &answer), SLUICE_OK);
    EVENTUALLY(atomic_load(&answer.there), "answered though its child holds the pipe");
    buf_unref(file);
    trial_destroy(&trial);
}

Test(check, the_loader_is_heard_in_its_own_words)
{
    struct trial trial = trial_create(5 * NS_PER_S);
    refused(&trial, "undefined", "{}", "undefined symbol: milk_the_cows");
    refused(&trial, "no_symbol", "{}", "does not export sluice_lambda_initialize");
    refused(&trial, "newer_abi", "{}", "built for version 2 of the lambda ABI, this node offers version 1");
    trial_destroy(&trial);
}

Test(check, a_file_that_cannot_be_a_lambda_is_named_for_what_it_is)
{
    struct trial trial = trial_create(5 * NS_PER_S);
    static const struct {
        const char *bytes;
        size_t size;
        const char *words;
    } files[] = {
        {"", 0, "the file is empty"},
        {"int main(void)\n{\n}\n", 19, "this is a text file"},
        {"#!/bin/sh\n", 10, "this is a script"},
        {"!<arch>\n1234", 12, "this is a static archive"},
        {"PK\003\004....", 8, "this is a zip archive"},
        {"\001\002\003\004\005\006\007\010", 8, "this is no ELF file"},
        {"\177ELF\002\001\001", 7, "ends within its header"},
    };
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        struct buf *file = buf_dup(files[i].bytes, (uint32_t)files[i].size);
        expect(&trial, file, "{}", SLUICE_UNPROCESSABLE, files[i].words);
        buf_unref(file);
    }
    trial_destroy(&trial);
}

Test(check, a_file_for_another_machine_is_named)
{
    struct trial trial = trial_create(5 * NS_PER_S);
    struct buf *file = fixture_read(fixture("tries"));
    Elf64_Ehdr *header = (Elf64_Ehdr *)(void *)file->data, whole = *header;
#if defined(__x86_64__)
    header->e_machine = EM_AARCH64;
    expect(&trial, file, "{}", SLUICE_UNPROCESSABLE, "built for AArch64, this node is x86-64");
#endif
    header->e_machine = 4711;
    expect(&trial, file, "{}", SLUICE_UNPROCESSABLE, "built for machine 4711");
    *header = whole;
    header->e_ident[EI_CLASS] = ELFCLASS32;
    expect(&trial, file, "{}", SLUICE_UNPROCESSABLE, "built for the 32-bit kind of");
    *header = whole;
    header->e_ident[EI_DATA] = header->e_ident[EI_DATA] == ELFDATA2LSB ? ELFDATA2MSB : ELFDATA2LSB;
    expect(&trial, file, "{}", SLUICE_UNPROCESSABLE, "-endian machine");
    *header = whole;
    header->e_type = ET_REL;
    expect(&trial, file, "{}", SLUICE_UNPROCESSABLE, "this is an object file (.o)");
    header->e_type = ET_EXEC;
    expect(&trial, file, "{}", SLUICE_UNPROCESSABLE, "this is a program");
    *header = whole;
    file->size = 4096;
    expect(&trial, file, "{}", SLUICE_UNPROCESSABLE, "was it cut off?");
    buf_unref(file);
    trial_destroy(&trial);
}

Test(check, few_run_at_a_time_and_all_end_with_the_host)
{
    struct trial trial = trial_create(60 * NS_PER_S);
    struct buf *file = fixture_read(fixture("tries"));
    struct answer answers[5] = {0};
    for (int i = 0; i < 4; i++)
        cr_assert_eq(lambda_host_check(trial.host, file, "{\"loop\":1}", 10, take_answer, &answers[i]), SLUICE_OK);
    cr_assert_eq(lambda_host_check(trial.host, file, "{}", 2, take_answer, &answers[4]), SLUICE_BUSY);
    uint64_t start = clock_monotonic_ns();
    trial_destroy(&trial);
    cr_assert_lt(clock_monotonic_ns() - start, 10 * NS_PER_S, "their processes are killed");
    for (int i = 0; i < 4; i++)
        cr_assert(atomic_load(&answers[i].there) && answers[i].status == SLUICE_CLOSED);
    cr_assert_not(atomic_load(&answers[4].there));
    buf_unref(file);
}

Test(check, the_helper_says_what_it_is_to_people)
{
    char *arguments[] = {"sluice", "--lambda-check", NULL};
    cr_assert_eq(lambda_check_main(2, arguments), 2);
}
