// The part of C's library that a module and the code generated for it need. `instarctl module build` adds it.
//
// Every call of a module has an instance of its own, whose memory is thrown away behind it. So nothing is ever given
// back here: `free` does nothing, and there is no cheaper allocator.

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define PAGE_BYTES 65536
#define ALIGN_BYTES 16

// Set by the linker: where the program's own data ends.
extern unsigned char __heap_base;

static uintptr_t heap_end;

// What stands before everything that was allocated.
typedef struct {
  size_t size;
  uint8_t padding[ALIGN_BYTES - sizeof(size_t)];
} header;

void *malloc(size_t size) {
  if (heap_end == 0) {
    heap_end = ((uintptr_t)&__heap_base + ALIGN_BYTES - 1) & ~(uintptr_t)(ALIGN_BYTES - 1);
  }
  uint64_t end = (uint64_t)heap_end + sizeof(header) + (uint64_t)size;
  end = (end + ALIGN_BYTES - 1) & ~(uint64_t)(ALIGN_BYTES - 1);
  uint64_t there = (uint64_t)__builtin_wasm_memory_size(0) * PAGE_BYTES;
  if (end > there) {
    uint64_t pages = (end - there + PAGE_BYTES - 1) / PAGE_BYTES;
    if (pages > 65536 || __builtin_wasm_memory_grow(0, (size_t)pages) == (size_t)-1) {
      return NULL;
    }
  }
  header *allocated = (header *)heap_end;
  allocated->size = size;
  heap_end = (uintptr_t)end;
  return allocated + 1;
}

void *calloc(size_t count, size_t size) {
  size_t bytes;
  if (__builtin_mul_overflow(count, size, &bytes)) {
    return NULL;
  }
  // Memory that was never used is zero.
  return malloc(bytes);
}

void *realloc(void *allocated, size_t size) {
  if (allocated == NULL) {
    return malloc(size);
  }
  size_t before = ((header *)allocated - 1)->size;
  if (size <= before) {
    return allocated;
  }
  void *larger = malloc(size);
  return larger == NULL ? NULL : memcpy(larger, allocated, before);
}

void free(void *allocated) { (void)allocated; }

void abort(void) { __builtin_trap(); }

// With bulk memory, each of these three is one instruction.
void *memcpy(void *restrict to, const void *restrict from, size_t size) {
  return __builtin_memcpy(to, from, size);
}

void *memmove(void *to, const void *from, size_t size) { return __builtin_memmove(to, from, size); }

void *memset(void *to, int byte, size_t size) { return __builtin_memset(to, byte, size); }

int memcmp(const void *left, const void *right, size_t size) {
  const uint8_t *a = left, *b = right;
  for (size_t at = 0; at < size; at++) {
    if (a[at] != b[at]) {
      return a[at] < b[at] ? -1 : 1;
    }
  }
  return 0;
}

void *memchr(const void *bytes, int byte, size_t size) {
  const uint8_t *from = bytes;
  for (size_t at = 0; at < size; at++) {
    if (from[at] == (uint8_t)byte) {
      return (void *)(from + at);
    }
  }
  return NULL;
}

size_t strlen(const char *text) {
  size_t length = 0;
  while (text[length] != 0) {
    length++;
  }
  return length;
}
