#include <criterion/criterion.h>
#include <string.h>

#include "gateway/protowire.h"
#include "gateway/reflection.h"

typedef Grpc__Reflection__V1alpha__ServerReflectionRequest request_type;
typedef Grpc__Reflection__V1alpha__ServerReflectionResponse response_type;
#define REQUEST(kind)  GRPC__REFLECTION__V1ALPHA__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_##kind
#define RESPONSE(kind) GRPC__REFLECTION__V1ALPHA__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_##kind

static response_type *ask_request(const request_type *request)
{
    struct bytes packed = {0};
    cr_assert_eq(reflection_answer(request, &packed), SLUICE_OK);
    response_type *response =
        grpc__reflection__v1alpha__server_reflection_response__unpack(NULL, packed.size, packed.data);
    cr_assert_not_null(response);
    bytes_free(&packed);
    return response;
}

static response_type *ask(int kind, const char *text)
{
    request_type request = GRPC__REFLECTION__V1ALPHA__SERVER_REFLECTION_REQUEST__INIT;
    request.host = (char *)(uintptr_t) "a.host";
    request.message_request_case = kind;
    request.file_by_filename = (char *)(uintptr_t)text; /* all texts share a union */
    return ask_request(&request);
}

static void done(response_type *response)
{
    grpc__reflection__v1alpha__server_reflection_response__free_unpacked(response, NULL);
}

/* Field 1 of a FileDescriptorProto. */
static void assert_file(const response_type *response, const char *name)
{
    cr_assert_eq(response->message_response_case, RESPONSE(FILE_DESCRIPTOR_RESPONSE), "for %s", name);
    cr_assert_eq(response->file_descriptor_response->n_file_descriptor_proto, 1);
    const ProtobufCBinaryData *file = &response->file_descriptor_response->file_descriptor_proto[0];
    struct slice rest = {file->data, file->len};
    struct protowire_field field;
    cr_assert_eq(protowire_next(&rest, &field), 1);
    cr_assert_eq(field.number, 1);
    cr_assert_eq(field.bytes.size, strlen(name));
    cr_assert_eq(memcmp(field.bytes.data, name, field.bytes.size), 0);
}

Test(reflection, lists_all_services)
{
    static const char *const wanted[] = {"sluice.v1.Store",
                                         "sluice.v1.Lambdas",
                                         "sluice.v1.Cluster",
                                         "grpc.health.v1.Health",
                                         "grpc.reflection.v1alpha.ServerReflection",
                                         "grpc.reflection.v1.ServerReflection"};
    size_t count = sizeof(wanted) / sizeof(wanted[0]);
    response_type *response = ask(REQUEST(LIST_SERVICES), "*");
    cr_assert_eq(response->message_response_case, RESPONSE(LIST_SERVICES_RESPONSE));
    cr_assert_eq(response->list_services_response->n_service, count);
    for (size_t i = 0; i < count; i++) {
        bool found = false;
        for (size_t j = 0; j < count; j++)
            found |= strcmp(response->list_services_response->service[j]->name, wanted[i]) == 0;
        cr_assert(found, "%s", wanted[i]);
    }
    cr_assert_str_eq(response->valid_host, "a.host");
    cr_assert_str_eq(response->original_request->list_services, "*");
    done(response);
}

Test(reflection, finds_files_by_their_names)
{
    static const char *const names[] = {"api/proto/sluice.proto", "api/proto/health.proto",
                                        "api/proto/reflection.proto", "api/proto/reflection_v1.proto"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        response_type *response = ask(REQUEST(FILE_BY_FILENAME), names[i]);
        assert_file(response, names[i]);
        done(response);
    }
}

Test(reflection, finds_the_file_of_a_symbol_of_any_kind)
{
    static const struct {
        const char *symbol, *file;
    } cases[] = {
        {"sluice.v1.Store", "api/proto/sluice.proto"},
        {"sluice.v1.Store.Put", "api/proto/sluice.proto"},
        {"sluice.v1.PutRequest", "api/proto/sluice.proto"},
        {"sluice.v1.PutRequest.if_version", "api/proto/sluice.proto"},
        {"sluice.v1.Operation.kind", "api/proto/sluice.proto"},
        {"sluice.v1.Ack", "api/proto/sluice.proto"},
        {"sluice.v1.ACK_DELIVERED", "api/proto/sluice.proto"},
        {"sluice.v1.WatchEvent.Type", "api/proto/sluice.proto"},
        {"sluice.v1.WatchEvent.PROGRESS", "api/proto/sluice.proto"},
        {"grpc.health.v1.Health.Watch", "api/proto/health.proto"},
        {"grpc.reflection.v1alpha.ServerReflection", "api/proto/reflection.proto"},
        {"grpc.reflection.v1.ServerReflection", "api/proto/reflection_v1.proto"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        response_type *response = ask(REQUEST(FILE_CONTAINING_SYMBOL), cases[i].symbol);
        assert_file(response, cases[i].file);
        done(response);
    }
}

Test(reflection, what_is_unknown_is_an_error_response)
{
    static const struct {
        int kind;
        const char *text;
    } cases[] = {
        {REQUEST(FILE_BY_FILENAME), "api/proto/none.proto"},
        {REQUEST(FILE_BY_FILENAME), ""},
        {REQUEST(FILE_CONTAINING_SYMBOL), "sluice.v1"},
        {REQUEST(FILE_CONTAINING_SYMBOL), "sluice.v1."},
        {REQUEST(FILE_CONTAINING_SYMBOL), "sluice.v1.Put"},
        {REQUEST(FILE_CONTAINING_SYMBOL), "sluice.v1.PutRequest."},
        {REQUEST(FILE_CONTAINING_SYMBOL), "sluice.v1.PutRequest.no_field"},
        {REQUEST(FILE_CONTAINING_SYMBOL), "sluice.v1.Store.Put.more"},
        {REQUEST(FILE_CONTAINING_SYMBOL), ""},
        {REQUEST(ALL_EXTENSION_NUMBERS_OF_TYPE), "sluice.v1.None"},
        {REQUEST(ALL_EXTENSION_NUMBERS_OF_TYPE), "sluice.v1.Store"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        response_type *response = ask(cases[i].kind, cases[i].text);
        cr_assert_eq(response->message_response_case, RESPONSE(ERROR_RESPONSE), "%s", cases[i].text);
        cr_assert_eq(response->error_response->error_code, 5);
        cr_assert_str_eq(response->original_request->file_by_filename, cases[i].text);
        done(response);
    }
}

Test(reflection, extensions_are_none)
{
    response_type *response = ask(REQUEST(ALL_EXTENSION_NUMBERS_OF_TYPE), "sluice.v1.PutRequest");
    cr_assert_eq(response->message_response_case, RESPONSE(ALL_EXTENSION_NUMBERS_RESPONSE));
    cr_assert_str_eq(response->all_extension_numbers_response->base_type_name, "sluice.v1.PutRequest");
    cr_assert_eq(response->all_extension_numbers_response->n_extension_number, 0);
    done(response);

    Grpc__Reflection__V1alpha__ExtensionRequest extension = GRPC__REFLECTION__V1ALPHA__EXTENSION_REQUEST__INIT;
    request_type request = GRPC__REFLECTION__V1ALPHA__SERVER_REFLECTION_REQUEST__INIT;
    extension.containing_type = (char *)(uintptr_t) "sluice.v1.PutRequest";
    extension.extension_number = 100;
    request.message_request_case = REQUEST(FILE_CONTAINING_EXTENSION);
    request.file_containing_extension = &extension;
    response = ask_request(&request);
    cr_assert_eq(response->message_response_case, RESPONSE(ERROR_RESPONSE));
    cr_assert_eq(response->error_response->error_code, 5);
    done(response);
}

Test(reflection, a_request_for_nothing_is_invalid)
{
    response_type *response = ask(GRPC__REFLECTION__V1ALPHA__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST__NOT_SET, "");
    cr_assert_eq(response->message_response_case, RESPONSE(ERROR_RESPONSE));
    cr_assert_eq(response->error_response->error_code, 3);
    done(response);
}
