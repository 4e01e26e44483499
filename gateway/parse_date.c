/* HTTP dates, by arithmetic: no locale and no time zone of the process has a say. */
#include <string.h>

#include "gateway/parse.h"

static const char days[7][10] = {"Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"};
static const char months[12][4] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};

/* Days since 1970-01-01 of a date of the proleptic Gregorian calendar (H. Hinnant, "chrono-compatible low-level date
 * algorithms"). */
static int64_t days_from_civil(int64_t year, unsigned month, unsigned day)
{
    year -= month <= 2;
    int64_t era = (year >= 0 ? year : year - 399) / 400;
    int64_t of_era = year - era * 400;
    int64_t of_year = (153 * ((int64_t)month + (month > 2 ? -3 : 9)) + 2) / 5 + (int64_t)day - 1;
    return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

static bool number(const char **text, int digits, unsigned *out)
{
    *out = 0;
    for (int i = 0; i < digits; i++, (*text)++) {
        if (**text < '0' || **text > '9')
            return false;
        *out = *out * 10 + (unsigned)(**text - '0');
    }
    return true;
}

static bool literal(const char **text, const char *expected)
{
    size_t size = strlen(expected);
    if (strncmp(*text, expected, size) != 0)
        return false;
    *text += size;
    return true;
}

static bool month_name(const char **text, unsigned *out)
{
    for (unsigned i = 0; i < 12; i++) {
        if (literal(text, months[i])) {
            *out = i + 1;
            return true;
        }
    }
    return false;
}

struct moment {
    unsigned year, month, day, hour, minute, second;
};

static bool clock_time(const char **text, struct moment *out)
{
    return number(text, 2, &out->hour) && literal(text, ":") && number(text, 2, &out->minute) && literal(text, ":") &&
           number(text, 2, &out->second);
}

/* "Sun, 06 Nov 1994 08:49:37 GMT" */
static bool fixed_form(const char *text, struct moment *out)
{
    return literal(&text, ", ") && number(&text, 2, &out->day) && literal(&text, " ") &&
           month_name(&text, &out->month) && literal(&text, " ") && number(&text, 4, &out->year) &&
           literal(&text, " ") && clock_time(&text, out) && literal(&text, " GMT") && *text == '\0';
}

/* "Sunday, 06-Nov-94 08:49:37 GMT": two digits are the year of that ending at most 50 years ahead. */
static bool rfc850_form(const char *text, struct moment *out)
{
    if (!(literal(&text, ", ") && number(&text, 2, &out->day) && literal(&text, "-") &&
          month_name(&text, &out->month) && literal(&text, "-") && number(&text, 2, &out->year) &&
          literal(&text, " ") && clock_time(&text, out) && literal(&text, " GMT") && *text == '\0'))
        return false;
    out->year += out->year < 77 ? 2000 : 1900;
    return true;
}

/* "Sun Nov  6 08:49:37 1994" */
static bool asctime_form(const char *text, struct moment *out)
{
    if (!literal(&text, " ") || !month_name(&text, &out->month) || !literal(&text, " "))
        return false;
    bool single = literal(&text, " ");
    return number(&text, single ? 1 : 2, &out->day) && literal(&text, " ") && clock_time(&text, out) &&
           literal(&text, " ") && number(&text, 4, &out->year) && *text == '\0';
}

bool parse_http_date(const char *text, int64_t *out_seconds)
{
    struct moment moment = {0};
    for (size_t i = 0; i < 7; i++) {
        size_t full = strlen(days[i]);
        if (strncmp(text, days[i], 3) != 0)
            continue;
        if (!fixed_form(text + 3, &moment) && !asctime_form(text + 3, &moment) &&
            (strncmp(text, days[i], full) != 0 || !rfc850_form(text + full, &moment)))
            return false;
        static const unsigned char lengths[] = {31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
        bool leap = (moment.year % 4 == 0 && moment.year % 100 != 0) || moment.year % 400 == 0;
        if (moment.day < 1 || moment.day > lengths[moment.month - 1] ||
            (moment.month == 2 && moment.day == 29 && !leap) || moment.hour > 23 || moment.minute > 59 ||
            moment.second > 60)
            return false;
        *out_seconds = days_from_civil(moment.year, moment.month, moment.day) * 86400 + moment.hour * 3600 +
                       moment.minute * 60 + moment.second;
        return true;
    }
    return false;
}

static char *two(char *out, unsigned value)
{
    out[0] = (char)('0' + value / 10 % 10);
    out[1] = (char)('0' + value % 10);
    return out + 2;
}

void parse_http_date_format(int64_t seconds, char out[PARSE_HTTP_DATE_BYTES])
{
    /* Times are 64-bit nanoseconds since 1970, so the year has four digits. */
    if (seconds < 0 || seconds > INT64_MAX / 1000000000 * 2 + 1)
        seconds = 0;
    int64_t day = seconds / 86400;
    unsigned rest = (unsigned)(seconds % 86400);
    int64_t shifted = day + 719468, era = shifted / 146097, of_era = shifted % 146097;
    int64_t year_of_era = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    int64_t of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    unsigned from_march = (unsigned)(5 * of_year + 2) / 153;
    unsigned month = from_march < 10 ? from_march + 3 : from_march - 9;
    unsigned year = (unsigned)(year_of_era + era * 400 + (month <= 2));
    unsigned of_month = (unsigned)of_year - (153 * from_march + 2) / 5 + 1;

    memcpy(out, days[(day + 4) % 7], 3);
    memcpy(out + 3, ", ", 2);
    char *at = two(out + 5, of_month);
    *at++ = ' ';
    memcpy(at, months[month - 1], 3);
    at[3] = ' ';
    at = two(two(at + 4, year / 100), year % 100);
    *at++ = ' ';
    at = two(at, rest / 3600);
    *at++ = ':';
    at = two(at, rest / 60 % 60);
    *at++ = ':';
    at = two(at, rest % 60);
    memcpy(at, " GMT", 5);
}
