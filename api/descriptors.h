/* The descriptors of everything in api/proto (a google.protobuf.FileDescriptorSet), embedded when building: reflection
 * answers from them. */
#ifndef SLUICE_DESCRIPTORS_H
#define SLUICE_DESCRIPTORS_H

#include <stddef.h>

extern const unsigned char api_descriptors[];
extern const size_t api_descriptors_size;

#endif
