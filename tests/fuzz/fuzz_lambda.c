/* Any bytes as an uploaded lambda: looked at before the loader sees them; an answer in words or none, and no byte
 * beyond the end. */
#include <stdlib.h>
#include <string.h>

#include "core/lambda/lambda__.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char words[LAMBDA__ERROR_BYTES] = "";
    const char *error = lambda__file_error(data, size, words);
    ASSERT(error == NULL || (error == words && words[0] != '\0' && strlen(words) < sizeof(words)));
    ASSERT(error != NULL || size >= 64);
    return 0;
}
