/* Says in words why a file can't be a lambda on this machine, before the loader says it in its own. */
#include <elf.h>
#include <stdio.h>
#include <string.h>

#include "core/lambda/lambda__.h"

#if defined(__x86_64__)
#define OWN_MACHINE EM_X86_64
#elif defined(__aarch64__)
#define OWN_MACHINE EM_AARCH64
#elif defined(__riscv)
#define OWN_MACHINE EM_RISCV
#elif defined(__powerpc64__)
#define OWN_MACHINE EM_PPC64
#elif defined(__s390x__)
#define OWN_MACHINE EM_S390
#else
#error "name this machine's ELF number"
#endif
#define OWN_DATA (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? ELFDATA2LSB : ELFDATA2MSB)

static const char *machine_name(unsigned machine, char number[32])
{
    static const struct {
        unsigned machine;
        const char *name;
    } names[] = {
        {EM_386, "32-bit x86"},  {EM_X86_64, "x86-64"}, {EM_ARM, "32-bit Arm"},
        {EM_AARCH64, "AArch64"}, {EM_RISCV, "RISC-V"},  {EM_PPC64, "POWER"},
        {EM_S390, "s390x"},      {EM_MIPS, "MIPS"},     {EM_SPARCV9, "SPARC"},
    };
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (names[i].machine == machine)
            return names[i].name;
    snprintf(number, 32, "machine %u", machine);
    return number;
}

static bool looks_like_text(const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < size && i < 512; i++)
        if (data[i] == 0x7f || (data[i] < 0x20 && data[i] != '\n' && data[i] != '\r' && data[i] != '\t'))
            return false;
    return true;
}

/* What the file is, when it is no ELF file. */
static const char *other_kind(const uint8_t *data, size_t size)
{
    static const struct {
        const char *magic;
        size_t size;
        const char *kind;
    } kinds[] = {
        {"#!", 2, "a script"},
        {"!<arch>\n", 8, "a static archive (.a)"},
        {"PK\003\004", 4, "a zip archive"},
        {"\037\213", 2, "a gzip file"},
        {"\0asm", 4, "a WebAssembly module"},
        {"\317\372\355\376", 4, "a Mach-O file (macOS)"},
        {"\312\376\272\276", 4, "a Mach-O file (macOS) or a Java class"},
        {"MZ", 2, "a Windows file"},
    };
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
        if (size >= kinds[i].size && memcmp(data, kinds[i].magic, kinds[i].size) == 0)
            return kinds[i].kind;
    return looks_like_text(data, size) ? "a text file" : "no ELF file";
}

/* The loader maps what the program headers name, and dies of what is missing behind the end. */
static bool cut_off(const uint8_t *bytes, size_t size, const Elf64_Ehdr *header)
{
    if (header->e_phentsize != sizeof(Elf64_Phdr) || header->e_phoff > size ||
        header->e_phnum > (size - header->e_phoff) / sizeof(Elf64_Phdr))
        return true;
    for (size_t i = 0; i < header->e_phnum; i++) {
        Elf64_Phdr segment;
        memcpy(&segment, bytes + header->e_phoff + i * sizeof(segment), sizeof(segment));
        if (segment.p_type != PT_NULL && (segment.p_offset > size || segment.p_filesz > size - segment.p_offset))
            return true;
    }
    return false;
}

const char *lambda__file_error(const void *data, size_t size, char words[LAMBDA__ERROR_BYTES])
{
    static const char wanted[] = "a lambda is a shared object (cc -shared -fPIC)";
    const uint8_t *bytes = data;
    char number[2][32];
    if (size == 0) {
        snprintf(words, LAMBDA__ERROR_BYTES, "the file is empty; %s", wanted);
        return words;
    }
    if (size < SELFMAG || memcmp(bytes, ELFMAG, SELFMAG) != 0) {
        snprintf(words, LAMBDA__ERROR_BYTES, "this is %s; %s", other_kind(bytes, size), wanted);
        return words;
    }
    /* The first fields of a header lie alike in both classes, up to the machine. */
    Elf64_Ehdr header;
    if (size < sizeof(header)) {
        snprintf(words, LAMBDA__ERROR_BYTES, "this ELF file ends within its header, after %zu bytes; was it cut off?",
                 size);
        return words;
    }
    memcpy(&header, bytes, sizeof(header));
    if (header.e_ident[EI_DATA] != OWN_DATA) {
        snprintf(words, LAMBDA__ERROR_BYTES, "built for a %s-endian machine, this node is %s",
                 header.e_ident[EI_DATA] == ELFDATA2MSB ? "big" : "little", machine_name(OWN_MACHINE, number[0]));
        return words;
    }
    if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_machine != OWN_MACHINE) {
        snprintf(words, LAMBDA__ERROR_BYTES, "built for %s%s, this node is %s",
                 header.e_ident[EI_CLASS] == ELFCLASS32 && header.e_machine == OWN_MACHINE ? "the 32-bit kind of " : "",
                 machine_name(header.e_machine, number[0]), machine_name(OWN_MACHINE, number[1]));
        return words;
    }
    if (header.e_type != ET_DYN) {
        snprintf(words, LAMBDA__ERROR_BYTES, "this is %s; %s",
                 header.e_type == ET_REL    ? "an object file (.o)"
                 : header.e_type == ET_EXEC ? "a program"
                 : header.e_type == ET_CORE ? "a core dump"
                                            : "an ELF file of an unknown type",
                 wanted);
        return words;
    }
    if (cut_off(bytes, size, &header)) {
        snprintf(words, LAMBDA__ERROR_BYTES,
                 "this ELF file names parts that lie behind its end at %zu bytes; was it cut off?", size);
        return words;
    }
    return NULL;
}
