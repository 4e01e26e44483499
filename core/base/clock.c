#include "core/base/clock.h"

#include <stdio.h>
#include <time.h>

#include "core/base/panic.h"

static uint64_t clock_read(clockid_t id)
{
    struct timespec now;
    int rc = clock_gettime(id, &now);
    ASSERT(rc == 0 && now.tv_sec >= 0);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

uint64_t clock_monotonic_ns(void)
{
    return clock_read(CLOCK_BOOTTIME);
}

uint64_t clock_realtime_ns(void)
{
    return clock_read(CLOCK_REALTIME);
}

uint64_t hlc_now(struct hlc *clock, uint64_t wall_ns)
{
    ASSERT(clock->last < UINT64_MAX);
    clock->last = wall_ns > clock->last ? wall_ns : clock->last + 1;
    return clock->last;
}

void hlc_merge(struct hlc *clock, uint64_t seen)
{
    if (seen > clock->last)
        clock->last = seen;
}

#define DAY_S        UINT64_C(86400)
#define DAYS_TO_1970 719468u /* from 1 March of year 0 */

/* Days since 1970 in the proleptic Gregorian calendar. Years begin in March here, so that a leap day is a year's last
 * (Hinnant, "chrono-Compatible Low-Level Date Algorithms"). */
static uint64_t days_from_date(uint64_t year, uint64_t month, uint64_t day)
{
    year -= month <= 2;
    uint64_t era = year / 400;
    uint64_t year_of_era = year % 400;
    uint64_t day_of_year = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1;
    uint64_t day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    return era * 146097 + day_of_era - DAYS_TO_1970;
}

void clock_format_rfc3339(uint64_t time_ns, char out[CLOCK_TEXT_BYTES])
{
    uint64_t seconds = time_ns / NS_PER_S;
    uint64_t days = seconds / DAY_S + DAYS_TO_1970;
    uint64_t second_of_day = seconds % DAY_S;

    uint64_t day_of_era = days % 146097;
    uint64_t year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    uint64_t day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    uint64_t month_from_march = (5 * day_of_year + 2) / 153;
    uint64_t day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    uint64_t month = month_from_march < 10 ? month_from_march + 3 : month_from_march - 9;
    uint64_t year = days / 146097 * 400 + year_of_era + (month <= 2);

    /* UINT64_MAX lies in the year 2554: the casts below lose nothing. */
    int length = snprintf(out, CLOCK_TEXT_BYTES, "%04u-%02u-%02uT%02u:%02u:%02u.%09uZ", (unsigned)year, (unsigned)month,
                          (unsigned)day, (unsigned)(second_of_day / 3600), (unsigned)(second_of_day / 60 % 60),
                          (unsigned)(second_of_day % 60), (unsigned)(time_ns % NS_PER_S));
    ASSERT(length == 30);
}

/* What is left of a text to parse. */
struct cursor {
    const char *at;
    const char *end;
};

static bool take_char(struct cursor *self, const char *any_of)
{
    if (self->at == self->end)
        return false;
    for (; *any_of != '\0'; any_of++)
        if (*self->at == *any_of) {
            self->at++;
            return true;
        }
    return false;
}

static bool take_digits(struct cursor *self, unsigned count, uint64_t min, uint64_t max, uint64_t *out)
{
    uint64_t value = 0;
    for (; count > 0; count--) {
        if (self->at == self->end || *self->at < '0' || *self->at > '9')
            return false;
        value = value * 10 + (uint64_t)(*self->at++ - '0');
    }
    *out = value;
    return value >= min && value <= max;
}

static bool parse_decimal(struct cursor text, uint64_t *out)
{
    uint64_t value = 0;
    do {
        uint64_t digit;
        if (!take_digits(&text, 1, 0, 9, &digit) || __builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, digit, &value))
            return false;
    } while (text.at < text.end);
    *out = value;
    return true;
}

static bool take_date(struct cursor *text, uint64_t *out_days)
{
    static const uint8_t month_days[] = {0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    uint64_t year, month, day;
    if (!take_digits(text, 4, 1969, 9999, &year) || !take_char(text, "-") || !take_digits(text, 2, 1, 12, &month) ||
        !take_char(text, "-") || !take_digits(text, 2, 1, 31, &day))
        return false;
    bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    if (day > (uint64_t)month_days[month] + (month == 2 && leap))
        return false;
    *out_days = days_from_date(year, month, day);
    return true;
}

static bool take_fraction(struct cursor *text, uint64_t *out_ns)
{
    *out_ns = 0;
    if (!take_char(text, "."))
        return true;
    unsigned digits = 0;
    uint64_t digit;
    while (digits < 9 && take_digits(text, 1, 0, 9, &digit)) {
        *out_ns = *out_ns * 10 + digit;
        digits++;
    }
    if (digits == 0)
        return false;
    for (; digits < 9; digits++)
        *out_ns *= 10;
    return true; /* a tenth decimal is no zone, so it is refused there */
}

/* Seconds to add to local time to get UTC. */
static bool take_zone(struct cursor *text, int64_t *out_s)
{
    *out_s = 0;
    if (take_char(text, "Zz"))
        return true;
    bool east = take_char(text, "+");
    uint64_t hours, minutes;
    if ((!east && !take_char(text, "-")) || !take_digits(text, 2, 0, 23, &hours) || !take_char(text, ":") ||
        !take_digits(text, 2, 0, 59, &minutes))
        return false;
    int64_t offset = (int64_t)(hours * 3600 + minutes * 60);
    *out_s = east ? -offset : offset;
    return true;
}

static bool parse_rfc3339(struct cursor text, uint64_t *out)
{
    uint64_t days, hour, minute, second, fraction_ns;
    int64_t to_utc_s;
    if (!take_date(&text, &days) || !take_char(&text, "Tt") || !take_digits(&text, 2, 0, 23, &hour) ||
        !take_char(&text, ":") || !take_digits(&text, 2, 0, 59, &minute) || !take_char(&text, ":") ||
        !take_digits(&text, 2, 0, 60, &second) || !take_fraction(&text, &fraction_ns) || !take_zone(&text, &to_utc_s) ||
        text.at != text.end)
        return false;

    /* `days` wraps below zero in 1969, which a zone may bring back into range. */
    int64_t seconds = (int64_t)(days * DAY_S + hour * 3600 + minute * 60 + second) + to_utc_s;
    if (seconds < 0)
        return false;
    /* A leap second ends a day of UTC; it counts as the next day's first, as POSIX has it. */
    if (second == 60 && (uint64_t)seconds % DAY_S != 0)
        return false;
    return !__builtin_mul_overflow((uint64_t)seconds, NS_PER_S, out) && !__builtin_add_overflow(*out, fraction_ns, out);
}

bool clock_parse(const char *text, size_t len, uint64_t *out_ns)
{
    struct cursor cursor = {text, text + len};
    uint64_t value;
    if (!parse_rfc3339(cursor, &value) && !parse_decimal(cursor, &value))
        return false;
    *out_ns = value;
    return true;
}
