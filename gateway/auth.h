/* Bearer tokens: who may do what below which prefix. A loaded set is immutable; any thread may ask it. */
#ifndef GATEWAY_AUTH_H
#define GATEWAY_AUTH_H

#include <stdbool.h>
#include <stddef.h>

#include "api/sluice_status.h"

enum auth_role { AUTH_READ = 1, AUTH_WRITE, AUTH_ADMIN }; /* each includes those before it */

struct auth;
/* Who a request comes from; lives as long as the set. */
struct auth_subject;

/* A set without tokens, which allows everything. NULL: no memory. */
struct auth *auth_create_open(void);
/* From a JSON document:
 * {"tokens":[{"token":"…" or "sha256":"64 hex digits","role":"read|write|admin","prefix":"farm/","subject":"name"}]}.
 * `prefix` ends at a segment ("farm" and "farm/" are the same; absent or empty: everything); the same token may stand
 * in several entries. INVALID, IO or MEMORY, and `error` says where. */
enum sluice_status auth_create_from_json(const char *text, size_t size, struct auth **out, char *error,
                                         size_t error_size) SLUICE_MUST_CHECK;
enum sluice_status auth_create_from_file(const char *path, struct auth **out, char *error,
                                         size_t error_size) SLUICE_MUST_CHECK;
void auth_destroy(struct auth *self);
/* No tokens: everything is allowed. */
bool auth_is_open(const struct auth *self);

/* `authorization`: the header's value, NULL where there is none. UNAUTHENTICATED with a static sentence. Takes the same
 * time whichever token is nearly right. */
enum sluice_status auth_login(const struct auth *self, const char *authorization, size_t size,
                              const struct auth_subject **out, const char **why) SLUICE_MUST_CHECK;
/* For the scope of Idempotency-Keys; NULL where there are no tokens. */
const char *auth_subject_name(const struct auth_subject *subject);

/* OK, or FORBIDDEN with a static sentence. Keys below _sluice/ need admin of everything. */
enum sluice_status auth_key(const struct auth_subject *subject, enum auth_role role, const char *key, size_t size,
                            const char **why) SLUICE_MUST_CHECK;
/* Everything that begins with the plain bytes `prefix`: of a list, or what all matches of a watch's pattern begin with.
 */
enum sluice_status auth_prefix(const struct auth_subject *subject, enum auth_role role, const char *prefix, size_t size,
                               const char **why) SLUICE_MUST_CHECK;
/* A pool: `prefix` without a slash at its end, empty for the root. */
enum sluice_status auth_pool(const struct auth_subject *subject, enum auth_role role, const char *prefix, size_t size,
                             const char **why) SLUICE_MUST_CHECK;
/* Lambdas and whatever else concerns the whole store. */
enum sluice_status auth_everything(const struct auth_subject *subject, enum auth_role role,
                                   const char **why) SLUICE_MUST_CHECK;
/* Is it below _sluice/? What the `admin` of sluice_call and sluice_watch_options has to say once auth_… has allowed it:
 * internal objects are seen by those who name them, so a list of everything stays one of the users' objects. */
bool auth_internal(const char *key_or_prefix, size_t size);

#endif
