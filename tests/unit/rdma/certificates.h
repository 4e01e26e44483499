/* Certificates for tests, made on the spot and kept in memory: the paths are of open descriptors. */
#ifndef TEST_CERTIFICATES_H
#define TEST_CERTIFICATES_H

#include <stdbool.h>

enum { AUTHORITY_OURS, AUTHORITY_THEIRS, AUTHORITY_COUNT };

struct certificate_options {
    unsigned authority;   /* who signs */
    bool expired;         /* yesterday */
    const char *purposes; /* extended key usage; NULL: "serverAuth,clientAuth" */
};
struct certificate {
    char path[32], key_path[32];
};
struct certificate certificate_make(struct certificate_options options);
/* The file of one authority's certificate, or of all. */
const char *certificate_authority(unsigned authority);
const char *certificate_authorities(void);
/* A file that holds `text`. */
const char *certificate_file(const char *text, char path[32]);

#endif
