#include <stdio.h>
#include <string.h>

#include "api/descriptors.h"
#include "core/base/panic.h"
#include "gateway/protowire.h"
#include "gateway/reflection.h"

/* Field numbers of google/protobuf/descriptor.proto. */
enum { SET_FILE = 1 };
enum { FILE_NAME = 1, FILE_PACKAGE, FILE_DEPENDENCY, FILE_MESSAGE, FILE_ENUM, FILE_SERVICE };
enum { MESSAGE_NAME = 1, MESSAGE_FIELD, MESSAGE_NESTED, MESSAGE_ENUM, MESSAGE_ONEOF = 8 };
enum { SERVICE_NAME = 1, SERVICE_METHOD };
enum { ENUM_NAME = 1, ENUM_VALUE };
enum { LEAF_NAME = 1 }; /* of fields, oneofs, methods and enum values */

#define FILES_MAX        32
#define SERVICES_MAX     64
#define SYMBOL_BYTES_MAX 256

#define NOT_FOUND        5
#define INVALID_ARGUMENT 3

typedef Grpc__Reflection__V1alpha__ServerReflectionRequest request_type;
typedef Grpc__Reflection__V1alpha__ServerReflectionResponse response_type;

/* What we embedded ourselves is well-formed. */
static bool next(struct slice *rest, struct protowire_field *out)
{
    int more = protowire_next(rest, out);
    ASSERT(more >= 0);
    return more == 1;
}

static struct slice first(struct slice message, uint32_t number)
{
    struct protowire_field field;
    while (next(&message, &field))
        if (field.number == number && field.type == PROTOWIRE_BYTES)
            return field.bytes;
    return (struct slice){"", 0};
}

static bool equal(struct slice a, struct slice b)
{
    return a.size == b.size && memcmp(a.data, b.data, a.size) == 0;
}

/* Drops "NAME." off the front of `symbol`, if it is there. */
static bool enter(struct slice *symbol, struct slice name)
{
    if (symbol->size <= name.size || memcmp(symbol->data, name.data, name.size) != 0 ||
        ((const char *)symbol->data)[name.size] != '.')
        return false;
    *symbol = (struct slice){(const char *)symbol->data + name.size + 1, symbol->size - name.size - 1};
    return true;
}

/* Is `symbol` the name of one of the elements `number` of `parent`? */
static bool names_leaf(struct slice parent, uint32_t number, struct slice symbol)
{
    struct protowire_field field;
    while (next(&parent, &field))
        if (field.number == number && equal(first(field.bytes, LEAF_NAME), symbol))
            return true;
    return false;
}

/* An enum's values are named in the scope around it. */
static bool names_enum(struct slice enumeration, struct slice symbol)
{
    return equal(first(enumeration, ENUM_NAME), symbol) || names_leaf(enumeration, ENUM_VALUE, symbol);
}

static bool names_message(struct slice message, struct slice symbol)
{
    struct slice name = first(message, MESSAGE_NAME);
    if (equal(name, symbol))
        return true;
    if (!enter(&symbol, name))
        return false;
    if (names_leaf(message, MESSAGE_FIELD, symbol) || names_leaf(message, MESSAGE_ONEOF, symbol))
        return true;
    struct protowire_field field;
    while (next(&message, &field))
        if ((field.number == MESSAGE_NESTED && names_message(field.bytes, symbol)) ||
            (field.number == MESSAGE_ENUM && names_enum(field.bytes, symbol)))
            return true;
    return false;
}

static bool names_service(struct slice service, struct slice symbol)
{
    struct slice name = first(service, SERVICE_NAME);
    return equal(name, symbol) || (enter(&symbol, name) && names_leaf(service, SERVICE_METHOD, symbol));
}

static bool file_holds(struct slice file, struct slice symbol, bool messages_only)
{
    if (!enter(&symbol, first(file, FILE_PACKAGE)))
        return false;
    struct protowire_field field;
    while (next(&file, &field)) {
        if (field.number == FILE_MESSAGE && names_message(field.bytes, symbol))
            return true;
        if (messages_only)
            continue;
        if ((field.number == FILE_ENUM && names_enum(field.bytes, symbol)) ||
            (field.number == FILE_SERVICE && names_service(field.bytes, symbol)))
            return true;
    }
    return false;
}

static size_t files(struct slice out[FILES_MAX])
{
    struct slice set = {api_descriptors, api_descriptors_size};
    struct protowire_field field;
    size_t count = 0;
    while (next(&set, &field)) {
        ASSERT(field.number == SET_FILE && count < FILES_MAX);
        out[count++] = field.bytes;
    }
    return count;
}

static struct slice text(const char *string)
{
    return (struct slice){string, strlen(string)};
}

static enum sluice_status answer_error(response_type *response, int code, const char *message, struct bytes *out)
{
    Grpc__Reflection__V1alpha__ErrorResponse error = GRPC__REFLECTION__V1ALPHA__ERROR_RESPONSE__INIT;
    error.error_code = code;
    error.error_message = (char *)(uintptr_t)message;
    response->message_response_case =
        GRPC__REFLECTION__V1ALPHA__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ERROR_RESPONSE;
    response->error_response = &error;
    return protowire_append(out, &response->base);
}

/* The file and all that it depends on, each once. */
static enum sluice_status answer_file(response_type *response, const struct slice *all, size_t count, size_t chosen,
                                      struct bytes *out)
{
    ProtobufCBinaryData found[FILES_MAX];
    size_t order[FILES_MAX], size = 0;
    bool seen[FILES_MAX] = {false};
    order[size++] = chosen;
    seen[chosen] = true;
    for (size_t i = 0; i < size; i++) {
        struct slice file = all[order[i]];
        found[i] = (ProtobufCBinaryData){file.size, (uint8_t *)(uintptr_t)file.data};
        struct protowire_field field;
        while (next(&file, &field))
            for (size_t j = 0; field.number == FILE_DEPENDENCY && j < count; j++)
                if (!seen[j] && equal(first(all[j], FILE_NAME), field.bytes)) {
                    seen[j] = true;
                    order[size++] = j;
                }
    }
    Grpc__Reflection__V1alpha__FileDescriptorResponse reply = GRPC__REFLECTION__V1ALPHA__FILE_DESCRIPTOR_RESPONSE__INIT;
    reply.n_file_descriptor_proto = size;
    reply.file_descriptor_proto = found;
    response->message_response_case =
        GRPC__REFLECTION__V1ALPHA__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_FILE_DESCRIPTOR_RESPONSE;
    response->file_descriptor_response = &reply;
    return protowire_append(out, &response->base);
}

static enum sluice_status answer_services(response_type *response, const struct slice *all, size_t count,
                                          struct bytes *out)
{
    static const Grpc__Reflection__V1alpha__ServiceResponse blank = GRPC__REFLECTION__V1ALPHA__SERVICE_RESPONSE__INIT;
    Grpc__Reflection__V1alpha__ServiceResponse service[SERVICES_MAX], *services[SERVICES_MAX];
    char names[SERVICES_MAX][SYMBOL_BYTES_MAX];
    size_t size = 0;
    for (size_t i = 0; i < count; i++) {
        struct slice file = all[i], package = first(file, FILE_PACKAGE);
        struct protowire_field field;
        while (next(&file, &field)) {
            if (field.number != FILE_SERVICE)
                continue;
            struct slice name = first(field.bytes, SERVICE_NAME);
            ASSERT(size < SERVICES_MAX && package.size + name.size + 2 <= SYMBOL_BYTES_MAX);
            snprintf(names[size], SYMBOL_BYTES_MAX, "%.*s.%.*s", (int)package.size, (const char *)package.data,
                     (int)name.size, (const char *)name.data);
            service[size] = blank;
            service[size].name = names[size];
            services[size] = &service[size];
            size++;
        }
    }
    Grpc__Reflection__V1alpha__ListServiceResponse reply = GRPC__REFLECTION__V1ALPHA__LIST_SERVICE_RESPONSE__INIT;
    reply.n_service = size;
    reply.service = services;
    response->message_response_case =
        GRPC__REFLECTION__V1ALPHA__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_LIST_SERVICES_RESPONSE;
    response->list_services_response = &reply;
    return protowire_append(out, &response->base);
}

/* Nothing here has extensions: a message that is known has none. */
static enum sluice_status answer_extensions(response_type *response, const struct slice *all, size_t count,
                                            const char *type, struct bytes *out)
{
    for (size_t i = 0; i < count; i++)
        if (file_holds(all[i], text(type), true)) {
            Grpc__Reflection__V1alpha__ExtensionNumberResponse reply =
                GRPC__REFLECTION__V1ALPHA__EXTENSION_NUMBER_RESPONSE__INIT;
            reply.base_type_name = (char *)(uintptr_t)type;
            response->message_response_case =
                GRPC__REFLECTION__V1ALPHA__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ALL_EXTENSION_NUMBERS_RESPONSE;
            response->all_extension_numbers_response = &reply;
            return protowire_append(out, &response->base);
        }
    return answer_error(response, NOT_FOUND, "no message type has this name", out);
}

enum sluice_status reflection_answer(const request_type *request, struct bytes *out)
{
    struct slice all[FILES_MAX];
    size_t count = files(all);
    response_type response = GRPC__REFLECTION__V1ALPHA__SERVER_REFLECTION_RESPONSE__INIT;
    response.valid_host = request->host;
    response.original_request = (request_type *)(uintptr_t)request;

    switch (request->message_request_case) {
    case GRPC__REFLECTION__V1ALPHA__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_LIST_SERVICES:
        return answer_services(&response, all, count, out);
    case GRPC__REFLECTION__V1ALPHA__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_BY_FILENAME:
        for (size_t i = 0; i < count; i++)
            if (equal(first(all[i], FILE_NAME), text(request->file_by_filename)))
                return answer_file(&response, all, count, i, out);
        return answer_error(&response, NOT_FOUND, "no file has this name", out);
    case GRPC__REFLECTION__V1ALPHA__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_SYMBOL:
        for (size_t i = 0; i < count; i++)
            if (file_holds(all[i], text(request->file_containing_symbol), false))
                return answer_file(&response, all, count, i, out);
        return answer_error(&response, NOT_FOUND, "no service, method, message, field or enum has this name", out);
    case GRPC__REFLECTION__V1ALPHA__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_EXTENSION:
        return answer_error(&response, NOT_FOUND, "this interface has no extensions", out);
    case GRPC__REFLECTION__V1ALPHA__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_ALL_EXTENSION_NUMBERS_OF_TYPE:
        return answer_extensions(&response, all, count, request->all_extension_numbers_of_type, out);
    default:
        return answer_error(&response, INVALID_ARGUMENT,
                            "expected list_services, file_by_filename, file_containing_symbol, "
                            "file_containing_extension or all_extension_numbers_of_type",
                            out);
    }
}
