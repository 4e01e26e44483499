#include "api/sluice_status.h"

struct status_properties {
    uint32_t number;
    int http;
    int grpc;
    const char *code;
    const char *text;
};

static const struct status_properties table[] = {
#define ROW(name, number, http, grpc, code, text) {number, http, grpc, code, text},
    SLUICE_STATUS_TABLE(ROW)
#undef ROW
};

/* A switch, not an index: the numbers have gaps, and the compiler refuses a number that is given twice. */
static int row_of(uint32_t number)
{
    enum row {
#define ROW(name, number, http, grpc, code, text) ROW_##name,
        SLUICE_STATUS_TABLE(ROW)
#undef ROW
    };
    switch (number) {
#define ROW(name, number, http, grpc, code, text)                                                                      \
    case number:                                                                                                       \
        return ROW_##name;
        SLUICE_STATUS_TABLE(ROW)
#undef ROW
    default:
        return -1;
    }
}

static const struct status_properties *properties_of(enum sluice_status status)
{
    int row = row_of((uint32_t)status);
    return &table[row >= 0 ? row : row_of(SLUICE_INTERNAL)];
}

const char *sluice_status_text(enum sluice_status status)
{
    return properties_of(status)->text;
}

const char *sluice_status_code(enum sluice_status status)
{
    return properties_of(status)->code;
}

int sluice_status_http(enum sluice_status status)
{
    return properties_of(status)->http;
}

int sluice_status_grpc(enum sluice_status status)
{
    return properties_of(status)->grpc;
}

bool sluice_status_known(uint32_t number)
{
    return row_of(number) >= 0;
}
