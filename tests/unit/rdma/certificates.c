#include "tests/unit/rdma/certificates.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define DAY_S (24 * 60 * 60)

struct authority {
    EVP_PKEY *key;
    X509 *certificate;
    char path[32];
};
static struct authority authorities[AUTHORITY_COUNT];

/* Written to by `file`, and open for as long as the process lives. */
static FILE *file_create(char path[32])
{
    int fd = memfd_create("certificate", 0);
    cr_assert_geq(fd, 0);
    (void)snprintf(path, 32, "/proc/self/fd/%d", fd);
    FILE *file = fopen(path, "w");
    cr_assert_not_null(file);
    return file;
}

const char *certificate_file(const char *text, char path[32])
{
    FILE *file = file_create(path);
    (void)fputs(text, file);
    (void)fclose(file);
    return path;
}

static void extend(X509 *certificate, X509 *issuer, int what, const char *value)
{
    X509V3_CTX context;
    X509V3_set_ctx(&context, issuer, certificate, NULL, NULL, 0);
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &context, what, value);
    cr_assert_not_null(extension, "%s", value);
    cr_assert_eq(X509_add_ext(certificate, extension, -1), 1);
    X509_EXTENSION_free(extension);
}

static X509 *make(EVP_PKEY *key, const char *name, long from_s, long to_s, X509 *issuer)
{
    static long serial;
    X509 *certificate = X509_new();
    cr_assert_not_null(certificate);
    cr_assert_eq(X509_set_version(certificate, 2), 1);
    cr_assert_eq(ASN1_INTEGER_set(X509_get_serialNumber(certificate), ++serial), 1);
    X509_gmtime_adj(X509_getm_notBefore(certificate), from_s);
    X509_gmtime_adj(X509_getm_notAfter(certificate), to_s);
    X509_NAME *subject = X509_get_subject_name(certificate);
    X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8, (const unsigned char *)name, -1, -1, 0);
    X509_set_issuer_name(certificate, issuer ? X509_get_subject_name(issuer) : subject);
    X509_set_pubkey(certificate, key);
    return certificate;
}

static struct authority *authority_of(unsigned which)
{
    struct authority *self = &authorities[which];
    cr_assert_lt(which, AUTHORITY_COUNT);
    if (self->key)
        return self;
    self->key = EVP_EC_gen("P-256");
    cr_assert_not_null(self->key);
    self->certificate =
        make(self->key, which == AUTHORITY_OURS ? "our authority" : "their authority", -DAY_S, DAY_S, NULL);
    extend(self->certificate, self->certificate, NID_basic_constraints, "critical,CA:TRUE");
    extend(self->certificate, self->certificate, NID_key_usage, "critical,keyCertSign");
    cr_assert_gt(X509_sign(self->certificate, self->key, EVP_sha256()), 0);
    FILE *file = file_create(self->path);
    cr_assert_eq(PEM_write_X509(file, self->certificate), 1);
    (void)fclose(file);
    return self;
}

struct certificate certificate_make(struct certificate_options options)
{
    struct certificate out;
    struct authority *authority = authority_of(options.authority);
    EVP_PKEY *key = EVP_EC_gen("P-256");
    cr_assert_not_null(key);
    X509 *certificate = make(key, "a node", -2 * DAY_S, options.expired ? -DAY_S : DAY_S, authority->certificate);
    extend(certificate, authority->certificate, NID_ext_key_usage,
           options.purposes ? options.purposes : "serverAuth,clientAuth");
    cr_assert_gt(X509_sign(certificate, authority->key, EVP_sha256()), 0);
    FILE *file = file_create(out.path);
    cr_assert_eq(PEM_write_X509(file, certificate), 1);
    (void)fclose(file);
    file = file_create(out.key_path);
    cr_assert_eq(PEM_write_PrivateKey(file, key, NULL, NULL, 0, NULL, NULL), 1);
    (void)fclose(file);
    X509_free(certificate);
    EVP_PKEY_free(key);
    return out;
}

const char *certificate_authority(unsigned authority)
{
    return authority_of(authority)->path;
}

const char *certificate_authorities(void)
{
    static char path[32];
    FILE *file = file_create(path);
    for (unsigned i = 0; i < AUTHORITY_COUNT; i++)
        cr_assert_eq(PEM_write_X509(file, authority_of(i)->certificate), 1);
    (void)fclose(file);
    return path;
}
