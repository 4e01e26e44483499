/* Server reflection: what a generic client asks to learn the interface from a running gateway. Answers come from the
 * embedded descriptors. Pure; any thread. */
#ifndef GATEWAY_REFLECTION_H
#define GATEWAY_REFLECTION_H

#include "api/proto/reflection.pb-c.h"
#include "core/base/buf.h"

/* Appends the packed ServerReflectionResponse to one request: also what is wrong with it is a response. Both versions
 * of the service (v1alpha, v1) have the same messages. MEMORY alone. */
enum sluice_status reflection_answer(const Grpc__Reflection__V1alpha__ServerReflectionRequest *request,
                                     struct bytes *out) SLUICE_MUST_CHECK;

#endif
