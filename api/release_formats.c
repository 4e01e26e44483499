#include "api/release.h"

const struct release_formats *release_formats_at(uint32_t level)
{
    const struct release_formats *found = &sluice_release.formats[0];
    for (uint32_t i = 1; i < sluice_release.format_count && sluice_release.formats[i].level <= level; i++)
        found = &sluice_release.formats[i];
    return found;
}

const struct release_formats *release_formats_latest(void)
{
    return &sluice_release.formats[sluice_release.format_count - 1];
}
